//! A pod in a test's namespace.

use std::process::Output;

use serde_json::Value;

use crate::command::{output, run};
use crate::kube::{Event, Namespace, SOON};
use crate::node::Node;
use crate::testbed::parse;
use crate::wait::{Seen, until};

#[derive(Debug, Clone)]
pub struct Pod<'a> {
    namespace: &'a Namespace<'a>,
    name: String,
}

impl<'a> Pod<'a> {
    pub(crate) fn new(namespace: &'a Namespace<'a>, name: &str) -> Pod<'a> {
        Pod { namespace, name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object, as JSON.
    #[track_caller]
    pub fn get(&self) -> Value {
        self.namespace.get("pod", &self.name)
    }

    /// Waits for `Pending`, `Running`, `Succeeded` or `Failed`.
    #[track_caller]
    pub fn wait_phase(&self, phase: &str) {
        self.wait_until(&format!("to be {phase}"), |pod| pod["status"]["phase"] == phase);
    }

    #[track_caller]
    pub fn wait_ready(&self) {
        self.wait_until("to be Ready", |pod| {
            let conditions = pod["status"]["conditions"].as_array();
            conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
        });
    }

    /// Waits until a container waits for this reason, e.g. `CreateContainerError`.
    #[track_caller]
    pub fn wait_waiting(&self, container: &str, reason: &str) {
        self.wait_until(&format!("to wait in {container} for {reason}"), |pod| {
            status(pod, container)["state"]["waiting"]["reason"] == reason
        });
    }

    /// Waits until the pod's object satisfies `is_so`; a failure shows its status and events.
    #[track_caller]
    pub fn wait_until(&self, what: &str, is_so: impl Fn(&Value) -> bool) {
        until(&format!("pod {} {what}", self.name), SOON, || {
            let pod = run(&mut self.namespace.kubectl(&["get", "pod", &self.name, "-o", "json"]))?;
            let pod = parse(&pod);
            if is_so(&pod) {
                return Ok(Seen::Done(()));
            }
            let events: Vec<_> = self.events().iter().map(ToString::to_string).collect();
            Ok(Seen::NotYet(format!("{}\n{}", pod["status"], events.join("\n"))))
        });
    }

    /// The exit status of a container that ended, waited for.
    #[track_caller]
    pub fn wait_exit_code(&self, container: &str) -> i64 {
        let ended = |pod: &Value| status(pod, container)["state"]["terminated"]["exitCode"].as_i64();
        self.wait_until(&format!("to end in {container}"), |pod| ended(pod).is_some());
        ended(&self.get()).expect("an ended container stays ended: it was just seen")
    }

    /// How often a container was started again.
    #[track_caller]
    pub fn restarts(&self, container: &str) -> u64 {
        status(&self.get(), container)["restartCount"].as_u64().unwrap_or(0)
    }

    #[track_caller]
    pub fn logs(&self, container: &str) -> String {
        self.namespace.run_kubectl(&["logs", &self.name, "-c", container])
    }

    /// Logs of the container before its last restart.
    #[track_caller]
    pub fn previous_logs(&self, container: &str) -> String {
        self.namespace.run_kubectl(&["logs", &self.name, "-c", container, "--previous"])
    }

    /// Waits until a container has printed `text`; its whole log.
    #[track_caller]
    pub fn wait_log(&self, container: &str, text: &str) -> String {
        until(&format!("{text:?} in the log of {}/{container}", self.name), SOON, || {
            let log = run(&mut self.namespace.kubectl(&["logs", &self.name, "-c", container]))?;
            Ok(if log.contains(text) { Seen::Done(log) } else { Seen::NotYet(log) })
        })
    }

    /// Output of a program in a container that must succeed.
    #[track_caller]
    pub fn exec(&self, container: &str, words: &[&str]) -> String {
        let exec = ["exec", &self.name, "-c", container, "--"];
        self.namespace.run_kubectl(&[exec.as_slice(), words].concat())
    }

    /// As `exec`, whatever its exit status.
    #[track_caller]
    pub fn try_exec(&self, container: &str, words: &[&str]) -> Output {
        let exec = ["exec", &self.name, "-c", container, "--"];
        output(&mut self.namespace.kubectl(&[exec.as_slice(), words].concat()))
            .unwrap_or_else(|error| panic!("{error:#}"))
    }

    #[track_caller]
    pub fn events(&self) -> Vec<Event> {
        self.namespace.events_on("Pod", &self.name)
    }

    /// Waits for an Event on this pod with this reason.
    #[track_caller]
    pub fn wait_event(&self, reason: &str) -> Event {
        self.namespace.wait_event("Pod", &self.name, reason)
    }

    /// What `kubectl describe pod` shows its owner.
    #[track_caller]
    pub fn describe(&self) -> String {
        self.namespace.run_kubectl(&["describe", "pod", &self.name])
    }

    /// Deletes it and waits until it is gone.
    #[track_caller]
    pub fn delete(&self) {
        let delete = ["delete", "pod", &self.name, "--grace-period=1", "--wait=true", "--timeout=60s"];
        self.namespace.run_kubectl(&delete);
    }

    /// The address in the pods' network.
    #[track_caller]
    pub fn address(&self) -> String {
        self.get()["status"]["podIP"].as_str().unwrap_or_default().to_owned()
    }

    /// The node it runs on.
    #[track_caller]
    pub fn node(&self) -> Node<'a> {
        let pod = self.get();
        let node = pod["spec"]["nodeName"].as_str();
        Node::new(
            self.namespace.testbed(),
            node.unwrap_or_else(|| panic!("pod {} has no node yet", self.name)),
        )
    }

    /// The runtime's id of a running container, without its scheme.
    #[track_caller]
    pub fn container_id(&self, container: &str) -> String {
        let pod = self.get();
        let id = status(&pod, container)["containerID"].as_str().and_then(|id| id.split("://").nth(1));
        id.unwrap_or_else(|| {
            panic!("container {container} of pod {} has no id: {}", self.name, pod["status"])
        })
        .to_owned()
    }

    /// The first process of a container, in the node's PID namespace.
    #[track_caller]
    pub fn pid(&self, container: &str) -> u32 {
        self.node().pid_of(&self.container_id(container))
    }
}

/// A container's status, of whichever of the three kinds it is; null if there is none yet.
fn status<'a>(pod: &'a Value, container: &str) -> &'a Value {
    let lists = ["containerStatuses", "initContainerStatuses", "ephemeralContainerStatuses"];
    let mut statuses = lists.iter().filter_map(|list| pod["status"][list].as_array()).flatten();
    statuses.find(|status| status["name"] == container).unwrap_or(&Value::Null)
}

#[cfg(test)]
mod tests {
    use super::status;
    use serde_json::json;

    #[test]
    fn an_init_container_has_a_status_too() {
        let pod = json!({"status": {"initContainerStatuses": [{"name": "first", "restartCount": 2}]}});
        assert_eq!(status(&pod, "first")["restartCount"], 2);
        assert!(status(&pod, "second").is_null());
    }
}
