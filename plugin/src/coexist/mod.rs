//! Beside steps 3 and 4: who else sets CPU masks on this node, found before the first pod fails of it.
//!
//! ```text
//! cpu_manager ── the kubelet's own file ──┐
//! peers ──────── what NRI shows of others ├─► Facts ── conflicts ─► condition Conflicted
//! pod_resources (step 3) ─────────────────┘
//! runtime_cpus ─ CPUs that another allocator gave (cores.from: Runtime): are they its alone?
//! alone ──────── one agent for a node
//! ```
//!
//! `watch`, `cpu_manager::read` and `alone` do IO; the rest is pure. Nothing here changes anything on the node.

pub mod cpu_manager;
pub mod known;
pub mod peers;
pub mod kubelet;
pub mod runtime_cpus;
pub mod alone;
pub mod watch;

use self::{cpu_manager::CpuManager, peers::Peers};
use crate::cores::set::CpuSet;

/// Somebody else on this node would take strict pods' CPUs, or have its own say about their cpusets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub who: String,
    pub what: String,
    /// What to change, with the exact names of settings.
    pub remedy: String,
}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}; {}", self.who, self.what, self.remedy)
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// CPUs that this node publishes as quietcore.io/core; `None` where it publishes none, and so takes none
    /// from anybody.
    pub published: Option<&'a CpuSet>,
    pub cpu_manager: &'a CpuManager,
    /// CPUs that the kubelet's static policy may give away, if it was asked.
    pub allocatable: Option<&'a CpuSet>,
    /// Containers under `cores.from: Runtime` that run here, as pod UID and name: theirs may be exclusive.
    pub from_runtime: &'a [(String, String)],
    pub peers: &'a Peers,
}

/// Each once, the kubelet's first. Empty: nothing is known that stands in the way.
pub fn conflicts(facts: &Facts<'_>) -> Vec<Conflict> {
    let mut found = kubelet::conflicts(facts);
    found.extend(known::conflicts(facts));
    found
}

/// A condition's message; it has room for 32 KiB, and a reader for less.
pub fn message(conflicts: &[Conflict]) -> String {
    const MAX_TOLD: usize = 8;
    let told: Vec<String> = conflicts.iter().take(MAX_TOLD).map(ToString::to_string).collect();
    match conflicts.len().saturating_sub(MAX_TOLD) {
        0 => told.join("\n"),
        n_more => format!("{}\nand {n_more} more", told.join("\n")),
    }
}

#[cfg(test)]
mod tests;
