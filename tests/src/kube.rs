//! A test's namespace and the objects in it.

use std::fmt;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::Value;

use crate::command::run;
use crate::logs;
use crate::pod::Pod;
use crate::progress;
use crate::testbed::{Testbed, apply, parse};
use crate::wait::{Seen, until};

/// Long enough for a pod on a machine that also compiles.
pub const SOON: Duration = Duration::from_secs(60);

/// Set by `testbed run --keep`: a failed test's namespace stays.
pub const KEEP_VARIABLE: &str = "QUIETCORE_KEEP";

static N_NAMESPACES: AtomicUsize = AtomicUsize::new(0);

/// Gone with everything in it when dropped; a panicking test's is described in a folder first.
#[derive(Debug)]
pub struct Namespace<'a> {
    testbed: &'a Testbed,
    name: String,
}

/// An Event as `kubectl get events.events.k8s.io` has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `Normal` or `Warning`
    pub kind: String,
    pub reason: String,
    pub action: String,
    pub note: String,
    pub reporter: String,
    pub regarding: String,
    pub related: Option<String>,
    /// How often: a series counts, an event alone is 1.
    pub count: u64,
}

impl<'a> Namespace<'a> {
    #[track_caller]
    pub(crate) fn create(testbed: &'a Testbed, name: &str) -> Namespace<'a> {
        let n = N_NAMESPACES.fetch_add(1, Ordering::Relaxed);
        // a foreign cluster may have one of a killed run: never adopt it
        let name = format!("{name}-{}-{n}", std::process::id());
        testbed.run_kubectl(&["create", "namespace", &name]);
        let namespace = Namespace { testbed, name };
        until("the default service account", SOON, || {
            let found = run(&mut namespace.kubectl(&["get", "serviceaccount", "default", "-o", "name"]));
            Ok(if found.is_ok() { Seen::Done(()) } else { Seen::NotYet("none") })
        });
        namespace
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn testbed(&self) -> &'a Testbed {
        self.testbed
    }

    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = self.testbed.kubectl(&["--namespace", &self.name]);
        command.args(words);
        command
    }

    #[track_caller]
    pub fn run_kubectl(&self, words: &[&str]) -> String {
        run(&mut self.kubectl(words)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Applies objects, in this namespace unless they name another.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// As `apply`; what the API server says where it refuses.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        apply(self.kubectl(&["apply", "-f", "-"]), yaml)
    }

    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        parse(&self.run_kubectl(&["get", kind, name, "-o", "json"]))
    }

    #[track_caller]
    pub fn get_list(&self, kind: &str, filter: &[&str]) -> Vec<Value> {
        let words = [&["get", kind, "-o", "json"], filter].concat();
        parse(&self.run_kubectl(&words))["items"].as_array().cloned().unwrap_or_default()
    }

    /// Deletes an object and waits until it is gone.
    #[track_caller]
    pub fn delete(&self, kind: &str, name: &str) {
        self.run_kubectl(&["delete", kind, name, "--wait=true", "--timeout=60s"]);
    }

    /// A pod by name, whether it exists yet or not.
    pub fn pod(&self, name: &str) -> Pod<'_> {
        Pod::new(self, name)
    }

    /// The pods with a label, e.g. those of a Deployment.
    #[track_caller]
    pub fn pods(&self, selector: &str) -> Vec<Pod<'_>> {
        let listed = self.get_list("pods", &["-l", selector]);
        listed.iter().filter_map(|pod| pod["metadata"]["name"].as_str()).map(|name| self.pod(name)).collect()
    }

    /// Events on an object, e.g. `Pod` and its name.
    #[track_caller]
    pub fn events_on(&self, kind: &str, name: &str) -> Vec<Event> {
        let filter = format!("regarding.kind={kind},regarding.name={name}");
        self.get_list("events.events.k8s.io", &["--field-selector", &filter]).iter().map(event).collect()
    }

    /// Waits for an Event on an object with this reason.
    #[track_caller]
    pub fn wait_event(&self, kind: &str, name: &str, reason: &str) -> Event {
        until(&format!("event {reason} on {kind} {name}"), SOON, || {
            let events = self.events_on(kind, name);
            let found = events.iter().find(|event| event.reason == reason).cloned();
            Ok(found.map_or_else(|| Seen::NotYet(format!("{events:?}")), Seen::Done))
        })
    }

    fn keep_logs(&self) {
        let Ok(folder) = logs::new_folder(&self.name) else { return };
        let keep = |name: &str, words: &[&str]| logs::save(&folder.join(name), self.kubectl(words));
        keep("events.txt", &["get", "events", "--sort-by=.lastTimestamp"]);
        keep("describe-pods.txt", &["describe", "pods"]);
        keep("pods.yaml", &["get", "pods", "-o", "yaml"]);
        keep("policies.yaml", &["get", "dataplanepolicies", "-o", "yaml"]);
        let pods = run(&mut self.kubectl(&["get", "pods", "-o", "name"])).unwrap_or_default();
        for pod in pods.lines() {
            let file = format!("{}.log", pod.replace('/', "-"));
            keep(&file, &["logs", pod, "--all-containers", "--prefix", "--timestamps"]);
        }
        let agents =
            ["logs", "-n", crate::agent::NAMESPACE, "-l", crate::agent::SELECTOR, "--tail=-1", "--prefix"];
        logs::save(&folder.join("agents.log"), self.testbed.kubectl(&agents));
        progress::say(&format!("logs of namespace {} are in {}", self.name, folder.display()));
    }
}

impl Drop for Namespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.keep_logs();
            if std::env::var_os(KEEP_VARIABLE).is_some() {
                progress::say(&format!("namespace {} is kept", self.name));
                return;
            }
        }
        // the next test may need what these pods hold, so wait; a program that ignores SIGTERM need not be waited for
        let pods = ["delete", "pods", "--all", "--grace-period=1", "--timeout=60s"];
        let deleted = run(&mut self.kubectl(&pods)).and_then(|_| {
            run(&mut self.testbed.kubectl(&["delete", "namespace", &self.name, "--timeout=90s"]))
        });
        if let Err(error) = deleted {
            progress::say(&format!("namespace {} may be left behind: {error:#}", self.name));
        }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {}: {} (x{})", self.kind, self.reason, self.regarding, self.note, self.count)
    }
}

fn event(event: &Value) -> Event {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let object = |value: &Value| Some(format!("{}/{}", value["kind"].as_str()?, value["name"].as_str()?));
    let count = event["series"]["count"].as_u64().or(event["deprecatedCount"].as_u64());
    Event {
        kind: text(&event["type"]),
        reason: text(&event["reason"]),
        action: text(&event["action"]),
        note: text(&event["note"]),
        reporter: text(&event["reportingController"]),
        regarding: object(&event["regarding"]).unwrap_or_default(),
        related: object(&event["related"]),
        count: count.unwrap_or(1).max(1),
    }
}

#[cfg(test)]
mod tests {
    use super::event;
    use serde_json::json;

    #[test]
    fn a_series_counts_and_a_single_event_is_one() {
        let mut single =
            json!({"type": "Warning", "reason": "KernelEntry", "regarding": {"kind": "Pod", "name": "p"}});
        assert_eq!(event(&single).count, 1);
        single["series"] = json!({"count": 7});
        let seen = event(&single);
        assert_eq!((seen.count, seen.regarding.as_str(), seen.related), (7, "Pod/p", None));
    }
}
