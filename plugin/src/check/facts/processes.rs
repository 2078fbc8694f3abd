//! One walk through /proc for all who ask for a process by its name.

use super::tree::Tree;
use crate::cores::set::CpuSet;

#[derive(Debug, Default)]
pub struct Processes(Vec<Process>);

#[derive(Debug, Clone)]
pub struct Process {
    pub pid: u32,
    /// At most 15 characters.
    pub comm: String,
    pub allowed: Option<CpuSet>,
}

/// Whoever is asked for here.
const KNOWN: [&str; 5] = ["irqbalance", "rcuo", "nri-", "koordlet", "dracpu"];

impl Processes {
    pub fn read(tree: &Tree) -> Processes {
        let pids = tree.names("proc").into_iter().filter_map(|name| name.parse::<u32>().ok());
        let known = pids.filter_map(|pid| {
            let comm = tree.text(&format!("proc/{pid}/comm"))?;
            KNOWN.iter().any(|name| comm.starts_with(name)).then(|| {
                let status = tree.text(&format!("proc/{pid}/status"));
                Process { pid, comm, allowed: status.as_deref().and_then(allowed) }
            })
        });
        Processes(known.collect())
    }

    pub fn named(&self, beginning: &str) -> impl Iterator<Item = &Process> {
        self.0.iter().filter(move |process| process.comm.starts_with(beginning))
    }
}

fn allowed(status: &str) -> Option<CpuSet> {
    status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.parse().ok()
}
