//! The part of the kubelet's configuration that keeps its accounting off the isolated cores. Pure.

use std::fmt::Write as _;

use serde::Serialize;

use super::facts::Facts;
use crate::cores::set::CpuSet;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum CpuManager {
    /// The kubelet's default: it sets no CPUs, quietcore keeps containers off the granted cores
    None,
    /// Exclusive CPUs among the housekeeping ones; needs strict-cpu-reservation
    Static,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Kubelet {
    #[serde(rename = "reservedSystemCPUs")]
    pub(super) reserved_system_cpus: CpuSet,
    pub(super) cpu_manager_policy: CpuManager,
    pub(super) strict_cpu_reservation: bool,
    /// `None`: the kubelet's default, as one NUMA node leaves nothing to align.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) topology_manager_policy: Option<&'static str>,
    pub(super) reasons: Vec<Reason>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Reason {
    pub(super) field: &'static str,
    pub(super) reason: String,
    pub(super) source: &'static str,
}

const RESERVED: &str =
    "kubernetes.io/docs/tasks/administer-cluster/reserve-compute-resources, Explicitly Reserved CPU List";
const TOPOLOGY: &str = "kubernetes.io/docs/tasks/administer-cluster/topology-manager";
const POLICIES: &str = "kubernetes.io/docs/tasks/administer-cluster/cpu-management-policies";

/// Without `system`, the first housekeeping core goes to the system, unless it is the only one: with every CPU
/// reserved the node would have none to allocate, and no ordinary pod could be scheduled to it.
pub(super) fn fragment(facts: &Facts, policy: CpuManager, system: Option<&CpuSet>) -> Kubelet {
    let alone = facts.housekeeping.without(&facts.first_core).is_none();
    let system = system.or((!alone).then_some(&facts.first_core));
    let reserved = match system {
        Some(system) => facts.isolate.iter().chain(system.iter()).collect(),
        None => facts.isolate.iter().collect(),
    };
    let reserved = CpuSet::new(reserved).unwrap_or_else(|| facts.isolate.clone());
    let for_system = match system {
        Some(system) => format!("CPU {system} is for the system's services"),
        None => "none is for the system's services alone, as pods would have none left".into(),
    };
    let left = facts.housekeeping.without(&reserved).map_or("nothing".into(), |left| format!("CPU {left}"));
    let isolate = &facts.isolate;
    let mut reasons = vec![Reason {
        field: "reservedSystemCPUs",
        reason: format!(
            "CPU {isolate} is counted as quietcore.io/core and must not be allocatable as cpu too; {for_system}; \
             pods share {left}"
        ),
        source: RESERVED,
    }];
    reasons.push(match policy {
        CpuManager::None => Reason {
            field: "cpuManagerPolicy",
            reason: "the kubelet then sets no CPUs and never overwrites those of a grant".into(),
            source: POLICIES,
        },
        CpuManager::Static => Reason {
            field: "cpuManagerPolicyOptions",
            reason:
                "without it pods of the shared pool run on reserved CPUs, isolated ones among them; when it \
                changes, drain the node and delete /var/lib/kubelet/cpu_manager_state"
                    .into(),
            source: "KEP-4540 (stable in 1.35, on by default since 1.33, before it needs its feature gate)",
        },
    });
    let topology_manager_policy = (facts.nodes.len() > 1).then_some("best-effort");
    if topology_manager_policy.is_some() {
        reasons.push(Reason {
            field: "topologyManagerPolicy",
            reason: "cores come from the NUMA node of the pod's other devices where they can; single-numa-node would \
                refuse the pod where they cannot"
                .into(),
            source: TOPOLOGY,
        });
    }
    Kubelet {
        topology_manager_policy,
        reserved_system_cpus: reserved,
        cpu_manager_policy: policy,
        strict_cpu_reservation: policy == CpuManager::Static,
        reasons,
    }
}

/// For `kubelet --config-dir`, or to be merged into its configuration file.
pub(super) fn yaml(kubelet: &Kubelet) -> String {
    let mut text = String::from("apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n");
    let why = |field: &str| kubelet.reasons.iter().find(|reason| reason.field == field);
    // Writing to a String cannot fail.
    if let Some(why) = why("reservedSystemCPUs") {
        let _ = writeln!(text, "# {}", why.reason);
    }
    let _ = writeln!(text, "reservedSystemCPUs: \"{}\"", kubelet.reserved_system_cpus);
    match kubelet.cpu_manager_policy {
        CpuManager::None => text.push_str("cpuManagerPolicy: none\n"),
        CpuManager::Static => {
            if let Some(why) = why("cpuManagerPolicyOptions") {
                let _ = writeln!(text, "# {}", why.reason);
            }
            text.push_str(
                "cpuManagerPolicy: static\ncpuManagerPolicyOptions:\n  strict-cpu-reservation: \"true\"\n",
            );
        }
    }
    if let Some(policy) = kubelet.topology_manager_policy {
        if let Some(why) = why("topologyManagerPolicy") {
            let _ = writeln!(text, "# {}", why.reason);
        }
        let _ = writeln!(text, "topologyManagerPolicy: {policy}");
    }
    text
}
