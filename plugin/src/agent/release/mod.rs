//! `quietcore release --all-nodes`: what the chart's pre-delete hook runs. Asks every node's agent to let go,
//! and says by name which could not.
//!
//! Two questions, so that never half of the nodes is released: cordon all, and when nothing strict runs on any of them,
//! release all. Whatever goes wrong, both are taken back; and both end by themselves, for a hook that was killed.

mod answers;
mod drain;

use std::{
    io::{self, Write},
    time::Duration,
};

use k8s_openapi::{apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};
use kube::{
    Api, Client, Config, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
    config::InferConfigError,
};
use quietcore_crd::DataplaneNode;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep},
};

use self::{
    answers::{Next, Stand, Step, next, not_restored, stand},
    drain::Drain,
};
use crate::args::ReleaseArgs;

const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Of an agent that has no strict container: it writes a few settings.
const RELEASED_WITHIN: Duration = Duration::from_secs(60);
/// For the objects to be deleted, and for clocks that differ.
const SPARE: Duration = Duration::from_secs(60);
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(15);

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("find the API server")]
    Config(#[from] Box<InferConfigError>),
    #[error("talk to the API server")]
    Api(#[from] Box<kube::Error>),
    #[error("set up the process")]
    Process(#[from] io::Error),
    #[error("a timeout of {0:?} ends beyond all calendars")]
    Timeout(Duration),
    #[error(
        "strict pods still run: {0}; delete them, then uninstall again, or evict them (uninstall.mode: Drain)"
    )]
    StrictPods(String),
    #[error("still there after {within:?}: {pods}")]
    NotGone { within: Duration, pods: String },
    #[error(
        "no answer within {within:?} from the agents of: {nodes}; is their DaemonSet running? Where a node is gone for good, \
         delete its DataplaneNode"
    )]
    Silent { within: Duration, nodes: String },
    #[error("another uninstall has asked node {node} since: see to that one")]
    Another { node: String },
    #[error("stopped")]
    Stopped,
}

impl From<kube::Error> for ReleaseError {
    fn from(error: kube::Error) -> ReleaseError {
        Box::new(error).into()
    }
}

/// One request to all nodes, known by its end.
struct Hook {
    nodes: Api<DataplaneNode>,
    drain: Option<Drain>,
    until: MicroTime,
    timeout: Duration,
    started: Instant,
}

pub async fn run(args: ReleaseArgs, out: &mut impl Write) -> Result<(), ReleaseError> {
    let ReleaseArgs { all_nodes: _, drain, timeout } = args;
    let mut terminate = signal(SignalKind::terminate())?;
    let config = Config::infer().await.map_err(Box::new)?;
    let mut hook = Hook {
        nodes: Api::all(Client::try_from(config.clone())?),
        drain: if drain { Some(Drain::connect(config)?) } else { None },
        until: end(Timestamp::now(), timeout).ok_or(ReleaseError::Timeout(timeout))?,
        timeout,
        started: Instant::now(),
    };
    let done = tokio::select! {
        done = hook.release(out) => done,
        _ = terminate.recv() => Err(ReleaseError::Stopped),
    };
    if done.is_err() {
        hook.take_back().await;
    }
    done
}

/// Whole microseconds, as the API server keeps it.
fn end(now: Timestamp, timeout: Duration) -> Option<MicroTime> {
    let end = now.checked_add(timeout.checked_add(RELEASED_WITHIN + SPARE)?).ok()?;
    Timestamp::from_microsecond(end.as_microsecond()).ok().map(MicroTime)
}

impl Hook {
    async fn release(&mut self, out: &mut impl Write) -> Result<(), ReleaseError> {
        let all = self.names().await?;
        self.ask(Step::Cordon, &all).await?;
        self.wait(Step::Cordon, self.timeout).await?;
        self.ask(Step::Release, &self.names().await?).await?;
        let nodes = self.wait(Step::Release, self.timeout + RELEASED_WITHIN).await?;
        for line in not_restored(&nodes) {
            // The release counts, also where nobody reads about it.
            let _ = writeln!(out, "{line}");
        }
        // The next installation finds the nodes as if it were the first.
        for node in nodes {
            self.nodes.delete(&node.name_any(), &DeleteParams::default()).await?;
        }
        Ok(())
    }

    async fn names(&self) -> Result<Vec<String>, ReleaseError> {
        Ok(self.nodes.list(&ListParams::default()).await?.iter().map(|node| node.name_any()).collect())
    }

    async fn ask(&self, step: Step, nodes: &[String]) -> Result<(), ReleaseError> {
        let spec = json!({"cordon": true, "release": step == Step::Release, "until": self.until});
        for node in nodes {
            let patch = Patch::Merge(json!({"spec": spec}));
            self.nodes.patch(node, &PatchParams::default(), &patch).await?;
        }
        Ok(())
    }

    /// Until all nodes have answered as this step needs it, or `within` after the start is over.
    async fn wait(&mut self, step: Step, within: Duration) -> Result<Vec<DataplaneNode>, ReleaseError> {
        loop {
            let nodes = self.nodes.list(&ListParams::default()).await?.items;
            let stands: Vec<(String, Stand)> =
                nodes.iter().map(|node| (node.name_any(), stand(node, &self.until))).collect();
            let still = match next(&stands, step, self.drain.is_some())? {
                Next::Ask(nodes) => {
                    self.ask(step, &nodes).await?;
                    ReleaseError::Silent { within, nodes: nodes.join(", ") }
                }
                Next::Wait(nodes) => ReleaseError::Silent { within, nodes: nodes.join(", ") },
                next @ (Next::Evict(_) | Next::Done) => {
                    let Some(drain) = self.drain.as_mut().filter(|_| step == Step::Cordon) else {
                        return Ok(nodes);
                    };
                    let named = if let Next::Evict(named) = next { named } else { Vec::new() };
                    let on: Vec<String> = stands.into_iter().map(|(node, _)| node).collect();
                    drain.look(&on, &named).await?;
                    let pods = drain.left(&named);
                    if pods.is_empty() {
                        return Ok(nodes);
                    }
                    ReleaseError::NotGone { within, pods: pods.join("; ") }
                }
            };
            if within < self.started.elapsed() {
                return Err(still);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Of this request only: another hook's is its own. A node that is not reached serves again when the request ends.
    async fn take_back(&self) {
        let started = Instant::now();
        while let Err(error) = self.try_take_back().await {
            if TAKEN_BACK_WITHIN < started.elapsed() {
                tracing::error!(%error, until = %self.until.0, "not all nodes serve again before this time");
                return;
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn try_take_back(&self) -> Result<(), ReleaseError> {
        let nodes = self.nodes.list(&ListParams::default()).await?;
        for node in nodes.iter().filter(|node| node.spec.until.as_ref() == Some(&self.until)) {
            let patch = json!({
                // Refused if it has changed since it was looked at.
                "metadata": {"resourceVersion": node.resource_version()},
                "spec": {"cordon": false, "release": false, "until": null},
            });
            self.nodes.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_requests_end_comes_back_from_the_api_server_as_it_was_sent() {
        let now = Timestamp::from_nanosecond(1_800_000_000_123_456_789).unwrap();
        let end = end(now, Duration::from_secs(120)).unwrap();
        let sent = serde_json::to_string(&end).unwrap();
        assert_eq!(sent, "\"2027-01-15T08:04:00.123456Z\"");
        assert_eq!(serde_json::from_str::<MicroTime>(&sent).unwrap(), end);
        assert_eq!(super::end(now, Duration::MAX), None);
    }
}
