//! Step 7: which of the guard's programs a node runs, and who answers the prctl there. Both are fixed when the
//! guard is attached; programs that are pinned say by their directory's name which they are.

use clap::ValueEnum;

use super::support::Kernel;
use crate::{arm::plan::Provider, cores::set::CpuSet};

/// How kernel entries are seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detector {
    /// context_tracking:user_exit and user_enter. Costs other CPUs' system calls nothing.
    Edge,
    /// raw_syscalls, exceptions:page_fault_user and the interrupts' own tracepoints.
    Tracepoint,
}

/// Which detectors a node may run. Both see every entry; Tracepoint taxes each system call of the whole node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Allowed {
    /// Edge where all cores are in nohz_full, else Tracepoint
    Auto,
    /// No other: refuses to start where a core is not in nohz_full
    Edge,
    /// Also where Edge could be
    Tracepoint,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotEdge {
    #[error(
        "this kernel has no context_tracking tracepoints, and --detector edge allows no other detector: use a kernel \
         with CONFIG_NO_HZ_FULL, or --detector auto, which makes each system call of this node some 100 ns slower"
    )]
    Kernel,
    #[error(
        "CPUs {cpus} are not in nohz_full, and --detector edge allows no other detector: boot with nohz_full={cpus}, or \
         take --detector auto, which makes each system call of this node some 100 ns slower"
    )]
    Ticking { cpus: CpuSet },
}

/// What a program's section begins with; then comes its tracepoint's name.
const TRACEPOINTS: [&str; 2] = ["tp_btf/", "raw_tp/"];
const ONLY_EDGE: [&str; 3] = ["qc_user_exit", "qc_user_enter", "qc_tick_stop"];
const ONLY_TRACEPOINT: [&str; 3] = ["qc_sys_enter", "qc_sys_exit", "qc_waking"];
pub(super) const PRCTL: &str = "qc_task_prctl";

impl Detector {
    pub const ALL: [Detector; 2] = [Detector::Edge, Detector::Tracepoint];

    /// As the node's status shows it.
    pub fn name(self) -> &'static str {
        match self {
            Detector::Edge => "Edge",
            Detector::Tracepoint => "Tracepoint",
        }
    }

    /// The better one that sees every entry on all of `cores`.
    pub fn choose(kernel: &Kernel, cores: &CpuSet, nohz_full: Option<&CpuSet>) -> Detector {
        match Detector::why_not_edge(kernel, cores, nohz_full) {
            None => Detector::Edge,
            Some(_) => Detector::Tracepoint,
        }
    }

    /// The one that the node's owner allows.
    pub fn choose_of(
        allowed: Allowed,
        kernel: &Kernel,
        cores: &CpuSet,
        nohz_full: Option<&CpuSet>,
    ) -> Result<Detector, NotEdge> {
        match (allowed, Detector::why_not_edge(kernel, cores, nohz_full)) {
            (Allowed::Tracepoint, _) | (Allowed::Auto, Some(_)) => Ok(Detector::Tracepoint),
            (Allowed::Edge, Some(why)) => Err(why),
            (Allowed::Auto | Allowed::Edge, None) => Ok(Detector::Edge),
        }
    }

    fn why_not_edge(kernel: &Kernel, cores: &CpuSet, nohz_full: Option<&CpuSet>) -> Option<NotEdge> {
        if !["user_exit", "user_enter"].iter().all(|name| kernel.has_tracepoint(name)) {
            return Some(NotEdge::Kernel);
        }
        let ticking = nohz_full.map_or_else(|| Some(cores.clone()), |full| cores.without(full));
        ticking.map(|cpus| NotEdge::Ticking { cpus })
    }

    fn has(self, program: &str) -> bool {
        match self {
            Detector::Edge => !ONLY_TRACEPOINT.contains(&program),
            Detector::Tracepoint => !ONLY_EDGE.contains(&program),
        }
    }
}

/// A set of programs: what is attached, pinned and adopted as one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Variant {
    pub(super) detector: Detector,
    pub(super) provider: Provider,
}

impl Variant {
    pub(super) fn attaches(self, kernel: &Kernel, program: &str, section: &str) -> bool {
        if program == PRCTL {
            return self.provider == Provider::Lsm;
        }
        let name = TRACEPOINTS.iter().find_map(|prefix| section.strip_prefix(prefix));
        let exists = name.is_some_and(|name| kernel.has_tracepoint(name));
        exists && self.detector.has(program)
    }

    /// Part of its directory's name.
    pub(super) fn name(self) -> String {
        format!("{}-{}", self.detector.name(), self.provider.name()).to_lowercase()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edge_needs_every_core_in_nohz_full() {
        let kernel = Kernel::probe().unwrap();
        let choose = |cores: &str, nohz_full: &str| {
            Detector::choose(&kernel, &cores.parse().unwrap(), nohz_full.parse().ok().as_ref())
        };
        assert_eq!(choose("1-3", "1"), Detector::Tracepoint);
        assert_eq!(choose("1", ""), Detector::Tracepoint);
    }

    #[test]
    fn what_the_owner_does_not_allow_is_refused_with_the_way_out() {
        // Without context tracking's tracepoints no core of this machine could have Edge.
        let kernel = Kernel::probe().unwrap();
        let choose = |allowed| {
            let (cores, full) = ("1-3".parse().unwrap(), "1".parse().ok());
            Detector::choose_of(allowed, &kernel, &cores, full.as_ref())
        };
        assert_eq!(choose(Allowed::Auto), Ok(Detector::Tracepoint));
        assert_eq!(choose(Allowed::Tracepoint), Ok(Detector::Tracepoint));
        let refused = choose(Allowed::Edge).unwrap_err().to_string();
        assert!(refused.contains("--detector edge allows no other detector"), "{refused}");
        let ticking = NotEdge::Ticking { cpus: "2-3".parse().unwrap() }.to_string();
        assert!(ticking.starts_with("CPUs 2-3 are not in nohz_full"), "{ticking}");
    }

    #[test]
    fn a_variant_is_known_by_its_name() {
        let variant = Variant { detector: Detector::Edge, provider: Provider::Lsm };
        assert_eq!(variant.name(), "edge-lsm");
    }
}
