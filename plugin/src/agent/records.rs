//! The thread that reads what the guard saw: records to step 8, counters to the metrics. On its way it arms who
//! has settled: each 50 ms, from a housekeeping CPU.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::sync::mpsc;

use super::{
    containers::{Containers, Key},
    strictness,
    visitors::Sightings,
};
use crate::{
    arm::settle::Settler,
    guard::{abi::qc_record, load::Guard, slots::Slot},
    metrics::{ContainerLabels, Metrics},
    report::{Reason, Reporter, Subject},
};

const COUNTS_EVERY: Duration = Duration::from_secs(1);

#[expect(missing_debug_implementations, reason = "the reporter has none")]
pub struct Records {
    pub guard: Arc<Guard>,
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
    pub metrics: Arc<Metrics>,
    pub sightings: Sightings,
}

impl Records {
    /// For a thread of its own. An error ends the agent: a guard that nobody reads is no guard.
    pub fn spawn_reader(&self, failed: mpsc::Sender<crate::guard::load::GuardError>) {
        let (guard, containers, reporter) =
            (Arc::clone(&self.guard), Arc::clone(&self.containers), self.reporter.clone());
        let sightings = self.sightings.clone();
        std::thread::spawn(move || {
            let level = guard.own_pid_level;
            let settler = Settler::new(&guard);
            let hand_on = |record: &qc_record| {
                sightings.record(record);
                hand_on(record, level, &containers, &reporter);
            };
            let settle_and_go_on = || {
                strictness::settle(&settler, &hand_on, &containers, &reporter);
                false
            };
            let read = guard
                .records()
                .and_then(|records| records.drain_until(settle_and_go_on, |record| hand_on(&record)));
            if let Err(error) = read {
                let _ = failed.blocking_send(error);
            }
        });
    }

    pub async fn publish_counts(self) {
        let mut lost_before: HashMap<Key, u64> = HashMap::new();
        let mut every = tokio::time::interval(COUNTS_EVERY);
        loop {
            every.tick().await;
            self.containers.settled().iter().for_each(|info| self.reporter.container_gone(info));
            let running = self.containers.running();
            lost_before.retain(|key, _| running.iter().any(|(known, _)| known == key));
            for (key, info) in running {
                let counts = self.guard.slots.counts(key.0);
                let labels = ContainerLabels {
                    namespace: info.namespace.to_string(),
                    pod: info.pod.to_string(),
                    container: info.container.to_string(),
                };
                self.metrics.counts(&labels, &counts);
                strictness::tell_end(&self.guard, key, &info, &counts, &self.reporter);
                let before = lost_before.insert(key, counts.lost).unwrap_or(0);
                if before < counts.lost {
                    let note = format!(
                        "{} records of this container were lost: more violations than the agent could read",
                        counts.lost - before
                    );
                    self.reporter.event(Subject::Container(info), Reason::RecordsLost, note);
                }
            }
        }
    }
}

fn hand_on(record: &qc_record, own_pid_level: usize, containers: &Containers, reporter: &Reporter) {
    let slot = u8::try_from(record.slot).ok().and_then(Slot::new);
    let Some(info) = slot.and_then(|slot| containers.find((slot, record.generation))) else {
        tracing::warn!(
            slot = record.slot,
            generation = record.generation,
            "record of a container unknown here"
        );
        return;
    };
    let pid = record.pids.get(own_pid_level).and_then(|pid| i32::try_from(*pid).ok());
    reporter.violation(&info, record, pid.filter(|pid| *pid != 0));
}
