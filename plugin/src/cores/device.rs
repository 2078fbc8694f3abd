//! Step 3: names of devices, as the kubelet sees them: one whole physical core is `core-N`, N the lowest of its
//! CPUs. And which of the CPUs that were offered are such cores no longer.
//!
//! Pure. Only the kubelet writes names, so one that is none is an error and no refusal.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    set::{CpuId, CpuSet},
    topology::{Core, Topology},
};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    #[error("{0:?} is no device of this node: expected core-N, N the lowest CPU of a core that is online")]
    Unknown(String),
    #[error(
        "{0:?} is a device of an earlier quietcore, which gave out single CPUs: delete the pod so that it is \
         admitted anew, with whole cores"
    )]
    SingleCpu(String),
    #[error("an allocation without devices")]
    None,
}

pub fn id(core: &Core) -> String {
    format!("core-{}", core.id().number())
}

/// Exactly what `id` makes: "core-01" would be a second name of the same core.
pub fn core<'a>(name: &str, topology: &'a Topology) -> Result<&'a Core, DeviceError> {
    if name.starts_with("cpu-") {
        return Err(DeviceError::SingleCpu(name.to_owned()));
    }
    let number = name.strip_prefix("core-").and_then(|number| number.parse().ok());
    let core = number.and_then(CpuId::new).and_then(|number| topology.core(number));
    core.filter(|core| id(core) == name).ok_or_else(|| DeviceError::Unknown(name.to_owned()))
}

/// All hardware threads of these cores that are online.
pub fn cpus(names: &[String], topology: &Topology) -> Result<CpuSet, DeviceError> {
    let mut cpus = BTreeSet::new();
    for name in names {
        cpus.extend(core(name, topology)?.cpus.iter());
    }
    CpuSet::new(cpus).ok_or(DeviceError::None)
}

/// Which CPUs of whole cores enter the container's cpuset. Of each core the lowest where it asks for one thread:
/// the others stay the container's own and idle, so that nobody disturbs it from there.
pub fn cpus_for(one_thread: bool, topology: &Topology, cores: &CpuSet) -> CpuSet {
    let is_first =
        |cpu: CpuId| topology.siblings_of(cpu).intersection(cores).is_none_or(|own| own.first() == cpu);
    let chosen = cores.iter().filter(|cpu| !one_thread || is_first(*cpu)).collect();
    CpuSet::new(chosen).unwrap_or_else(|| cores.clone())
}

/// Cores that were offered (of the machine as it `was` then) and that nobody should get now, by their ids, each
/// with the reason.
pub fn retired(offered: &CpuSet, was: &Topology, now: &Topology) -> BTreeMap<CpuId, String> {
    let why = |core: &Core| {
        let offline = core.cpus.without(&now.online);
        let more = core.cpus.iter().find_map(|cpu| now.core_of(cpu)?.cpus.without(&core.cpus));
        match (offline, more) {
            (Some(offline), _) if offline == core.cpus => Some(format!("core {} is offline", core.cpus)),
            (Some(offline), _) => Some(format!("CPU {offline} of core {} is offline", core.cpus)),
            (None, Some(more)) => Some(format!(
                "CPU {more} came online on core {}, and is not the container's: restart the agent with it among \
                 --isolated-cpus, or turn it off (chcpu -d {more})",
                core.cpus
            )),
            (None, None) => None,
        }
    };
    was.cores_in(offered).filter_map(|core| Some((core.id(), why(core)?))).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    /// Each core is `list` of `cores`; what is not in one is a core of one thread.
    fn machine(online: &str, cores: &[&str]) -> Topology {
        Topology::new(set(online), vec![], cores.iter().map(|core| set(core)).collect())
    }

    #[track_caller]
    fn check(names: &[&str], expect: Expect) {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let cpus = cpus(&names, &machine("0-5", &["0,3", "1,4"]));
        expect.assert_eq(&cpus.map_or_else(|error| error.to_string(), |cpus| cpus.to_string()));
    }

    #[test]
    fn names_become_the_cpus_of_whole_cores() {
        check(&["core-1"], expect!["1,4"]);
        check(&["core-2", "core-0"], expect!["0,2-3"]);
        let large = machine("0-8191", &[]);
        let all: Vec<String> = large.cores().iter().map(id).collect();
        assert_eq!((all.len(), cpus(&all, &large).unwrap().to_string()), (8192, "0-8191".to_owned()));
    }

    #[test]
    fn what_is_no_name_of_ours_is_an_error() {
        for name in ["core-3", "core-6", "core-8192", "core-", "core-+1", "core-01", "1", ""] {
            assert_eq!(core(name, &machine("0-5", &["0,3"])), Err(DeviceError::Unknown(name.to_owned())));
        }
        check(
            &["core-1", "core-3"],
            expect![[
                r#""core-3" is no device of this node: expected core-N, N the lowest CPU of a core that is online"#
            ]],
        );
        check(&[], expect!["an allocation without devices"]);
    }

    #[test]
    fn a_device_of_the_version_that_gave_out_threads_is_refused_by_name() {
        check(
            &["cpu-1"],
            expect![[
                r#""cpu-1" is a device of an earlier quietcore, which gave out single CPUs: delete the pod so that it is admitted anew, with whole cores"#
            ]],
        );
    }

    #[test]
    fn one_thread_of_each_core_or_all() {
        let machine = machine("0-5", &["0,3", "1,4"]);
        let of = |one_thread, cores: &str| cpus_for(one_thread, &machine, &set(cores)).to_string();
        assert_eq!((of(true, "0-1,3-5"), of(false, "0-1,3-5")), ("0-1,5".to_owned(), "0-1,3-5".to_owned()));
        // An allocation of before the machine changed.
        assert_eq!((of(true, "4"), of(true, "9")), ("4".to_owned(), "9".to_owned()));
    }

    #[test]
    fn a_core_that_is_not_as_it_was_offered_is_retired() {
        let was = machine("0-5", &["0,3", "1,4"]);
        let retired = |now: &Topology| {
            let told = retired(&set("1-2,4-5"), &was, now);
            told.into_iter().map(|(core, why)| format!("{}: {why}", core.number())).collect::<Vec<_>>()
        };
        assert_eq!(retired(&was), Vec::<String>::new());
        assert_eq!(
            retired(&machine("0-1,3,5", &["0,3"])),
            ["1: CPU 4 of core 1,4 is offline", "2: core 2 is offline"]
        );
        assert_eq!(
            retired(&machine("0-6", &["0,3", "1,4", "5-6"])),
            [
                "5: CPU 6 came online on core 5, and is not the container's: restart the agent with it among --isolated-cpus, or turn it off (chcpu -d 6)"
            ]
        );
    }
}
