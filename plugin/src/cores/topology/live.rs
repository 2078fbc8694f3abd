//! The machine as it is now, for all who ask: CPUs come and go while the agent runs.
//!
//! No IO: `agent::health` reads it anew. The cores that are known are never fewer than at an earlier look, so that a
//! device of the kubelet's keeps its meaning while its core is offline.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Core, Topology};
use crate::cores::set::CpuSet;

#[derive(Debug, Clone)]
pub struct Live(Arc<RwLock<Seen>>);

#[derive(Debug)]
struct Seen {
    known: Arc<Topology>,
    online: CpuSet,
}

impl Live {
    pub fn new(topology: Topology) -> Live {
        let online = topology.online.clone();
        Live(Arc::new(RwLock::new(Seen { known: Arc::new(topology), online })))
    }

    pub fn known(&self) -> Arc<Topology> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner).known)
    }

    /// At the last look; some of what is known may be missing.
    pub fn online(&self) -> CpuSet {
        self.0.read().unwrap_or_else(PoisonError::into_inner).online.clone()
    }

    /// Whether there are cores that were not known.
    pub fn saw(&self, now: &Topology) -> bool {
        let mut seen = self.0.write().unwrap_or_else(PoisonError::into_inner);
        seen.online = now.online.clone();
        let as_known = |core: &Core| now.core_of(core.id()).is_some_and(|found| found.cpus == core.cpus);
        let more = now.online != seen.known.online && seen.known.cores().iter().all(as_known);
        if more {
            seen.known = Arc::new(now.clone());
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(online: &str, cores: &[&str]) -> Topology {
        let cores = cores.iter().map(|core| core.parse().unwrap()).collect();
        Topology::new(online.parse().unwrap(), vec![], cores)
    }

    #[track_caller]
    fn check(live: &Live, now: &Topology, more: bool, known: &str) {
        assert_eq!(live.saw(now), more);
        assert_eq!((live.known().online.to_string(), live.online()), (known.to_owned(), now.online.clone()));
    }

    #[test]
    fn a_core_that_goes_offline_stays_known_and_one_that_comes_is_added() {
        let live = Live::new(machine("0-1", &[]));
        check(&live, &machine("0-2", &[]), true, "0-2");
        check(&live, &machine("0,2", &[]), false, "0-2");
        check(&live, &machine("0-2", &[]), false, "0-2");
        check(&live, &machine("0-3", &[]), true, "0-3");
    }

    #[test]
    fn a_core_that_grew_is_not_what_was_offered() {
        let live = Live::new(machine("0-1", &[]));
        check(&live, &machine("0-2", &["1-2"]), false, "0-1");
    }
}
