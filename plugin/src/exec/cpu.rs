//! Which CPU a command gets. The rule is pure; `Machine::read` has the facts.

use std::{collections::BTreeSet, path::Path};

use nix::{errno::Errno, unistd::Pid};

use crate::{
    cores::{
        affinity,
        set::{CpuId, CpuSet},
        topology::{Topology, TopologyError},
    },
    guard::{load::GuardError, pins},
};

#[derive(Debug, thiserror::Error)]
pub enum CpuError {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("look for an agent's grants")]
    Granted(#[from] GuardError),
    #[error("read quietcore's own CPU affinity")]
    Affinity(#[source] Errno),
    #[error(transparent)]
    Refused(#[from] CpuRefusal),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CpuRefusal {
    #[error("CPUs {missing} are not online (online: {online}): choose others by --cpu")]
    Offline { missing: CpuSet, online: CpuSet },
    #[error(
        "the agent on this machine has granted CPU {granted} to a strict container: choose another by --cpu"
    )]
    Granted { granted: CpuSet },
    #[error(
        "CPU {chosen} is all that quietcore itself may run on ({allowed}): the command's core must be its own, so it needs \
         a machine, or a cpuset, with another CPU"
    )]
    NoOther { chosen: CpuSet, allowed: CpuSet },
}

/// What the choice is made from.
#[derive(Debug, Clone)]
pub struct Machine {
    pub topology: Topology,
    pub isolated: Option<CpuSet>,
    /// quietcore's own affinity.
    pub allowed: CpuSet,
    /// By a running agent, to strict containers.
    pub granted: Option<CpuSet>,
}

impl Machine {
    pub fn read(sys: &Path, pins: &Path) -> Result<Machine, CpuError> {
        let topology = Topology::read(sys)?;
        let isolated = read_list(&sys.join("devices/system/cpu/isolated"));
        let allowed = affinity::of(Pid::from_raw(0)).map_err(CpuError::Affinity)?;
        Ok(Machine { topology, isolated, allowed, granted: pins::granted(pins)? })
    }

    fn is_granted(&self, cpu: CpuId) -> bool {
        self.granted.as_ref().is_some_and(|granted| granted.contains(cpu))
    }
}

/// `None` where the file is not there, or empty.
pub fn read_list(path: &Path) -> Option<CpuSet> {
    std::fs::read_to_string(path).ok()?.parse().ok()
}

pub fn choose(asked: Option<&CpuSet>, machine: &Machine) -> Result<CpuSet, CpuRefusal> {
    let chosen = match asked {
        Some(asked) => asked.clone(),
        None => CpuSet::from(default(machine)),
    };
    if let Some(missing) = chosen.without(&machine.topology.online) {
        return Err(CpuRefusal::Offline { missing, online: machine.topology.online.clone() });
    }
    let granted: BTreeSet<CpuId> = chosen.iter().filter(|cpu| machine.is_granted(*cpu)).collect();
    if let Some(granted) = CpuSet::new(granted) {
        return Err(CpuRefusal::Granted { granted });
    }
    if machine.allowed.without(&chosen).is_none() {
        return Err(CpuRefusal::NoOther { chosen, allowed: machine.allowed.clone() });
    }
    Ok(chosen)
}

fn default(machine: &Machine) -> CpuId {
    let online = &machine.topology.online;
    let free = |cpus: &CpuSet| cpus.iter().find(|cpu| online.contains(*cpu) && !machine.is_granted(*cpu));
    let quiet = [&machine.isolated, &machine.topology.nohz_full].into_iter().flatten().find_map(free);
    quiet.unwrap_or_else(|| {
        let last_free = machine.allowed.iter().filter(|cpu| !machine.is_granted(*cpu)).last();
        // A set is never empty; where all are granted the refusal names one of them.
        last_free
            .or_else(|| machine.allowed.iter().last())
            .unwrap_or_else(|| unreachable!("a CpuSet is never empty"))
    })
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn set(list: &str) -> Option<CpuSet> {
        list.parse().ok()
    }

    fn machine(isolated: &str, nohz_full: &str, allowed: &str, granted: &str) -> Machine {
        let mut topology = Topology::new("0-3".parse().unwrap(), Vec::new(), Vec::new());
        topology.nohz_full = set(nohz_full);
        let allowed = allowed.parse().unwrap();
        Machine { topology, isolated: set(isolated), allowed, granted: set(granted) }
    }

    #[track_caller]
    fn check(asked: &str, machine: &Machine, expect: Expect) {
        let chosen = choose(set(asked).as_ref(), machine);
        expect.assert_eq(&chosen.map_or_else(|refusal| refusal.to_string(), |cpus| cpus.to_string()));
    }

    #[test]
    fn the_quietest_cpu_is_the_default() {
        check("", &machine("2-3", "1-3", "0-1", ""), expect!["2"]);
        check("", &machine("", "1-3", "0-3", ""), expect!["1"]);
        check("", &machine("", "", "0-3", ""), expect!["3"]);
        check("", &machine("", "", "0-1", ""), expect!["1"]);
    }

    #[test]
    fn the_agents_cores_are_not_ours() {
        check("", &machine("2-3", "", "0-1", "2"), expect!["3"]);
        check("", &machine("", "", "0-3", "3"), expect!["2"]);
        check(
            "2-3",
            &machine("2-3", "", "0-1", "2"),
            expect![
                "the agent on this machine has granted CPU 2 to a strict container: choose another by --cpu"
            ],
        );
    }

    #[test]
    fn the_only_cpu_is_refused_and_so_is_one_that_is_not_there() {
        check(
            "",
            &machine("", "", "0", ""),
            expect![
                "CPU 0 is all that quietcore itself may run on (0): the command's core must be its own, so it needs a machine, or a cpuset, with another CPU"
            ],
        );
        check(
            "0-3",
            &machine("", "", "0-3", ""),
            expect![
                "CPU 0-3 is all that quietcore itself may run on (0-3): the command's core must be its own, so it needs a machine, or a cpuset, with another CPU"
            ],
        );
        check(
            "3-4",
            &machine("", "", "0-3", ""),
            expect!["CPUs 4 are not online (online: 0-3): choose others by --cpu"],
        );
    }

    #[test]
    fn an_empty_list_of_the_kernels_is_none() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("isolated"), "\n").unwrap();
        assert_eq!(read_list(&dir.path().join("isolated")), None);
    }
}
