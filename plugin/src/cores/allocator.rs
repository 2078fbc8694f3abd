//! Step 3: which of the free devices a container should get. Pure.
//!
//! Only a hint: the kubelet may choose otherwise, and whatever it chooses is right for the ledger. What a bad
//! choice costs: a container that waits for a CPU whose former holder still ends, memory of two NUMA nodes,
//! a hardware thread shared with another pod's.

use std::{cmp::Reverse, collections::BTreeSet};

use super::{
    set::{CpuId, CpuSet},
    topology::Topology,
};

/// Free CPUs, and what the choice depends on.
#[derive(Debug)]
pub struct Free<'a> {
    pub cpus: BTreeSet<CpuId>,
    /// A container that used it is not known to be gone.
    pub held: BTreeSet<CpuId>,
    pub topology: &'a Topology,
}

impl Free<'_> {
    /// `must` and as many more as make `n_cpus`; fewer where there are not as many.
    pub fn choose(mut self, must: BTreeSet<CpuId>, n_cpus: usize) -> BTreeSet<CpuId> {
        let mut chosen = must;
        self.cpus.retain(|cpu| !chosen.contains(cpu));
        while chosen.len() < n_cpus {
            let missing = n_cpus - chosen.len();
            let Some(best) = self.cpus.iter().copied().min_by_key(|cpu| self.cost(*cpu, &chosen, missing))
            else {
                break;
            };
            self.cpus.remove(&best);
            chosen.insert(best);
        }
        chosen
    }

    /// Compared from left to right, the least is best; the CPU's number decides what is left, so that the
    /// choice is always the same.
    fn cost(&self, cpu: CpuId, chosen: &BTreeSet<CpuId>, missing: usize) -> impl Ord + use<> {
        let node = self.topology.node_of(cpu);
        let other_node = !chosen.is_empty() && chosen.iter().all(|one| self.topology.node_of(*one) != node);
        let on_node = self.cpus.iter().filter(|one| self.topology.node_of(**one) == node);
        let n_on_node = on_node.filter(|one| !self.held.contains(one)).count();
        let too_small = n_on_node < missing;
        let siblings = self.topology.siblings_of(cpu);
        let other_core = !siblings.iter().any(|sibling| chosen.contains(&sibling));
        let n_free_of_core = siblings.iter().filter(|sibling| self.cpus.contains(sibling)).count();
        let breaks_a_core = missing < n_free_of_core;
        // The smallest node that is large enough, so that the large ones stay for large requests.
        let spare = n_on_node.saturating_sub(missing);
        let whole_first = Reverse(n_free_of_core);
        (self.held.contains(&cpu), other_node, too_small, other_core, breaks_a_core, spare, whole_first, cpu)
    }
}

pub fn members<'a>(sets: impl Iterator<Item = &'a CpuSet>) -> BTreeSet<CpuId> {
    sets.flat_map(CpuSet::iter).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    /// Two nodes; cores are 0+4, 1+5 (node 0), 2+6, 3+7 (node 1).
    fn machine() -> Topology {
        let list = |list: &str| list.parse::<CpuSet>().unwrap();
        Topology::new(
            list("0-7"),
            vec![(0, list("0-1,4-5")), (1, list("2-3,6-7"))],
            ["0,4", "1,5", "2,6", "3,7"].map(list).to_vec(),
        )
    }

    fn cpus(list: &str) -> BTreeSet<CpuId> {
        list.parse::<CpuSet>().map(|set| set.iter().collect()).unwrap_or_default()
    }

    #[track_caller]
    fn check((free, held, must): (&str, &str, &str), n_cpus: usize, expect: Expect) {
        let topology = machine();
        let free = Free { cpus: cpus(free), held: cpus(held), topology: &topology };
        let chosen = CpuSet::new(free.choose(cpus(must), n_cpus));
        expect.assert_eq(&chosen.map_or_else(|| "none".to_owned(), |set| set.to_string()));
    }

    #[test]
    fn a_cpu_whose_former_holder_still_ends_comes_last() {
        check(("1-3", "1", ""), 1, expect!["2"]);
        check(("1-3", "1", ""), 3, expect!["1-3"]);
    }

    #[test]
    fn a_request_stays_on_one_node_where_it_fits() {
        check(("1-3,5-7", "", ""), 4, expect!["2-3,6-7"]);
        check(("1-3,7", "", ""), 2, expect!["3,7"]);
        check(("1-3,6", "", "3"), 2, expect!["2-3"]);
    }

    #[test]
    fn a_small_request_leaves_the_large_node_whole() {
        check(("1,5,2-3,6-7", "", ""), 2, expect!["1,5"]);
    }

    #[test]
    fn two_threads_come_from_one_core_and_one_alone_breaks_none() {
        check(("2-3,6-7", "", ""), 2, expect!["2,6"]);
        check(("2-3,6", "", ""), 1, expect!["3"]);
    }

    #[test]
    fn what_must_be_in_it_is_in_it() {
        check(("1-7", "", "7"), 1, expect!["7"]);
        check(("1-7", "", "7"), 2, expect!["3,7"]);
    }

    #[test]
    fn too_few_are_all_there_are() {
        check(("1", "", ""), 3, expect!["1"]);
        check(("", "", ""), 1, expect!["none"]);
    }
}
