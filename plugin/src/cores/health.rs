//! Step 3: which of the offered cores nobody should get now, and why: the kubelet gives no new pod such a core, and
//! leaves those alone that have one. Pure; `agent::health` has the facts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::{
    device,
    occupants::Occupant,
    set::{CpuId, CpuSet},
    topology::Topology,
};

/// After it failed, so that others are tried first: then it may be better.
const DOUBTED_FOR: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    pub offered: &'a CpuSet,
    /// The machine as it was offered, and as it is.
    pub known: &'a Topology,
    pub now: &'a Topology,
    /// Programs of others that run on offered cores and may run nowhere else.
    pub occupants: &'a [Occupant],
    pub doubts: &'a Doubts,
}

/// By the cores' ids.
pub fn unhealthy(facts: &Facts<'_>) -> BTreeMap<CpuId, String> {
    let Facts { offered, known, now, occupants, doubts } = *facts;
    let mut retired = BTreeMap::new();
    for core in known.cores_in(offered) {
        let occupant = occupants.iter().find(|occupant| occupant.cpus.overlaps(&core.cpus));
        let doubt = core.cpus.iter().find_map(|cpu| doubts.since.get(&cpu).map(|(_, why)| why.clone()));
        let taken = occupant.map(|occupant| {
            let Occupant { pid, comm, cpus, cgroup } = occupant;
            format!(
                "process {pid} ({comm}, cgroup {cgroup}) may run on CPU {cpus} alone: stop it, or take the core out of \
                 --isolated-cpus"
            )
        });
        if let Some(why) = taken.or(doubt) {
            retired.insert(core.id(), why);
        }
    }
    // Of a core that was offline when the agent started nothing else is known.
    let never_seen = offered.iter().filter(|cpu| !known.online.contains(*cpu));
    retired.extend(never_seen.map(|cpu| (cpu, format!("CPU {0} is offline (chcpu -e {0})", cpu.number()))));
    retired.extend(device::retired(offered, known, now));
    retired
}

/// Cores on which the kernel did not make a container's partition, though it made others'.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Doubts {
    since: BTreeMap<CpuId, (Instant, String)>,
}

impl Doubts {
    /// `refused`: with the kernel's words. Where it makes none at all, it is not for the core.
    pub fn look<'a>(
        &mut self,
        now: Instant,
        kept: &[&CpuSet],
        refused: impl Iterator<Item = (&'a CpuSet, &'a str)>,
    ) {
        self.since.retain(|cpu, (since, _)| {
            now.duration_since(*since) < DOUBTED_FOR && !kept.iter().any(|cpus| cpus.contains(*cpu))
        });
        for (cpus, why) in refused.filter(|_| !kept.is_empty()) {
            let words = format!("its last container could not be isolated there: {why}");
            self.since.extend(cpus.iter().map(|cpu| (cpu, (now, words.clone()))));
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    fn machine(online: &str) -> Topology {
        let cores = ["0,4", "1,5", "2,6", "3,7"].map(set);
        let online = set(online);
        let cores = cores.iter().filter_map(|core| core.intersection(&online)).collect();
        Topology::new(online, vec![], cores)
    }

    #[track_caller]
    fn check(online: &str, occupants: &[Occupant], doubts: &Doubts, expect: Expect) {
        let (offered, known, now) = (set("1-3,5-7"), machine("0-7"), machine(online));
        let facts = Facts { offered: &offered, known: &known, now: &now, occupants, doubts };
        let told = unhealthy(&facts).into_iter().map(|(core, why)| format!("{}: {why}\n", core.number()));
        expect.assert_eq(&told.collect::<String>());
    }

    #[test]
    fn a_core_is_retired_that_is_offline_or_somebody_elses() {
        let stress = Occupant {
            pid: 812,
            comm: "stress-ng".to_owned(),
            cpus: set("6"),
            cgroup: "/user.slice".to_owned(),
        };
        check(
            "0-6",
            &[stress],
            &Doubts::default(),
            expect![[r#"
                2: process 812 (stress-ng, cgroup /user.slice) may run on CPU 6 alone: stop it, or take the core out of --isolated-cpus
                3: CPU 7 of core 3,7 is offline
            "#]],
        );
        check("0-7", &[], &Doubts::default(), expect![""]);
    }

    #[test]
    fn a_core_that_was_never_there_is_told_all_the_same() {
        let (offered, known) = (set("1,5,8"), machine("0-7"));
        let doubts = Doubts::default();
        let facts = Facts { offered: &offered, known: &known, now: &known, occupants: &[], doubts: &doubts };
        let told: Vec<String> = unhealthy(&facts).into_values().collect();
        assert_eq!(told, ["CPU 8 is offline (chcpu -e 8)"]);
    }

    #[test]
    fn a_core_that_failed_alone_is_doubted_for_a_while_or_until_it_does_not() {
        let start = Instant::now();
        let mut doubts = Doubts::default();
        let (good, bad) = (set("1,5"), set("2,6"));
        doubts.look(start, &[&good], [(&bad, "isolated invalid")].into_iter());
        check(
            "0-7",
            &[],
            &doubts,
            expect![[r#"
                2: its last container could not be isolated there: isolated invalid
            "#]],
        );
        let mut better = doubts.clone();
        better.look(start, &[&bad], std::iter::empty());
        assert_eq!(better, Doubts::default());
        doubts.look(start + DOUBTED_FOR, &[], std::iter::empty());
        assert_eq!(doubts, Doubts::default());
    }

    #[test]
    fn a_kernel_that_isolates_nothing_is_no_fault_of_a_core() {
        let mut doubts = Doubts::default();
        doubts.look(Instant::now(), &[], [(&set("2,6"), "no")].into_iter());
        assert_eq!(doubts, Doubts::default());
    }
}
