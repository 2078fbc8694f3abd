//! Does the kubelet give away, or let others run on, CPUs that we publish? Pure.

use super::{
    Conflict, Facts,
    cpu_manager::{CpuManager, CpuManagerState, Exclusive, Owner, Policy},
};
use crate::cores::set::CpuSet;

const WHO: &str = "kubelet";
/// The kubelet does not start when its options contradict the state that it finds.
const ANEW: &str = "then drain the node, delete /var/lib/kubelet/cpu_manager_state and restart the kubelet";

pub(super) fn conflicts(facts: &Facts<'_>) -> Vec<Conflict> {
    let Some(published) = facts.published else { return Vec::new() };
    let state = match facts.cpu_manager {
        CpuManager::Absent => return Vec::new(),
        CpuManager::State(state) => state,
        CpuManager::Unreadable(why) => {
            return vec![Conflict {
                who: WHO.to_owned(),
                what: format!("whether it gives away isolated CPUs cannot be told: {why}"),
                remedy: "let the agent read the kubelet's root folder".to_owned(),
            }];
        }
    };
    let mut found = Vec::new();
    match &state.policy {
        Policy::None => {}
        Policy::Static => found.extend(shared_pool(state, published, facts.allocatable)),
        Policy::Unknown(name) => found.push(Conflict {
            who: WHO.to_owned(),
            what: format!("its CPU manager policy {name} is unknown to quietcore"),
            remedy: "set cpuManagerPolicy to none or static".to_owned(),
        }),
    }
    let strangers = state.exclusive.iter().filter(|entry| !is_from_runtime(entry, facts.from_runtime));
    found.extend(strangers.filter_map(|entry| given_away(entry, published)));
    found
}

/// Everybody without CPUs of its own may run there: containers by the kubelet's doing, nobody by ours.
fn shared_pool(
    state: &CpuManagerState,
    published: &CpuSet,
    allocatable: Option<&CpuSet>,
) -> Option<Conflict> {
    let taken = common(state.shared.as_ref()?, published)?;
    // Reserved CPUs are not allocatable, and stay in the shared pool unless the reservation is strict.
    let reserve = match allocatable.map(|cpus| common(cpus, published)) {
        Some(None) => String::new(),
        Some(Some(missing)) => format!("add {missing} to reservedSystemCPUs and "),
        None => format!("let reservedSystemCPUs contain {published} and "),
    };
    Some(Conflict {
        who: WHO.to_owned(),
        what: format!("the shared pool of its static CPU manager policy contains the published CPUs {taken}"),
        remedy: format!(
            "in its configuration {reserve}set cpuManagerPolicyOptions strict-cpu-reservation: \"true\", {ANEW}"
        ),
    })
}

fn given_away(entry: &Exclusive, published: &CpuSet) -> Option<Conflict> {
    let taken = common(&entry.cpus, published)?;
    Some(Conflict {
        who: WHO.to_owned(),
        what: format!("its CPU manager gave the published CPUs {taken} to {}", entry.owner),
        remedy: format!("in its configuration let reservedSystemCPUs contain {taken}, {ANEW}"),
    })
}

fn is_from_runtime(entry: &Exclusive, from_runtime: &[(String, String)]) -> bool {
    match &entry.owner {
        Owner::Container { pod_uid, container } => {
            from_runtime.iter().any(|(uid, name)| uid == pod_uid && name == container)
        }
        Owner::ContainerId(_) => false,
        Owner::Pod { pod_uid } => from_runtime.iter().any(|(uid, _)| uid == pod_uid),
    }
}

fn common(one: &CpuSet, other: &CpuSet) -> Option<CpuSet> {
    CpuSet::new(one.iter().filter(|cpu| other.contains(*cpu)).collect())
}
