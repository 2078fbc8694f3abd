//! Step 3: which housekeeping CPUs a container with `sharedCpus` gets besides its grant. Pure.
//!
//! They are nobody's own: any number of containers may have the same ones.

use std::collections::BTreeSet;

use super::{
    set::{CpuId, CpuSet},
    topology::Topology,
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the policy asks for sharedCpus: {asked}, and this node has {found} housekeeping CPUs besides those it grants; \
     ask for fewer, or leave more out of the agent's --isolated-cpus"
)]
pub struct TooFew {
    pub asked: usize,
    pub found: usize,
}

/// The `asked` ones nearest to the grant, always the same for the same grant: a restarted container finds its own.
/// A hyperthread of a granted core comes last, for whatever runs there slows the grant.
pub fn nearest(
    topology: &Topology,
    housekeeping: &[CpuId],
    grant: &CpuSet,
    asked: u32,
) -> Result<Option<CpuSet>, TooFew> {
    let nodes: BTreeSet<_> = grant.iter().filter_map(|cpu| topology.node_of(cpu)).collect();
    let distance = |cpu: CpuId| {
        let beside_a_grant = topology.siblings_of(cpu).overlaps(grant);
        let elsewhere = topology.node_of(cpu).is_some_and(|node| !nodes.contains(&node));
        (beside_a_grant, elsewhere, cpu)
    };
    let mut near = housekeeping.to_vec();
    near.sort_by_key(|cpu| distance(*cpu));
    let asked = asked as usize;
    if near.len() < asked {
        return Err(TooFew { asked, found: near.len() });
    }
    Ok(CpuSet::new(near.into_iter().take(asked).collect()))
}

/// All that the container's cpuset holds.
pub fn with(grant: &CpuSet, shared: Option<&CpuSet>) -> CpuSet {
    let shared = shared.into_iter().flat_map(CpuSet::iter);
    CpuSet::new(grant.iter().chain(shared).collect()).unwrap_or_else(|| grant.clone())
}

/// What tells the container which is which, in the list format of cpuset(7): its environment, and the same lines in a
/// file for whoever has another environment. The second is empty where nothing is shared, so that nobody inherits
/// one from elsewhere.
pub fn variables(grant: &CpuSet, shared: Option<&CpuSet>) -> [(&'static str, String); 2] {
    let shared = shared.map(CpuSet::to_string).unwrap_or_default();
    [("QUIETCORE_CPUS", grant.to_string()), ("QUIETCORE_SHARED_CPUS", shared)]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn cpus(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    /// Two nodes of four cores with two hyperthreads: 0-3 and 8-11, 4-7 and 12-15.
    fn machine() -> Topology {
        let cores = (0..8).map(|core| cpus(&format!("{core},{}", core + 8))).collect();
        let nodes = vec![(0, cpus("0-3,8-11")), (1, cpus("4-7,12-15"))];
        Topology::new(cpus("0-15"), nodes, cores)
    }

    #[track_caller]
    fn check(housekeeping: &str, grant: &str, asked: u32, expect: Expect) {
        let housekeeping: Vec<CpuId> = cpus(housekeeping).iter().collect();
        let found = nearest(&machine(), &housekeeping, &cpus(grant), asked);
        expect.assert_eq(&match found {
            Ok(Some(shared)) => shared.to_string(),
            Ok(None) => "none".to_owned(),
            Err(too_few) => too_few.to_string(),
        });
    }

    #[test]
    fn the_grants_own_node_comes_first_and_then_the_lowest_number() {
        check("0,4,8,12", "1,9", 1, expect!["0"]);
        check("0,4,8,12", "5,13", 1, expect!["4"]);
        check("0,4,8,12", "5,13", 3, expect!["0,4,12"]);
        check("0,4,8,12", "1,5,9,13", 2, expect!["0,4"]);
    }

    #[test]
    fn a_hyperthread_of_a_granted_core_is_the_last_choice() {
        check("0,8-9", "1", 1, expect!["0"]);
        check("4,9", "1", 1, expect!["4"]);
        check("4,9", "1", 2, expect!["4,9"]);
    }

    #[test]
    fn more_than_there_are_is_refused_in_words() {
        check(
            "0,8",
            "1",
            3,
            expect![
                "the policy asks for sharedCpus: 3, and this node has 2 housekeeping CPUs besides those it grants; ask for fewer, or leave more out of the agent's --isolated-cpus"
            ],
        );
        check("0,8", "1", 0, expect!["none"]);
    }

    #[test]
    fn a_cpuset_holds_both() {
        assert_eq!(with(&cpus("1-2"), Some(&cpus("0,3"))), cpus("0-3"));
        assert_eq!(with(&cpus("1-2"), None), cpus("1-2"));
    }
}
