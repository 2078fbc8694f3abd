//! Step 6: the shim's plan, the one argument it is told everything by.
//!
//! Pure. `shim/src/plan.rs` reads what this writes; e2e tests hold the two together.

use crate::{
    cores::set::CpuSet,
    guard::detector::Detector,
    policy::effective::{ArmAt, Effective},
};

/// Where the shim lies inside a strict container.
pub const SHIM_PATH: &str = "/.quietcore/shim";

/// Who answers the prctl. Which one a node uses is decided once, at agent start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// The kernel itself.
    Native,
    /// A BPF LSM program, with the exact errno.
    Lsm,
    /// A seccomp filter that the shim adds. It needs no_new_privs.
    Seccomp,
}

impl Provider {
    /// As the node's status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Provider::Native => "Native",
            Provider::Lsm => "Lsm",
            Provider::Seccomp => "Seccomp",
        }
    }

    /// A program that is armed by its exec never makes the prctl itself, so it needs no one to answer it.
    pub fn needs_filter(self, policy: &Effective) -> bool {
        self == Provider::Seccomp && policy.arm_at == ArmAt::Prctl
    }

    /// A filter answers the prctl without a look at the CPU. On one that is not granted only the detector
    /// Tracepoint sees the call, and says that it was refused; with the other the thread would believe to be armed.
    pub fn misleads(self, detector: Detector, policy: &Effective) -> bool {
        0 < policy.cores.shared && self.needs_filter(policy) && detector == Detector::Edge
    }
}

pub fn shim_plan(cpus: &CpuSet, shared: Option<&CpuSet>, policy: &Effective, provider: Provider) -> String {
    let shared = shared.map_or_else(|| "none".to_owned(), CpuSet::to_string);
    let provider = if provider.needs_filter(policy) { "seccomp" } else { "none" };
    let arm = match policy.arm_at {
        // A thread that settles is armed from outside; it may make the prctl all the same.
        ArmAt::Prctl | ArmAt::Settled => "prctl",
        ArmAt::Exec => "exec",
    };
    let locked = if policy.locked { "yes" } else { "no" };
    format!("v2 cpus={cpus} shared={shared} provider={provider} arm={arm} locked={locked}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{accept::node_default, effective::CoresWanted};

    #[test]
    fn the_plan_is_what_the_shim_reads() {
        let policy = node_default();
        let [cpus, shared] = ["1,3-4", "0"].map(|list| list.parse::<CpuSet>().unwrap());
        let plan = shim_plan(&cpus, None, &policy, Provider::Seccomp);
        assert_eq!(plan, "v2 cpus=1,3-4 shared=none provider=seccomp arm=prctl locked=no");
        let policy = Effective { locked: true, arm_at: ArmAt::Settled, ..policy };
        let plan = shim_plan(&cpus, Some(&shared), &policy, Provider::Seccomp);
        assert_eq!(plan, "v2 cpus=1,3-4 shared=0 provider=none arm=prctl locked=yes");
    }

    #[test]
    fn only_a_filter_that_nobody_watches_on_a_shared_cpu_misleads() {
        let cores = CoresWanted { shared: 1, ..CoresWanted::default() };
        let shared = Effective { cores, ..node_default() };
        assert!(Provider::Seccomp.misleads(Detector::Edge, &shared));
        assert!(!Provider::Seccomp.misleads(Detector::Tracepoint, &shared));
        assert!(!Provider::Lsm.misleads(Detector::Edge, &shared));
        assert!(!Provider::Seccomp.misleads(Detector::Edge, &node_default()));
        let settled = Effective { arm_at: ArmAt::Settled, ..shared };
        assert!(!Provider::Seccomp.misleads(Detector::Edge, &settled));
    }
}
