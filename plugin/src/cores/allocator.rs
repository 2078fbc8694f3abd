//! Step 3: which of the free cores a container should get. Pure.
//!
//! Only a hint: the kubelet may choose otherwise, and whatever it chooses is right for the ledger. What a bad
//! choice costs: a container that waits for a core whose former holder still ends, memory of two NUMA nodes,
//! traffic between caches, and holes that no large request fits in.
//!
//! The best choice, not a good one: the machine is a tree (packages, NUMA nodes, L3 domains), every part of the
//! cost is a sum over its groups, so the best way to take x cores of a group comes from the best ways of its
//! parts. 256 cores are some 50,000 additions.

use std::{
    array,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    set::{CpuId, CpuSet},
    topology::{Core, Kind, Topology},
};

/// Free cores by their ids, and what the choice depends on.
#[derive(Debug)]
pub struct Free<'a> {
    pub cores: BTreeSet<CpuId>,
    /// CPUs of containers that are not known to be gone.
    pub held: BTreeSet<CpuId>,
    pub topology: &'a Topology,
}

impl Free<'_> {
    /// `must` and as many more as make `n_cores`; fewer where there are not as many. The same for the same
    /// question, also after a restart.
    pub fn choose(&self, must: &BTreeSet<CpuId>, n_cores: usize) -> BTreeSet<CpuId> {
        let free: Vec<&Core> = self.cores.union(must).filter_map(|id| self.topology.core(*id)).collect();
        let n_cores = n_cores.clamp(must.len().min(free.len()), free.len());
        let machine = Group::of(&free, &levels(&free), &Wish { free: self, must, n_cores });
        let mut chosen = BTreeSet::new();
        machine.take(n_cores, &mut chosen);
        chosen
    }

    fn is_held(&self, core: &Core) -> bool {
        core.cpus.iter().any(|cpu| self.held.contains(&cpu))
    }
}

pub fn members<'a>(sets: impl Iterator<Item = &'a CpuSet>) -> BTreeSet<CpuId> {
    sets.flat_map(CpuSet::iter).collect()
}

struct Wish<'a> {
    free: &'a Free<'a>,
    must: &'a BTreeSet<CpuId>,
    n_cores: usize,
}

/// The parts of a cost, the most important first: each is compared only where those before it are equal.
#[derive(Clone, Copy)]
enum Part {
    /// Cores whose former holder still ends.
    Held,
    Efficient,
    Nodes,
    L3s,
    Packages,
    /// What is taken out of holes. A hole of f cores counts f squared, so that one large hole is worth more
    /// than two halves: the smallest hole that is large enough loses least.
    NodeHoles,
    L3Holes,
    PackageHoles,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Cost([u32; 8]);

impl Cost {
    fn and(self, other: Cost) -> Cost {
        Cost(array::from_fn(|part| self.0[part].saturating_add(other.0[part])))
    }

    fn add(&mut self, part: Part, n: usize) {
        self.0[part as usize] = self.0[part as usize].saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
    }
}

#[derive(Clone, Copy)]
enum Level {
    Package,
    Node,
    L3,
}

impl Level {
    fn group_of(self, core: &Core) -> u32 {
        match self {
            Level::Package => core.package,
            Level::Node => core.node.unwrap_or(0),
            Level::L3 => core.l3.number(),
        }
    }

    fn costs(self) -> (Part, Part) {
        match self {
            Level::Package => (Part::Packages, Part::PackageHoles),
            Level::Node => (Part::Nodes, Part::NodeHoles),
            Level::L3 => (Part::L3s, Part::L3Holes),
        }
    }
}

/// The larger groups first. A virtual machine may have a package for each CPU, and all in one node.
fn levels(cores: &[&Core]) -> [Level; 3] {
    let mut package_of = BTreeMap::new();
    let crosses = |core: &&Core| *package_of.entry(core.node).or_insert(core.package) != core.package;
    match cores.iter().any(crosses) {
        true => [Level::Node, Level::Package, Level::L3],
        false => [Level::Package, Level::Node, Level::L3],
    }
}

/// Free cores that have something in common.
struct Group {
    /// By the number of cores taken from it, what the best way to do that costs; `None`: there is no way,
    /// because of what must be in it.
    costs: Vec<Option<Cost>>,
    content: Content,
}

enum Content {
    /// Of one L3 domain: the first ones are taken.
    Cores(Vec<CpuId>),
    /// Each with how many are taken from it where this and those before it give as many as the index says.
    Groups(Vec<(Group, Vec<usize>)>),
}

impl Group {
    fn of(cores: &[&Core], levels: &[Level], wish: &Wish<'_>) -> Group {
        let Some((level, inner)) = levels.split_first() else { return Group::of_cores(cores, wish) };
        let mut members: BTreeMap<u32, Vec<&Core>> = BTreeMap::new();
        for core in cores {
            members.entry(level.group_of(core)).or_default().push(core);
        }
        let mut costs = vec![Some(Cost::default())];
        let mut groups = Vec::new();
        for members in members.values() {
            let mut group = Group::of(members, inner, wish);
            group.pay(*level, members.len());
            let (both, from_it) = joined(&costs, &group.costs, wish.n_cores);
            costs = both;
            groups.push((group, from_it));
        }
        Group { costs, content: Content::Groups(groups) }
    }

    fn of_cores(cores: &[&Core], Wish { free, must, n_cores }: &Wish<'_>) -> Group {
        let key = |core: &&Core| {
            let efficient = core.kind == Kind::Efficient;
            (!must.contains(&core.id()), free.is_held(core), efficient, core.id())
        };
        let mut order: Vec<_> = cores.iter().map(key).collect();
        order.sort_unstable();
        let n_must = order.iter().filter(|(by_choice, ..)| !by_choice).count();
        let mut cost = Cost::default();
        let mut costs = vec![(n_must == 0).then_some(cost)];
        for (idx, (_, held, efficient, _)) in order.iter().enumerate().take(*n_cores) {
            cost.add(Part::Held, usize::from(*held));
            cost.add(Part::Efficient, usize::from(*efficient));
            costs.push((n_must <= idx + 1).then_some(cost));
        }
        Group { costs, content: Content::Cores(order.into_iter().map(|(.., id)| id).collect()) }
    }

    /// For touching it at all, and for its hole.
    fn pay(&mut self, level: Level, n_free: usize) {
        let (count, holes) = level.costs();
        for (taken, cost) in self.costs.iter_mut().enumerate().skip(1) {
            if let Some(cost) = cost {
                cost.add(count, 1);
                cost.add(holes, n_free.pow(2) - (n_free - taken).pow(2));
            }
        }
    }

    fn take(&self, mut n_cores: usize, chosen: &mut BTreeSet<CpuId>) {
        match &self.content {
            Content::Cores(cores) => chosen.extend(cores.iter().take(n_cores)),
            Content::Groups(groups) => {
                for (group, from_it) in groups.iter().rev() {
                    group.take(from_it[n_cores], chosen);
                    n_cores -= from_it[n_cores];
                }
            }
        }
    }
}

/// The best ways to take so many from two, and how many of them come from the second. Of equal ways that which
/// takes more from the first, which has the lower numbers.
fn joined(first: &[Option<Cost>], second: &[Option<Cost>], most: usize) -> (Vec<Option<Cost>>, Vec<usize>) {
    let n = (first.len() + second.len() - 1).min(most + 1);
    let (mut costs, mut from_second) = (vec![None; n], vec![0; n]);
    for (taken, cost) in second.iter().enumerate() {
        let Some(cost) = cost else { continue };
        for (before, cost_before) in first.iter().enumerate().take(n.saturating_sub(taken)) {
            let Some(both) = cost_before.map(|before| before.and(*cost)) else { continue };
            let place = &mut costs[before + taken];
            if place.is_none_or(|best| both < best) {
                *place = Some(both);
                from_second[before + taken] = taken;
            }
        }
    }
    (costs, from_second)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    /// Cores of one thread each, by place: package, node, L3 domain, kind.
    fn machine(places: &[(&str, u32, u32, u32, Kind)]) -> Topology {
        let cores = places.iter().flat_map(|&(cpus, package, node, l3, kind)| {
            set(cpus)
                .iter()
                .map(|cpu| Core {
                    cpus: cpu.into(),
                    package,
                    die: 0,
                    node: Some(node),
                    l3: CpuId::new(l3).unwrap(),
                    kind,
                })
                .collect::<Vec<_>>()
        });
        let cores: Vec<Core> = cores.collect();
        let online = CpuSet::new(cores.iter().map(Core::id).collect()).unwrap();
        Topology::of_cores(online, vec![], cores)
    }

    /// Node 0 has L3 domains of 4 and 2 cores, node 1 of 4 and 4.
    fn two_nodes() -> Topology {
        let fast = Kind::Performance;
        machine(&[
            ("0-3", 0, 0, 0, fast),
            ("4-5", 0, 0, 4, fast),
            ("6-9", 1, 1, 6, fast),
            ("10-13", 1, 1, 10, fast),
        ])
    }

    fn ids(list: &str) -> BTreeSet<CpuId> {
        list.parse::<CpuSet>().map(|set| set.iter().collect()).unwrap_or_default()
    }

    #[track_caller]
    fn check_on(topology: &Topology, (free, held, must): (&str, &str, &str), n_cores: usize, expect: Expect) {
        let free = Free { cores: ids(free), held: ids(held), topology };
        let chosen = CpuSet::new(free.choose(&ids(must), n_cores));
        expect.assert_eq(&chosen.map_or_else(|| "none".to_owned(), |set| set.to_string()));
    }

    #[track_caller]
    fn check(question: (&str, &str, &str), n_cores: usize, expect: Expect) {
        check_on(&two_nodes(), question, n_cores, expect);
    }

    #[test]
    fn a_core_whose_former_holder_still_ends_comes_last() {
        check(("0-3", "0-1", ""), 1, expect!["2"]);
        check(("0-3,6-7", "0-2", ""), 2, expect!["6-7"]);
        check(("0-3", "0", ""), 4, expect!["0-3"]);
    }

    #[test]
    fn a_request_stays_in_one_l3_domain_of_one_node_where_it_fits() {
        check(("0-13", "", ""), 4, expect!["0-3"]);
        check(("2-9", "", ""), 4, expect!["6-9"]);
        check(("2-5,8-11", "", ""), 3, expect!["2-4"]);
        check(("0-13", "", ""), 7, expect!["6-12"]);
        check(("3,5,7,9,11,13", "", ""), 3, expect!["7,9,11"]);
    }

    #[test]
    fn a_small_request_leaves_the_large_holes() {
        check(("0-13", "", ""), 2, expect!["4-5"]);
        check(("0-3,6-13", "", ""), 1, expect!["0"]);
        check(("0,4-5,6-9,10", "", ""), 1, expect!["0"]);
    }

    #[test]
    fn the_fast_kind_comes_first() {
        let hybrid = machine(&[("0-3", 0, 0, 0, Kind::Efficient), ("4-5", 0, 0, 0, Kind::Performance)]);
        check_on(&hybrid, ("0-5", "", ""), 1, expect!["4"]);
        check_on(&hybrid, ("0-5", "", ""), 3, expect!["0,4-5"]);
    }

    #[test]
    fn a_package_for_each_cpu_is_still_one_node() {
        let fast = Kind::Performance;
        let vm = machine(&[
            ("0", 0, 0, 0, fast),
            ("1", 1, 0, 1, fast),
            ("2", 2, 1, 2, fast),
            ("3", 3, 1, 3, fast),
        ]);
        check_on(&vm, ("1-3", "", ""), 2, expect!["2-3"]);
    }

    #[test]
    fn what_must_be_in_it_is_in_it() {
        check(("0-13", "", "13"), 1, expect!["13"]);
        check(("0-13", "", "13"), 3, expect!["10-11,13"]);
        check(("0-13", "", "3,13"), 3, expect!["0,3,13"]);
        check(("0-5", "", "3-5"), 2, expect!["3-5"]);
    }

    #[test]
    fn too_few_are_all_there_are() {
        check(("1", "", ""), 3, expect!["1"]);
        check(("", "", ""), 1, expect!["none"]);
        check(("1", "", ""), 0, expect!["none"]);
        check(("1,99", "", ""), 2, expect!["1"]);
    }
}
