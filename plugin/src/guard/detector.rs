//! Step 7: which of the guard's programs a node runs, and who answers the prctl there. Both are fixed when the
//! guard is attached; programs that are pinned say by their directory's name which they are.

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
        let edges = ["user_exit", "user_enter"].iter().all(|name| kernel.has_tracepoint(name));
        let all_full = nohz_full.is_some_and(|full| cores.without(full).is_none());
        match edges && all_full {
            true => Detector::Edge,
            false => Detector::Tracepoint,
        }
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
    fn a_variant_is_known_by_its_name() {
        let variant = Variant { detector: Detector::Edge, provider: Provider::Lsm };
        assert_eq!(variant.name(), "edge-lsm");
    }
}
