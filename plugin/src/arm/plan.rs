//! Step 6: the shim's plan, the one argument it is told everything by.
//!
//! Pure. `shim/src/plan.rs` reads what this writes; e2e tests hold the two together.

use crate::{
    cores::set::CpuSet,
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
}

pub fn shim_plan(cpus: &CpuSet, policy: &Effective, provider: Provider) -> String {
    let provider = if provider.needs_filter(policy) { "seccomp" } else { "none" };
    let arm = match policy.arm_at {
        // A thread that settles is armed from outside; it may make the prctl all the same.
        ArmAt::Prctl | ArmAt::Settled => "prctl",
        ArmAt::Exec => "exec",
    };
    let locked = if policy.locked { "yes" } else { "no" };
    format!("v1 cpus={cpus} provider={provider} arm={arm} locked={locked}")
}
