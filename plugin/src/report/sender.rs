//! Step 9: carries the queue to the API server.
//!
//! One request at a time, paced for the whole node, repeated with back-off until the API server has decided.
//! The only file that writes Events.

use std::{
    collections::HashSet,
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use k8s_openapi::{api::events::v1::Event, jiff::Timestamp};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::{sleep, timeout};

use crate::{
    metrics::{DropReason, Metrics},
    report::{
        event,
        queue::{Job, Outcome},
        reporter::Shared,
    },
};

mod pace;

use pace::Pace;

/// The API server's own limit for a request is 60 s; an Event takes milliseconds.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

pub(super) struct Sender {
    client: Client,
    node: String,
    /// What was refused and already said in the log.
    complained: HashSet<String>,
}

pub(super) async fn run(mut sender: Sender, shared: &Shared) -> std::convert::Infallible {
    let mut pace = Pace::new(shared.now());
    let mut failures = 0;
    loop {
        let Some(job) = shared.queue().next(Timestamp::now(), shared.now()) else {
            wait_for_work(shared).await;
            continue;
        };
        sleep(pace.wait(shared.now())).await;
        let outcome = sender.send(&job, &shared.metrics).await;
        match outcome {
            Outcome::Done => done(&job, shared),
            _ => shared.queue().settle(&job, outcome, shared.now()),
        }
        shared.measure_queue();
        match outcome {
            Outcome::NotNow | Outcome::NoAnswer => {
                sleep(backoff(failures, RandomState::new().build_hasher().finish())).await;
                failures += 1;
            }
            Outcome::Done | Outcome::Refused | Outcome::Expired => failures = 0,
        }
    }
}

/// Told: by the API server, or by the log where there is none.
pub(super) fn done(job: &Job, shared: &Shared) {
    if let Job::Create { named, times, .. } | Job::Patch { named, times, .. } = job
        && 1 < times.count
    {
        shared.log().repeated(&named.draft, *times);
    }
    shared.queue().settle(job, Outcome::Done, shared.now());
}

pub(super) async fn wait_for_work(shared: &Shared) {
    let due = shared.queue().next_due();
    match due {
        Some(due) => {
            let until = due.saturating_sub(shared.now());
            // Either is a reason to look again.
            let _ = timeout(until, shared.work.notified()).await;
        }
        None => shared.work.notified().await,
    }
}

/// Doubles up to half a minute; half of it is drawn, so that the nodes of a cluster do not come back as one.
fn backoff(failures: u32, random: u64) -> Duration {
    let full = BACKOFF_FIRST.saturating_mul(2_u32.saturating_pow(failures)).min(BACKOFF_MAX);
    let half = full / 2;
    let half_ms = u64::try_from(half.as_millis()).unwrap_or(u64::MAX);
    half + Duration::from_millis(random % (half_ms + 1))
}

impl Sender {
    pub(super) fn new(client: Client, node: String) -> Sender {
        Sender { client, node, complained: HashSet::new() }
    }

    async fn send(&mut self, job: &Job, metrics: &Metrics) -> Outcome {
        let named = match job {
            Job::Create { named, .. } | Job::Patch { named, .. } | Job::CreateDropped { named, .. } => named,
        };
        let events: Api<Event> = Api::namespaced(self.client.clone(), named.draft.namespace());
        let answer = match job {
            Job::Create { times, .. } => {
                let event = named.draft.event(&named.name, &self.node, *times);
                timeout(REQUEST_TIMEOUT, events.create(&PostParams::default(), &event)).await
            }
            Job::CreateDropped { .. } => {
                let once = event::Times { count: 1, last: named.draft.at };
                let event = named.draft.event(&named.name, &self.node, once);
                timeout(REQUEST_TIMEOUT, events.create(&PostParams::default(), &event)).await
            }
            Job::Patch { times, .. } => {
                let patch = Patch::Merge(json!({ "series": event::series(*times) }));
                timeout(REQUEST_TIMEOUT, events.patch(&named.name, &PatchParams::default(), &patch)).await
            }
        };
        let is_patch = matches!(job, Job::Patch { .. });
        let outcome = match answer {
            Ok(Ok(_)) => Outcome::Done,
            Ok(Err(error)) => self.judge(&error, named.draft.namespace(), is_patch, metrics),
            Err(_elapsed) => {
                tracing::warn!(event = named.name, "no answer from the API server in {REQUEST_TIMEOUT:?}");
                Outcome::NoAnswer
            }
        };
        match outcome {
            Outcome::Done if is_patch => metrics.events_patched.inc(),
            Outcome::Done => metrics.events_sent.inc(),
            Outcome::NotNow | Outcome::NoAnswer => metrics.events_retried.inc(),
            Outcome::Refused | Outcome::Expired => 0,
        };
        outcome
    }

    fn judge(&mut self, error: &kube::Error, namespace: &str, is_patch: bool, metrics: &Metrics) -> Outcome {
        let kube::Error::Api(status) = error else {
            tracing::warn!(%error, "reach the API server");
            return Outcome::NoAnswer;
        };
        let mut drop = |reason, complaint: String| {
            metrics.event_dropped(reason, 1);
            // Once: an agent whose role misses a verb would fill the log of every node.
            if self.complained.len() < 1024 && self.complained.insert(complaint.clone()) {
                tracing::warn!(answer = status.message, "{complaint}");
            }
            Outcome::Refused
        };
        match status.code {
            // A try before this one arrived, only its answer did not.
            409 if !is_patch => Outcome::Done,
            404 if is_patch => Outcome::Expired,
            404 => drop(DropReason::Gone, format!("namespace {namespace} is gone: its Events are dropped")),
            403 if status.message.contains("being terminated") => drop(
                DropReason::Gone,
                format!("namespace {namespace} is being deleted: its Events are dropped"),
            ),
            403 => drop(
                DropReason::Forbidden,
                format!(
                    "the agent's role may not create and patch Events in namespace {namespace}: they are dropped"
                ),
            ),
            400 | 413 | 422 => drop(
                DropReason::Invalid,
                format!("an Event for namespace {namespace} is not valid: it is dropped"),
            ),
            code => {
                tracing::warn!(code, answer = status.message, "write an Event");
                Outcome::NotNow
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_up_to_half_a_minute_and_is_never_the_same_for_all() {
        let range = |failures| (backoff(failures, 0).as_millis(), backoff(failures, u64::MAX).as_millis());
        for failures in 0..100 {
            let (low, high) = range(failures);
            assert!(low <= high && high <= BACKOFF_MAX.as_millis() && 250 <= low, "{failures}: {low} {high}");
        }
        assert!(backoff(3, 7) != backoff(3, 1000));
    }
}
