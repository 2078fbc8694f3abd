//! Steps 4 to 9 in numbers, for Prometheus.
//!
//! Every label comes from the node's own containers or from an enum of ours: a pod cannot make series. A
//! container's series go when it does.

use std::{sync::atomic::Ordering, time::Duration};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeLabelValue},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::{Registry, Unit},
};

use crate::{guard::abi::qc_counts, policy::effective::Class};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct ContainerLabels {
    pub namespace: String,
    pub pod: String,
    pub container: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClassLabels {
    namespace: String,
    pod: String,
    container: String,
    class: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum DropReason {
    /// More than the queue holds.
    Overflow,
    Forbidden,
    /// The namespace.
    Gone,
    Invalid,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DropLabels {
    reason: DropReason,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct NriLabels {
    request: &'static str,
    result: NriResult,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
pub enum NriResult {
    /// Not ours.
    Untouched,
    Strict,
    /// A pod was told no.
    Refused,
}

#[derive(Debug, Clone)]
struct NriTimes(Family<NriLabels, Histogram, fn() -> Histogram>);

impl Default for NriTimes {
    /// Twelve buckets from 20 us to 41 ms: the runtime's own limit is two seconds.
    fn default() -> NriTimes {
        NriTimes(Family::new_with_constructor(|| Histogram::new(exponential_buckets(20e-6, 2.0, 12))))
    }
}

#[derive(Debug, Default)]
pub struct Metrics {
    entries: Family<ClassLabels, Counter>,
    violations: Family<ClassLabels, Counter>,
    signals: Family<ContainerLabels, Counter>,
    records_lost: Family<ContainerLabels, Counter>,
    /// Kinds that this agent does not know: an older agent on a newer guard.
    pub records_unknown: Counter,
    /// Happenings that were only counted, because their pod had too many.
    pub violations_untold: Counter,
    pub events_sent: Counter,
    pub events_patched: Counter,
    pub events_retried: Counter,
    events_dropped: Family<DropLabels, Counter>,
    pub events_waiting: Gauge,
    nri_request_seconds: NriTimes,
}

impl Metrics {
    pub fn register(&self, registry: &mut Registry) {
        let Metrics {
            entries,
            violations,
            signals,
            records_lost,
            records_unknown,
            violations_untold,
            events_sent,
            events_patched,
            events_retried,
            events_dropped,
            events_waiting,
            nri_request_seconds,
        } = self;
        let q = registry.sub_registry_with_prefix("quietcore");
        q.register("kernel_entries", "Kernel entries of watched threads on granted cores", entries.clone());
        q.register("violations", "Entries of armed threads, action Count or above", violations.clone());
        q.register("signals", "Signals sent for violations", signals.clone());
        q.register("records_lost", "Records the guard's ring had no room for", records_lost.clone());
        q.register("records_unknown", "Records this agent could not read", records_unknown.clone());
        q.register(
            "violations_untold",
            "Violations counted and not told: too many",
            violations_untold.clone(),
        );
        q.register("events_sent", "Events created", events_sent.clone());
        q.register("events_patched", "Updates of an Event's series", events_patched.clone());
        q.register("events_retried", "Requests for Events that will be repeated", events_retried.clone());
        q.register("events_dropped", "Events never sent", events_dropped.clone());
        q.register("events_waiting", "Events in the queue", events_waiting.clone());
        q.register_with_unit(
            "nri_request",
            "How long the container runtime waited for the agent",
            Unit::Seconds,
            nri_request_seconds.0.clone(),
        );
    }

    /// The guard's own counts, which only grow.
    pub fn counts(&self, labels: &ContainerLabels, counts: &qc_counts) {
        for class in Class::ALL {
            let by_class = labels.of(class);
            set(&self.entries.get_or_create(&by_class), counts.entries[class.index()]);
            set(&self.violations.get_or_create(&by_class), counts.violations[class.index()]);
        }
        set(&self.signals.get_or_create(labels), counts.signals);
        set(&self.records_lost.get_or_create(labels), counts.lost);
    }

    /// The container is gone.
    pub fn remove(&self, labels: &ContainerLabels) {
        for class in Class::ALL {
            self.entries.remove(&labels.of(class));
            self.violations.remove(&labels.of(class));
        }
        self.signals.remove(labels);
        self.records_lost.remove(labels);
    }

    pub fn event_dropped(&self, reason: DropReason, count: u64) {
        self.events_dropped.get_or_create(&DropLabels { reason }).inc_by(count);
    }

    /// `request` is the NRI event's name, from our own list.
    pub fn nri_request(&self, request: &'static str, result: NriResult, took: Duration) {
        let times = &self.nri_request_seconds.0;
        times.get_or_create(&NriLabels { request, result }).observe(took.as_secs_f64());
    }
}

impl ContainerLabels {
    fn of(&self, class: Class) -> ClassLabels {
        ClassLabels {
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            container: self.container.clone(),
            class: class.name(),
        }
    }
}

fn set(counter: &Counter, value: u64) {
    counter.inner().store(value, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use prometheus_client::encoding::text::encode;

    use super::*;

    fn container() -> ContainerLabels {
        ContainerLabels { namespace: "fastpath".into(), pod: "l2fwd-0".into(), container: "app".into() }
    }

    fn lines(registry: &Registry, with: &str) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text.lines().filter(|line| line.contains(with)).map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn a_containers_series_come_and_go_with_it() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.counts(&container(), &qc_counts { entries: [5, 0, 7, 0], signals: 1, ..Default::default() });
        let text = lines(&registry, "l2fwd-0");
        assert_eq!(text.lines().count(), 10, "{text}");
        expect![[r#"
            quietcore_kernel_entries_total{namespace="fastpath",pod="l2fwd-0",container="app",class="syscall"} 5
        "#]]
        .assert_eq(&lines(&registry, "entries_total{namespace=\"fastpath\",pod=\"l2fwd-0\",container=\"app\",class=\"syscall\"}"));
        metrics.remove(&container());
        assert_eq!(lines(&registry, "l2fwd-0"), "");
    }

    #[test]
    fn labels_of_requests_are_our_own_words() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.nri_request("CreateContainer", NriResult::Refused, Duration::from_micros(50));
        metrics.event_dropped(DropReason::Overflow, 3);
        expect![[r#"
            quietcore_events_dropped_total{reason="Overflow"} 3
        "#]]
        .assert_eq(&lines(&registry, "dropped_total"));
        expect![[r#"
            quietcore_nri_request_seconds_bucket{le="0.00008",request="CreateContainer",result="Refused"} 1
        "#]]
        .assert_eq(&lines(&registry, "le=\"0.00008\""));
    }
}
