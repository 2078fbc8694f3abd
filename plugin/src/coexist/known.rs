//! Who is known to set cpusets, and what its settings are called. Pure.
//!
//! By the name it registers with NRI, and before it has adjusted anything by its pod: labels that its manifest
//! sets, together with a host path that no ordinary pod is allowed to mount, because labels are anybody's.

use super::{
    Conflict, Facts,
    cpu_manager::{CpuManager, CpuManagerState, Policy},
    peers::{Override, Peers},
};
use crate::{
    cores::set::CpuSet,
    nri::{session::PLUGIN_NAME, validate::Plugin},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    Balloons,
    TopologyAware,
    DraDriverCpu,
    Koordlet,
    CpuPooler,
    /// Another agent of ours.
    Quietcore,
}

const NRI_SOCKETS: [&str; 2] = ["/var/run/nri", "/run/nri"];

impl Known {
    const ALL: [Known; 6] = [
        Known::Balloons,
        Known::TopologyAware,
        Known::DraDriverCpu,
        Known::Koordlet,
        Known::CpuPooler,
        Known::Quietcore,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Known::Balloons => "nri-resource-policy-balloons",
            Known::TopologyAware => "nri-resource-policy-topology-aware",
            Known::DraDriverCpu => "dra-driver-cpu",
            Known::Koordlet => "koordlet",
            Known::CpuPooler => "CPU-Pooler",
            Known::Quietcore => "quietcore",
        }
    }

    /// Of its pods; any of them.
    fn labels(self) -> &'static [(&'static str, &'static str)] {
        const NAME: &str = "app.kubernetes.io/name";
        match self {
            Known::Balloons => &[(NAME, "nri-resource-policy-balloons")],
            Known::TopologyAware => &[(NAME, "nri-resource-policy-topology-aware")],
            Known::DraDriverCpu => &[(NAME, "dra-driver-cpu"), ("app", "dracpu")],
            Known::Koordlet => &[("koord-app", "koordlet")],
            Known::CpuPooler => &[("cpu-pooler", "cpu-setter")],
            Known::Quietcore => &[(NAME, "quietcore")],
        }
    }

    /// It mounts one of these, or something below.
    fn host_paths(self) -> &'static [&'static str] {
        match self {
            Known::Koordlet => &["/sys/fs/cgroup"],
            Known::CpuPooler => &["/var/lib/kubelet/device-plugins"],
            _ => &NRI_SOCKETS,
        }
    }

    /// Both of nri-plugins' policies register as "resource-manager".
    pub fn of_plugin(name: &str) -> &'static [Known] {
        match name {
            "resource-manager" => &[Known::Balloons, Known::TopologyAware],
            "dra.cpu" => &[Known::DraDriverCpu],
            "koordlet_nri" => &[Known::Koordlet],
            PLUGIN_NAME => &[Known::Quietcore],
            _ => &[],
        }
    }

    pub fn of_pod<'a>(
        label: impl Fn(&str) -> Option<&'a str>,
        mut mounts: impl Iterator<Item = &'a str>,
    ) -> Option<Known> {
        let is = |known: &Known| known.labels().iter().any(|(key, value)| label(key) == Some(value));
        let known = Known::ALL.into_iter().find(is)?;
        let below = |mount: &str, path: &str| {
            mount.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        mounts.any(|mount| known.host_paths().iter().any(|path| below(mount, path))).then_some(known)
    }

    fn remedy(self, published: &CpuSet) -> String {
        match self {
            Known::Balloons => nri_resource_policy("BalloonsPolicy", published),
            Known::TopologyAware => nri_resource_policy("TopologyAwarePolicy", published),
            Known::DraDriverCpu => format!(
                "keep it off this node, or let strict pods claim their CPUs from it under policies with cores.from: \
                 Runtime; its driverConfig.reservedCPUs: \"{published}\" (--reserved-cpus) keeps its claims off these \
                 CPUs, but it sets the cpuset of strict containers all the same"
            ),
            Known::Koordlet => format!(
                "start it with -feature-gates=CPUSetAllocator=false, set cpuSuppressPolicy: cfsQuota in \
                 resource-threshold-config of ConfigMap slo-controller-config, and annotate the Node with \
                 node.koordinator.sh/reservation: '{{\"reservedCPUs\":\"{published}\"}}'"
            ),
            Known::CpuPooler => {
                format!("leave {published} out of its pools in ConfigMap cpu-pooler-configmap")
            }
            Known::Quietcore => "keep one of both installations off this node".to_owned(),
        }
    }
}

fn nri_resource_policy(kind: &str, published: &CpuSet) -> String {
    format!(
        "in its {kind} set availableResources.cpu: \"exclude-cpuset:{published}\", and annotate strict pods with \
         cpu.preserve.resource-policy.nri.io/container.NAME: \"true\" and \
         memory.preserve.resource-policy.nri.io/container.NAME: \"true\""
    )
}

pub(super) fn conflicts(facts: &Facts<'_>) -> Vec<Conflict> {
    let Facts { published: Some(published), peers, cpu_manager, .. } = *facts else { return Vec::new() };
    let mut found: Vec<Conflict> = peers.cpuset_owners().map(|plugin| owner(plugin, published)).collect();
    // Named once: by what it did rather than by its looks.
    let named: Vec<Known> =
        peers.cpuset_owners().flat_map(|plugin| Known::of_plugin(&plugin.name)).copied().collect();
    for (known, pod) in peers.pods().filter(|(known, _)| !named.contains(known)) {
        found.push(Conflict {
            who: known.name().to_owned(),
            what: format!("it runs on this node, as pod {pod}, and sets containers' cpusets"),
            remedy: known.remedy(published),
        });
    }
    found.extend(second_agent(peers, published));
    let state = match cpu_manager {
        CpuManager::State(state) => Some(state),
        CpuManager::Absent | CpuManager::Unreadable(_) => None,
    };
    found.extend(peers.overrides().filter_map(|set| overridden(set, state, published)));
    found
}

fn owner(plugin: &Plugin, published: &CpuSet) -> Conflict {
    let known = Known::of_plugin(&plugin.name);
    let who = match known {
        [] => format!("NRI plugin {plugin}"),
        known => {
            let names = known.iter().map(|known| known.name()).collect::<Vec<_>>().join(" or ");
            format!("NRI plugin {plugin} ({names})")
        }
    };
    Conflict {
        who,
        what: "it sets containers' cpusets, and the runtime refuses a strict container that two plugins set"
            .to_owned(),
        remedy: match known {
            [] => {
                format!("keep it off this node, or let it leave strict containers and CPUs {published} alone")
            }
            [first, ..] => first.remedy(published),
        },
    }
}

fn second_agent(peers: &Peers, published: &CpuSet) -> Option<Conflict> {
    (1 < peers.n_agents()).then(|| Conflict {
        who: Known::Quietcore.name().to_owned(),
        what: format!("{} agents are connected to this node's container runtime", peers.n_agents()),
        remedy: Known::Quietcore.remedy(published),
    })
}

/// The kubelet's static policy names a cpuset for every container, which our answer replaces each time: only
/// one that it has no reason for, or that would take published CPUs, is somebody's else's or a mistake.
fn overridden(set: &Override, state: Option<&CpuManagerState>, published: &CpuSet) -> Option<Conflict> {
    let by_kubelet = state.is_some_and(|state| state.policy == Policy::Static);
    if by_kubelet && !set.asked.overlaps(published) {
        return None;
    }
    Some(Conflict {
        who: "another NRI plugin, the kubelet, or a client of the runtime's CRI".to_owned(),
        what: format!("container {} was to run on CPUs {} instead of its own", set.container, set.asked),
        remedy:
            "let nothing but quietcore set the cpuset of strict containers: look for other NRI plugins, node \
                 agents and cpuManagerPolicy on this node"
                .to_owned(),
    })
}
