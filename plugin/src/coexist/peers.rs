//! What NRI shows of others that set cpusets: their pods, what they adjust, and what they ask of strict
//! containers. Pure: the gate tells it, in the order of the runtime's events.

use std::collections::{BTreeMap, BTreeSet};

use quietcore_proto::nri::{Container, PodSandbox};

use super::known::Known;
use crate::{
    cores::{ledger::Holder, set::CpuSet},
    nri::{
        session::{PLUGIN_INDEX, PLUGIN_NAME},
        validate::{Plugin, Validated},
    },
};

/// Containers created: a plugin that was told to leave cpusets alone needs no restart for us to notice.
const FORGOTTEN_AFTER: u32 = 50;

/// A container that somebody wanted elsewhere, as namespace/pod/name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Override {
    pub container: String,
    pub asked: CpuSet,
}

/// Everything by the runtime's id of a container, and so gone with it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Peers {
    pods: BTreeMap<String, (Known, String)>,
    overrides: BTreeMap<String, Override>,
    /// With the number of containers created since it set a cpuset.
    cpuset_owners: BTreeMap<Plugin, u32>,
    consulted: Vec<Plugin>,
}

impl Peers {
    /// Each time the runtime tells all it has; other plugins may be gone by then.
    pub fn synchronized<'a>(&mut self, live: impl Iterator<Item = (&'a PodSandbox, &'a Container)>) {
        *self = Peers::default();
        live.for_each(|(pod, container)| self.created(pod, container));
    }

    /// Before it runs: a plugin that is installed later than we are is known before it can adjust anything.
    pub fn created(&mut self, pod: &PodSandbox, container: &Container) {
        let label = |key: &str| pod.labels.get(key).map(String::as_str);
        let mounts = container.mounts.iter().map(|mount| mount.source.as_str());
        if let Some(known) = Known::of_pod(label, mounts) {
            let name = format!("{}/{}", pod.namespace, pod.name);
            self.pods.insert(container.id.clone(), (known, name));
        }
    }

    /// Stopped or removed; tolerates being told twice.
    pub fn ended(&mut self, container_id: &str) {
        self.pods.remove(container_id);
        self.overrides.remove(container_id);
    }

    /// A plugin counts as long as it is connected, and does it now and then.
    pub fn validated(&mut self, seen: Validated) {
        self.consulted = seen.consulted;
        let consulted = &self.consulted;
        self.cpuset_owners.retain(|plugin, n_since| {
            *n_since += 1;
            *n_since < FORGOTTEN_AFTER && consulted.contains(plugin)
        });
        let owners = seen.cpuset_owners.into_values().filter(|plugin| !is_ours(plugin));
        self.cpuset_owners.extend(owners.map(|plugin| (plugin, 0)));
    }

    /// The cpuset that a CreateContainer or UpdateContainer held for a strict container before our answer.
    /// One that is none is nobody's wish, and an empty one asks for nothing.
    pub fn asked(&mut self, container_id: &str, holder: &Holder, asked: &str, ours: &CpuSet) {
        match asked.parse::<CpuSet>() {
            Ok(asked) if asked != *ours => {
                let container = format!("{}/{}/{}", holder.namespace, holder.pod, holder.container);
                self.overrides.insert(container_id.to_owned(), Override { container, asked });
            }
            // A restarted kubelet asks again, and may agree by now.
            Ok(_same) => {
                self.overrides.remove(container_id);
            }
            Err(_) => {}
        }
    }

    pub fn cpuset_owners(&self) -> impl Iterator<Item = &Plugin> {
        self.cpuset_owners.keys()
    }

    /// Each kind once, with one of its pods. Ours are counted, not listed.
    pub fn pods(&self) -> impl Iterator<Item = (Known, &str)> {
        let mut kinds: BTreeMap<Known, &str> = BTreeMap::new();
        for (known, pod) in self.pods.values().filter(|(known, _)| *known != Known::Quietcore) {
            kinds.entry(*known).or_insert(pod);
        }
        kinds.into_iter()
    }

    /// Agents of ours, this one among them: as many as are connected, or have pods here.
    pub fn n_agents(&self) -> usize {
        let connected = self.consulted.iter().filter(|plugin| plugin.name == PLUGIN_NAME).count();
        let pods = self.pods.values().filter(|(known, _)| *known == Known::Quietcore);
        connected.max(pods.map(|(_, pod)| pod).collect::<BTreeSet<_>>().len())
    }

    pub fn overrides(&self) -> impl Iterator<Item = &Override> {
        self.overrides.values()
    }
}

fn is_ours(plugin: &Plugin) -> bool {
    plugin.index == PLUGIN_INDEX && plugin.name == PLUGIN_NAME
}
