//! Steps 3 and 4 after a (re)connect: what the runtime says there is, beside what the ledger and the guard know. What
//! should be strict and is not becomes an Event; what is over lets go of its cores.

use std::sync::Arc;

use quietcore_proto::nri::{Container, ContainerState, PodSandbox};

use super::{
    ends::lives,
    gate::{Gate, cgroups_path, looks_strict},
};
use crate::{
    cores::ledger::{Holder, Ledger, Stranger},
    policy::resolve::{Choice, CoresOf, resolve},
    report::{ContainerInfo, Reason, Subject},
};

impl Gate {
    pub(super) fn synchronized(&self, pods: &[PodSandbox], containers: &[Container]) {
        let is_live = |container: &&Container| container.state != ContainerState::ContainerStopped as i32;
        let live = || containers.iter().filter(is_live);
        let with_pod = |container: &'_ Container| pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
        self.coexistence
            .peers()
            .synchronized(live().filter_map(|container| Some((with_pod(container)?, container))));
        let strict = live().filter(|container| looks_strict(container));
        let strict = strict.filter_map(|container| stranger(container, pods)).collect();
        let mut ids: Vec<String> = live().map(|container| container.id.clone()).collect();
        // containerd does not list those whose state it does not know.
        let unlisted = self.grants.read(|ledger| ledger.grants().collect::<Vec<_>>()).into_iter();
        let unlisted = unlisted.map(|grant| grant.claim).filter(|claim| !ids.contains(&claim.container_id));
        let running = unlisted.filter(|claim| claim.pid.is_some() && lives(&claim.container_id, claim.pid));
        let running: Vec<String> = running.map(|claim| claim.container_id).collect();
        ids.extend(running);
        for gone in self.grants.change(|ledger| ledger.reconcile(&ids, strict)) {
            tracing::info!(step = 3, pod = gone.holder.pod, cpus = %gone.cpus, "ended while the agent was away");
            self.ends().forget(&gone);
        }
        self.ends().close_unused();
        self.quiet.look();
        for container in live().filter(|container| self.should_be_strict(container, with_pod(container))) {
            let runs = container.state == ContainerState::ContainerRunning as i32;
            if let (true, Ok(pid)) = (runs, i32::try_from(container.pid)) {
                self.know_pid(&container.id, pid);
            }
            let grant = self.grants.read(|ledger| ledger.grant(&container.id));
            // Created, and not started yet: the gate is still before it.
            let waiting = !runs && grant.as_ref().is_some_and(|grant| grant.claim.pid.is_none());
            let watched = grant.is_some_and(|grant| self.guard.slots.is_live(grant.claim.slot));
            if !watched && !waiting {
                tracing::error!(step = 4, container = container.name, "strict container without a guard");
                self.report_unprotected(container, pods);
            }
        }
    }

    /// The agent may have died between a start and its line on disk.
    fn know_pid(&self, container_id: &str, pid: i32) {
        let unknown =
            |ledger: &Ledger| ledger.grant(container_id).is_some_and(|grant| grant.claim.pid.is_none());
        if pid != 0 && self.grants.read(unknown) {
            self.grants.change(|ledger| ledger.started(container_id, pid));
        }
    }

    /// By its looks, or by a policy for CPUs of another allocator, which leave none.
    fn should_be_strict(&self, container: &Container, pod: Option<&PodSandbox>) -> bool {
        let from_runtime = |pod: &PodSandbox| {
            let Ok(Choice::Policy(named)) = resolve(&pod.annotations, &container.name, false) else {
                return false;
            };
            let policy = self.policies.find(&pod.namespace, &named.policy);
            policy.is_ok_and(|policy| matches!(named.cores(&policy), Ok(CoresOf::Runtime)))
        };
        looks_strict(container) || pod.is_some_and(from_runtime)
    }

    fn report_unprotected(&self, container: &Container, pods: &[PodSandbox]) {
        let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id);
        let (namespace, name, uid) = pod.map_or_else(Default::default, |pod| {
            (pod.namespace.as_str(), pod.name.as_str(), pod.uid.as_str())
        });
        let info = ContainerInfo {
            namespace: namespace.into(),
            pod: name.into(),
            pod_uid: uid.into(),
            container: container.name.as_str().into(),
            container_id: container.id.as_str().into(),
            policy: None,
        };
        let note = "this container holds quietcore cores and the agent does not know it: it started while the agent was \
                    away, or the node's ledger was lost; nothing of it is reported until the pod is deleted and made anew"
            .to_owned();
        self.reporter.event(Subject::Container(Arc::new(info)), Reason::Unprotected, note);
    }
}

/// How the ledger knows it, if it is none of its own.
fn stranger(container: &Container, pods: &[PodSandbox]) -> Option<Stranger> {
    let cpus = container.linux.as_ref()?.resources.as_ref()?.cpu.as_ref()?.cpus.parse().ok()?;
    let pod = pods.iter().find(|pod| pod.id == container.pod_sandbox_id)?;
    let holder = Holder {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        container: container.name.clone(),
    };
    let cgroup = cgroups_path(container).to_owned();
    Some(Stranger { container_id: container.id.clone(), holder, cpus, cgroup })
}
