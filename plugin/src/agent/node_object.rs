//! The node's own `DataplaneNode`: shows what the node offers, and brings the request to release it.
//!
//! Written only when something changed, so that the load on the API server does not grow with time.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use k8s_openapi::{
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams},
    runtime::watcher,
};
use quietcore_crd::{
    DataplaneNode,
    node::{Core, CoreState, DataplaneNodeSpec, DataplaneNodeStatus, Finding, SystemCallTax},
    reason::ConditionReason,
};
use tokio::sync::watch;

use super::{
    gate::Seen,
    node_quiet,
    quieting::BootSettings,
    wish::{Wish, answer, wish},
};
use crate::{
    coexist::{self, watch::Coexistence},
    cores::{
        device_plugin::Published,
        grants::Grants,
        ledger::{Grant, Holder},
        set::{CpuId, CpuSet},
        topology::{self, live::Live},
    },
    guard::{
        load::{Guard, GuardError},
        tax::Tax,
    },
    quiet::worker::{Quiet, Standing},
    violation::text::fit_note,
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
const CREATE_AGAIN_AFTER: Duration = Duration::from_secs(10);
const FIELD_MANAGER: &str = "quietcore-agent";

#[expect(missing_debug_implementations, reason = "kube::Client has none")]
pub struct NodeObject {
    pub client: Client,
    pub node: String,
    pub grants: Arc<Grants>,
    pub guard: Arc<Guard>,
    pub seen: watch::Sender<Seen>,
    pub published: watch::Sender<Option<Published>>,
    /// What this node publishes while it serves.
    pub offer: watch::Receiver<Option<CpuSet>>,
    pub quiet: Quiet,
    pub topology: Live,
    /// What `quietcore check` finds wanting.
    pub findings: watch::Receiver<Vec<Finding>>,
    /// Boot settings that were written and are not in force.
    pub missing: watch::Receiver<BootSettings>,
    pub coexistence: Coexistence,
    pub registered: watch::Receiver<bool>,
    /// Why this node publishes nothing, if it does not.
    pub stand_by: watch::Receiver<String>,
}

fn asks(object: &DataplaneNode) -> Wish {
    wish(&object.spec, Timestamp::now())
}

impl NodeObject {
    /// Returns when the node was released and is wanted again: the agent then starts anew, guard and all.
    pub async fn keep(self) -> Result<(), GuardError> {
        let api = Api::<DataplaneNode>::all(self.client.clone());
        let mut objects = watcher::watch_object(api.clone(), &self.node).boxed();
        let mut every = tokio::time::interval(LOOK_EVERY);
        let mut known: Option<DataplaneNode> = None;
        let mut written: Option<DataplaneNodeStatus> = None;
        // When the release of an object that is gone ends.
        let mut until: Option<Timestamp> = None;
        loop {
            tokio::select! {
                object = objects.next() => match object {
                    Some(Ok(Some(object))) => known = Some(object),
                    // Deleted by the hook that asked for the release: this agent is about to go as well.
                    Some(Ok(None)) if self.seen.borrow().released => known = None,
                    Some(Ok(None)) => {
                        written = None;
                        known = self.create(&api).await;
                    }
                    Some(Err(error)) => tracing::debug!(%error, "watch the node's own object"),
                    None => {}
                },
                _ = every.tick() => {}
            }
            let Some(object) = &known else {
                // Still installed, or this would be forbidden by now: the hook that deleted it has died since.
                if until.is_some_and(|until| until <= Timestamp::now()) {
                    known = self.create(&api).await;
                    until = Some(Timestamp::now() + CREATE_AGAIN_AFTER);
                }
                continue;
            };
            until = object.spec.until.as_ref().map(|until| until.0);
            let wish = asks(object);
            let released = self.seen.borrow().released;
            match (wish, released) {
                (Wish::Release, false) => self.try_release(object.spec.cordon).await?,
                // Once more, of the API server: an object that is gone was deleted by the hook, and this agent goes as
                // well. One that is cut off must not take back by its clock alone what others rely on.
                (Wish::Serve, true) => match api.get_opt(&self.node).await {
                    Ok(Some(now)) if asks(&now) == Wish::Serve => return Ok(()),
                    Ok(now) => {
                        known = now;
                        continue;
                    }
                    Err(error) => {
                        tracing::debug!(%error, "ask whether the node is wanted again");
                        continue;
                    }
                },
                (Wish::Serve, false) => self.serve_again(),
                (Wish::Cordon, false) => self.cordon(),
                // More than was asked for.
                (Wish::Cordon, true) | (Wish::Release, true) => {}
            }
            let generation = object.metadata.generation;
            let status = self.status(wish, generation, written.as_ref().or(object.status.as_ref()));
            if written.as_ref() != Some(&status) {
                match self.write(&api, &status).await {
                    Ok(()) => written = Some(status),
                    Err(error) => tracing::debug!(%error, "write the node's own status"),
                }
            }
        }
    }

    async fn create(&self, api: &Api<DataplaneNode>) -> Option<DataplaneNode> {
        let mut object = DataplaneNode::new(&self.node, DataplaneNodeSpec::default());
        object.metadata.managed_fields = None;
        let patch = PatchParams::apply(FIELD_MANAGER);
        match api.patch(&self.node, &patch, &Patch::Apply(&bare(&object))).await {
            Ok(created) => Some(created),
            Err(error) => {
                tracing::warn!(%error, "create the node's own object");
                None
            }
        }
    }

    async fn write(&self, api: &Api<DataplaneNode>, status: &DataplaneNodeStatus) -> kube::Result<()> {
        let patch = serde_json::json!({
            "apiVersion": "quietcore.io/v1alpha1",
            "kind": "DataplaneNode",
            "status": status,
        });
        api.patch_status(&self.node, &PatchParams::apply(FIELD_MANAGER).force(), &Patch::Apply(patch))
            .await?;
        Ok(())
    }

    fn cordon(&self) {
        let news = self.seen.send_if_modified(|seen| !std::mem::replace(&mut seen.cordoned, true));
        if news {
            self.published.send_replace(None);
            tracing::info!("asked to let go: no cores published, no new strict container");
        }
    }

    fn serve_again(&self) {
        let news = self.seen.send_if_modified(|seen| std::mem::take(&mut seen.cordoned));
        if news {
            let offer = self.offer.borrow().clone();
            self.published.send_replace(offer.map(Published::from));
            tracing::info!("no longer asked to let go: cores are published again");
        }
    }

    async fn try_release(&self, cordon: bool) -> Result<(), GuardError> {
        if cordon {
            self.cordon();
        }
        if !Seen::release(&self.seen, &self.grants, self.guard.slots.live()) {
            return Ok(());
        }
        self.published.send_replace(None);
        // Off this thread: it answers the runtime, too.
        let quiet = self.quiet.clone();
        let left = tokio::task::spawn_blocking(move || quiet.give_back()).await.unwrap_or_default();
        for left in left {
            tracing::warn!(step = 3, left, "not as it was before");
        }
        self.guard.unpin()?;
        tracing::info!("released: no cores published, nothing pinned");
        Ok(())
    }

    /// Whom a release would hurt, by name.
    fn strict(&self) -> Vec<String> {
        let untold = "a container that the runtime has not told of yet".to_owned();
        self.grants.read(|ledger| {
            let named = ledger.holders().map(|(holder, _)| name(&holder));
            let knows_all = ledger.knows_all(self.guard.slots.live());
            named.chain((!knows_all).then_some(untold)).collect()
        })
    }

    fn ready(&self, seen: &Seen, published: Option<&CpuSet>) -> Result<(), (ConditionReason, String)> {
        match (published, &seen.runtime) {
            _ if seen.released => Err((ConditionReason::Released, "the node was released".to_owned())),
            _ if seen.cordoned => {
                Err((ConditionReason::Cordoned, "the node was asked to let quietcore go".to_owned()))
            }
            (None, _) => Err((ConditionReason::StandBy, self.stand_by.borrow().clone())),
            (_, None) => Err((
                ConditionReason::NoRuntime,
                "not connected to the container runtime's NRI socket".to_owned(),
            )),
            (_, Some(runtime)) if !runtime.supports_args() => {
                Err((ConditionReason::RuntimeTooOld, format!("{runtime} cannot start strict pods")))
            }
            _ if !*self.registered.borrow() => {
                Err((ConditionReason::NoKubelet, "not registered with the kubelet".to_owned()))
            }
            _ => Ok(()),
        }
    }

    fn cores(
        &self,
        offer: Option<&Published>,
        holders: &[(Holder, CpuSet)],
        standing: &Standing,
    ) -> Vec<Core> {
        let Some(Published { cpus, unhealthy }) = offer else { return Vec::new() };
        let topology = self.topology.known();
        let of = |cpu| {
            let id = topology.core_of(cpu).map_or(cpu, topology::Core::id);
            let core = core(cpu, holders, unhealthy.get(&id).cloned());
            node_quiet::core(core, cpu, self.quiet.boot(), standing)
        };
        cpus.iter().map(of).collect()
    }

    fn status(
        &self,
        wish: Wish,
        generation: Option<i64>,
        before: Option<&DataplaneNodeStatus>,
    ) -> DataplaneNodeStatus {
        let seen = self.seen.borrow().clone();
        let (grants, holders) = self
            .grants
            .read(|ledger| (ledger.grants().collect::<Vec<Grant>>(), ledger.holders().collect::<Vec<_>>()));
        let strict = self.strict();
        let offer = self.published.borrow().clone();
        let published = offer.as_ref().map(|offer| offer.cpus.clone());
        let ready = self.ready(&seen, published.as_ref());
        let standing = self.quiet.standing.borrow().clone();
        let mut conditions = vec![match ready {
            Ok(()) => condition("Ready", "True", ConditionReason::Serving, String::new(), before),
            Err((reason, message)) => condition("Ready", "False", reason, message, before),
        }];
        conditions.push(match node_quiet::lacking(self.quiet.boot(), &standing) {
            None => condition("Quiet", "True", ConditionReason::AllKept, String::new(), before),
            Some(words) => condition("Quiet", "False", ConditionReason::NotAllKept, words, before),
        });
        conditions.push(match self.missing.borrow().as_deref() {
            Err(why) => {
                let words = fit_note(why.clone());
                condition("RebootRequired", "Unknown", ConditionReason::NotKnown, words, before)
            }
            Ok([]) => condition("RebootRequired", "False", ConditionReason::InForce, String::new(), before),
            Ok(missing) => {
                let words = missing.iter().map(|missing| format!("{}: {}", missing.parameter, missing.found));
                let words = fit_note(words.collect::<Vec<_>>().join("; "));
                condition("RebootRequired", "True", ConditionReason::NotInForce, words, before)
            }
        });
        let from_runtime = grants.iter().filter(|grant| grant.claim.policy.cores.from_runtime);
        let from_runtime: Vec<(String, String)> = from_runtime
            .map(|grant| (grant.holder.pod_uid.clone(), grant.holder.container.clone()))
            .collect();
        let others = self.coexistence.conflicts(published.as_ref(), &from_runtime);
        conditions.push(match others.as_slice() {
            [] => condition("Conflicted", "False", ConditionReason::NobodyElse, String::new(), before),
            others => {
                let message = coexist::message(others);
                condition("Conflicted", "True", ConditionReason::OthersSetCpus, message, before)
            }
        });
        if wish != Wish::Serve {
            conditions.push(answer(seen.released, &strict, generation, before));
        }
        DataplaneNodeStatus {
            cores: self.cores(offer.as_ref(), &holders, &standing),
            settings: node_quiet::settings(&standing),
            findings: self.findings.borrow().clone(),
            fixed_interrupts: node_quiet::fixed_interrupts(&standing),
            not_restored: node_quiet::not_restored(&standing),
            isolated_cpus: published.map(|cpus| cpus.to_string()).unwrap_or_default(),
            kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
            detector: self.guard.detector.name().to_owned(),
            system_call_tax: self.guard.tax.map(tax),
            provider: self.guard.provider.name().to_owned(),
            runtime: seen.runtime.map(|runtime| runtime.to_string()).unwrap_or_default(),
            strict_containers: strict,
            conditions,
        }
    }
}

/// As users read it: namespace/pod/container.
fn name(holder: &Holder) -> String {
    format!("{}/{}/{}", holder.namespace, holder.pod, holder.container)
}

fn core(cpu: CpuId, holders: &[(Holder, CpuSet)], retired: Option<String>) -> Core {
    let holder = holders.iter().find(|(_, cores)| cores.contains(cpu)).map(|(holder, _)| name(holder));
    let state = match (&holder, &retired) {
        (Some(_), _) => CoreState::Granted,
        (None, Some(_)) => CoreState::Retired,
        (None, None) => CoreState::Free,
    };
    Core { cpu: i64::from(cpu.number()), state, holder, retired, ..Core::default() }
}

fn tax(Tax { without, with }: Tax) -> SystemCallTax {
    let nanoseconds = |time: Duration| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX);
    SystemCallTax { without_nanoseconds: nanoseconds(without), with_nanoseconds: nanoseconds(with) }
}

/// Server-side apply refuses an object that carries what only the server sets.
fn bare(object: &DataplaneNode) -> serde_json::Value {
    serde_json::json!({
        "apiVersion": "quietcore.io/v1alpha1",
        "kind": "DataplaneNode",
        "metadata": {"name": object.metadata.name},
        "spec": {},
    })
}

pub(super) fn condition(
    type_: &str,
    status: &str,
    reason: ConditionReason,
    message: String,
    before: Option<&DataplaneNodeStatus>,
) -> Condition {
    let before = before.and_then(|before| before.conditions.iter().find(|known| known.type_ == type_));
    let since = before.filter(|known| known.status == status).map(|known| known.last_transition_time.clone());
    Condition {
        type_: type_.to_owned(),
        status: status.to_owned(),
        reason: reason.text().to_owned(),
        message,
        observed_generation: None,
        last_transition_time: since.unwrap_or_else(|| Time(Timestamp::now())),
    }
}
