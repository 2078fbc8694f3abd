//! `cores.from: Runtime`: the CPUs that another allocator gave a container, if they are its alone and can be
//! made quiet. Pure: the gate brings the request and what the kubelet wrote down before it.
//!
//! A cpuset in CreateContainer proves nothing: the kubelet's shared pool and dra-driver-cpu's look the same,
//! and a pod may write what it likes into its environment. So the CPUs count only with the kubelet's word: its
//! CPU manager's entry for this container, or a claim that the container holds from a DRA driver that is known
//! to set cpusets. That a plugin of a lower index set them is seen here: NRI hands each plugin the container as
//! the ones before it left it (containerd/nri pkg/adaptation/result.go, `adjustCPUResource`).

use super::cpu_manager::{CpuManager, CpuManagerState, Policy};
use crate::cores::set::{CpuId, CpuSet, ParseCpuSetError};

/// DRA drivers that give a container CPUs, and set its cpuset by NRI.
const CPU_DRIVERS: [&str; 1] = ["dra.cpu"];

#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// linux.resources.cpu.cpus of CreateContainer.
    pub cpus: &'a str,
    pub pod_uid: &'a str,
    pub container: &'a str,
    pub cpu_manager: &'a CpuManager,
    /// DRA drivers of whose devices this container holds some, by the kubelet's PodResources.
    pub drivers: &'a [String],
    /// CPUs that this node can make quiet.
    pub isolated: &'a CpuSet,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeCoresRefusal {
    #[error(
        "the policy takes cores from the runtime (cores.from: Runtime), and nobody gave container {0} CPUs: make \
         its pod Guaranteed with a whole number of CPUs on a node with cpuManagerPolicy static, or let it claim \
         CPUs from dra-driver-cpu"
    )]
    NoCpuset(String),
    #[error("the CPUs of container {container} are not a CPU list: {source}")]
    NoList { container: String, source: ParseCpuSetError },
    #[error(
        "container {container} is to run in the kubelet's shared pool {cpus}: for CPUs of its own give the pod equal \
         requests and limits, and this container a whole number of CPUs"
    )]
    Shared { container: String, cpus: CpuSet },
    #[error(
        "nobody vouches that CPUs {cpus} are container {container}'s alone: neither the kubelet's CPU manager nor a \
         claim of a known DRA driver; the kubelet tries again by itself"
    )]
    NobodyVouches { container: String, cpus: CpuSet },
    #[error(
        "the kubelet gave container {container} CPUs {given}, and somebody changed that to {cpus}: remove the other \
         NRI plugin that sets cpusets from this node"
    )]
    Changed { container: String, given: CpuSet, cpus: CpuSet },
    #[error("whether CPUs {cpus} are container {container}'s alone cannot be told: {why}")]
    Unreadable { container: String, cpus: CpuSet, why: String },
    #[error(
        "CPUs {outside} of container {container} cannot be made quiet on this node, only {isolated}: let its \
         allocator give CPUs of these, or start quietcore with a larger isolatedCpus"
    )]
    NotIsolated { container: String, outside: CpuSet, isolated: CpuSet },
    #[error(
        "container {container} has a part of a physical core: CPUs {missing} are the siblings of its own and not in \
         {cpus}; set cpuManagerPolicyOptions full-pcpus-only: \"true\" in the kubelet's configuration, and ask for \
         whole cores"
    )]
    PartOfCore { container: String, cpus: CpuSet, missing: CpuSet },
}

/// `siblings` tells the online hardware threads of a CPU's core, itself among them.
pub fn runtime_cpus(
    asked: &Asked<'_>,
    siblings: impl Fn(CpuId) -> CpuSet,
) -> Result<CpuSet, RuntimeCoresRefusal> {
    let container = || asked.container.to_owned();
    let cpus: CpuSet = match asked.cpus.parse() {
        Ok(cpus) => cpus,
        Err(ParseCpuSetError::Empty) => return Err(RuntimeCoresRefusal::NoCpuset(container())),
        Err(source) => return Err(RuntimeCoresRefusal::NoList { container: container(), source }),
    };
    vouched(asked, &cpus)?;
    if let Some(outside) = cpus.without(asked.isolated) {
        let isolated = asked.isolated.clone();
        return Err(RuntimeCoresRefusal::NotIsolated { container: container(), outside, isolated });
    }
    let threads = cpus.iter().flat_map(|cpu| siblings(cpu).iter().collect::<Vec<_>>());
    let missing = CpuSet::new(threads.filter(|thread| !cpus.contains(*thread)).collect());
    match missing {
        Some(missing) => Err(RuntimeCoresRefusal::PartOfCore { container: container(), cpus, missing }),
        None => Ok(cpus),
    }
}

fn vouched(asked: &Asked<'_>, cpus: &CpuSet) -> Result<(), RuntimeCoresRefusal> {
    let (container, cpus) = (asked.container.to_owned(), cpus.clone());
    let claimed = asked.drivers.iter().any(|driver| CPU_DRIVERS.contains(&driver.as_str()));
    match asked.cpu_manager {
        CpuManager::Unreadable(why) => {
            Err(RuntimeCoresRefusal::Unreadable { container, cpus, why: why.clone() })
        }
        CpuManager::State(state @ CpuManagerState { policy: Policy::Static, .. }) => {
            match state.of(asked.pod_uid, asked.container) {
                Some(given) if *given == cpus => Ok(()),
                Some(given) => Err(RuntimeCoresRefusal::Changed { container, given: given.clone(), cpus }),
                // dra-driver-cpu declares the static policy incompatible: a claim does not help here.
                None if state.shared.as_ref() == Some(&cpus) => {
                    Err(RuntimeCoresRefusal::Shared { container, cpus })
                }
                None => Err(RuntimeCoresRefusal::NobodyVouches { container, cpus }),
            }
        }
        CpuManager::Absent | CpuManager::State(_) if claimed => Ok(()),
        CpuManager::Absent | CpuManager::State(_) => {
            Err(RuntimeCoresRefusal::NobodyVouches { container, cpus })
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::coexist::cpu_manager::tests::state;

    const NONE: &str = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;
    const STATIC: &str = r#"{"policyName":"static","defaultCpuSet":"0-1,4-5,8-9","entries":{"u":{"app":"2-3,6-7"}},"checksum":1}"#;

    /// Eight CPUs of which N and N+4 are one core; 8 and 9 are alone.
    fn siblings(cpu: CpuId) -> CpuSet {
        let n = cpu.number();
        if 8 <= n { cpu.into() } else { format!("{},{}", n % 4, n % 4 + 4).parse().unwrap() }
    }

    #[track_caller]
    fn check(cpus: &str, cpu_manager: &CpuManager, drivers: &[&str], expect: Expect) {
        check_of(cpus, "u", "2-3,6-9", cpu_manager, drivers, expect);
    }

    #[track_caller]
    fn check_of(
        cpus: &str,
        pod_uid: &str,
        isolated: &str,
        cpu_manager: &CpuManager,
        drivers: &[&str],
        expect: Expect,
    ) {
        let drivers: Vec<String> = drivers.iter().map(|&driver| driver.to_owned()).collect();
        let isolated = isolated.parse().unwrap();
        let asked =
            Asked { cpus, pod_uid, container: "app", cpu_manager, drivers: &drivers, isolated: &isolated };
        let found = runtime_cpus(&asked, siblings);
        expect.assert_eq(&found.map_or_else(|refusal| refusal.to_string(), |cpus| format!("= {cpus}")));
    }

    #[test]
    fn the_kubelets_exclusive_cpus_are_taken() {
        check("2-3,6-7", &CpuManager::State(state(STATIC)), &[], expect!["= 2-3,6-7"]);
    }

    #[test]
    fn a_claim_vouches_where_the_kubelet_sets_nothing() {
        check("3,7", &CpuManager::State(state(NONE)), &["dra.cpu"], expect!["= 3,7"]);
        check(
            "3,7",
            &CpuManager::Absent,
            &["gpu.nvidia.com"],
            expect![
                "nobody vouches that CPUs 3,7 are container app's alone: neither the kubelet's CPU manager nor a claim of a known DRA driver; the kubelet tries again by itself"
            ],
        );
    }

    #[test]
    fn what_everybody_gets_is_not_taken() {
        let kubelet = CpuManager::State(state(STATIC));
        check(
            "0-1,4-5,8-9",
            &kubelet,
            &[],
            expect![
                "the kubelet gave container app CPUs 2-3,6-7, and somebody changed that to 0-1,4-5,8-9: remove the other NRI plugin that sets cpusets from this node"
            ],
        );
        check(
            "8",
            &kubelet,
            &["dra.cpu"],
            expect![
                "the kubelet gave container app CPUs 2-3,6-7, and somebody changed that to 8: remove the other NRI plugin that sets cpusets from this node"
            ],
        );
        check(
            "",
            &kubelet,
            &[],
            expect![
                "the policy takes cores from the runtime (cores.from: Runtime), and nobody gave container app CPUs: make its pod Guaranteed with a whole number of CPUs on a node with cpuManagerPolicy static, or let it claim CPUs from dra-driver-cpu"
            ],
        );
        check(
            "3,7",
            &CpuManager::State(state(NONE)),
            &[],
            expect![
                "nobody vouches that CPUs 3,7 are container app's alone: neither the kubelet's CPU manager nor a claim of a known DRA driver; the kubelet tries again by itself"
            ],
        );
    }

    #[test]
    fn another_pods_cpus_and_changed_ones_are_refused() {
        let kubelet = CpuManager::State(state(STATIC));
        check_of(
            "2-3,6-7",
            "v",
            "2-3,6-9",
            &kubelet,
            &[],
            expect![
                "nobody vouches that CPUs 2-3,6-7 are container app's alone: neither the kubelet's CPU manager nor a claim of a known DRA driver; the kubelet tries again by itself"
            ],
        );
        check(
            "2,6",
            &kubelet,
            &[],
            expect![
                "the kubelet gave container app CPUs 2-3,6-7, and somebody changed that to 2,6: remove the other NRI plugin that sets cpusets from this node"
            ],
        );
    }

    #[test]
    fn cpus_that_cannot_be_quiet_are_refused() {
        let kubelet = CpuManager::State(state(STATIC));
        check_of(
            "2-3,6-7",
            "u",
            "2,6",
            &kubelet,
            &[],
            expect![
                "CPUs 3,7 of container app cannot be made quiet on this node, only 2,6: let its allocator give CPUs of these, or start quietcore with a larger isolatedCpus"
            ],
        );
        check(
            "3",
            &CpuManager::Absent,
            &["dra.cpu"],
            expect![[
                r#"container app has a part of a physical core: CPUs 7 are the siblings of its own and not in 3; set cpuManagerPolicyOptions full-pcpus-only: "true" in the kubelet's configuration, and ask for whole cores"#
            ]],
        );
    }

    #[test]
    fn what_cannot_be_read_is_refused() {
        check(
            "3,7",
            &CpuManager::Unreadable("read /f: Permission denied".into()),
            &["dra.cpu"],
            expect!["whether CPUs 3,7 are container app's alone cannot be told: read /f: Permission denied"],
        );
        check(
            "x",
            &CpuManager::Absent,
            &["dra.cpu"],
            expect![[
                r#"the CPUs of container app are not a CPU list: "x" is not a CPU list: expected numbers and ranges such as "1,3-5""#
            ]],
        );
    }
}
