//! The agent under test, from outside: its DaemonSet, its pod on a node, its process.

use std::time::Duration;

use serde_json::Value;

use crate::command::run;
use crate::node::Node;
use crate::testbed::Testbed;
use crate::wait::{Seen, try_until, until};

/// Names that the chart promises.
pub const NAMESPACE: &str = "quietcore-system";
pub const DAEMON_SET: &str = "quietcore";
pub const SELECTOR: &str = "app.kubernetes.io/name=quietcore";

/// A kubelet that saw it die a few times waits up to 40 s before it starts it again.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// The agent on one node.
#[derive(Debug, Clone)]
pub struct Agent<'a> {
    node: Node<'a>,
}

impl<'a> Node<'a> {
    pub fn agent(&self) -> Agent<'a> {
        Agent { node: self.clone() }
    }

    /// The first process of a container, by the runtime's id.
    #[track_caller]
    pub fn pid_of(&self, container_id: &str) -> u32 {
        let inspected = self.run(&["crictl", "inspect", container_id]);
        let inspected: Value = serde_json::from_str(&inspected).unwrap_or_default();
        let pid = inspected["info"]["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.filter(|pid| *pid != 0)
            .unwrap_or_else(|| panic!("container {container_id} has no process: {inspected}"))
    }
}

impl<'a> Agent<'a> {
    /// Waits until its pod is Ready; the pod's name.
    #[track_caller]
    pub fn wait_ready(&self) -> String {
        until(&format!("the agent on {} to be Ready", self.node.name()), READY_WITHIN, || {
            let pods = self.pods()?;
            let ready =
                pods.iter().find(|pod| is_ready(pod)).and_then(|pod| pod["metadata"]["name"].as_str());
            let statuses = || pods.iter().map(|pod| pod["status"].to_string()).collect::<Vec<_>>().join("\n");
            Ok(ready.map_or_else(|| Seen::NotYet(statuses()), |name| Seen::Done(name.to_owned())))
        })
    }

    /// Its process, in the node's PID namespace.
    #[track_caller]
    pub fn pid(&self) -> u32 {
        let pods = self.pods().unwrap_or_else(|error| panic!("{error:#}"));
        let ids = pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["containerID"].as_str());
        let id = ids.filter_map(|id| id.split("://").nth(1)).next();
        self.node.pid_of(id.unwrap_or_else(|| panic!("no agent runs on {}: {pods:?}", self.node.name())))
    }

    /// SIGKILL. Returns when the process is gone; the kubelet starts another.
    #[track_caller]
    pub fn kill(&self) {
        let pid = self.pid();
        self.signal(pid, "KILL");
        until("the killed agent to be gone", Duration::from_secs(20), || {
            // a zombie that its shim has not reaped yet has no executable any more
            let executable = self.node.try_run(&["readlink", &format!("/proc/{pid}/exe")]);
            Ok(executable.map_or(Seen::Done(()), Seen::NotYet))
        });
    }

    /// SIGSTOP: alive and answering nobody, until the returned guard is dropped.
    #[track_caller]
    pub fn hold(&self) -> HeldAgent<'a> {
        let pid = self.pid();
        self.signal(pid, "STOP");
        HeldAgent { agent: self.clone(), pid }
    }

    #[track_caller]
    fn signal(&self, pid: u32, signal: &str) {
        self.node.run(&["kill", &format!("-{signal}"), &pid.to_string()]);
    }

    /// How often the kubelet started it again.
    #[track_caller]
    pub fn restarts(&self) -> u64 {
        let pods = self.pods().unwrap_or_else(|error| panic!("{error:#}"));
        pods.iter().filter_map(|pod| pod["status"]["containerStatuses"][0]["restartCount"].as_u64()).sum()
    }

    /// Waits until the kubelet lets it wait after it ended once too often.
    #[track_caller]
    pub fn wait_back_off(&self) {
        until(&format!("the agent on {} to be held back", self.node.name()), READY_WITHIN, || {
            let statuses = self
                .pods()?
                .iter()
                .map(|pod| pod["status"]["containerStatuses"].to_string())
                .collect::<String>();
            Ok(if statuses.contains("CrashLoopBackOff") { Seen::Done(()) } else { Seen::NotYet(statuses) })
        });
    }

    /// What it wrote before it was started the last time.
    #[track_caller]
    pub fn previous_logs(&self) -> String {
        let selector = format!("--selector={SELECTOR}");
        self.node.testbed().run_kubectl(&["logs", "-n", NAMESPACE, &selector, "--previous", "--tail=-1"])
    }

    /// Its log since it was last started.
    #[track_caller]
    pub fn logs(&self) -> String {
        let name = self.wait_ready();
        self.node.testbed().run_kubectl(&["logs", "-n", NAMESPACE, &name, "--tail=-1"])
    }

    /// The product's own program in the agent's container.
    pub fn try_quietcore(&self, words: &[&str]) -> anyhow::Result<String> {
        let name = self.wait_ready();
        let exec = ["exec", "-n", NAMESPACE, name.as_str(), "--", "/quietcore"];
        run(&mut self.node.testbed().kubectl(&[exec.as_slice(), words].concat()))
    }

    fn pods(&self) -> anyhow::Result<Vec<Value>> {
        let on_node = format!("spec.nodeName={}", self.node.name());
        let words =
            ["get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "--field-selector", &on_node, "-o", "json"];
        let listed: Value = serde_json::from_str(&run(&mut self.node.testbed().kubectl(&words))?)?;
        Ok(listed["items"].as_array().cloned().unwrap_or_default())
    }
}

fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let ready = conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True");
    ready && pod["metadata"]["deletionTimestamp"].is_null()
}

/// An agent that is stopped by a signal while this lives.
#[derive(Debug)]
pub struct HeldAgent<'a> {
    agent: Agent<'a>,
    pid: u32,
}

impl HeldAgent<'_> {
    #[track_caller]
    pub fn release(self) {
        drop(self);
    }
}

impl Drop for HeldAgent<'_> {
    fn drop(&mut self) {
        // the kubelet's probes may have killed it meanwhile: then there is nothing to continue
        let _gone = self.agent.node.try_run(&["kill", "-CONT", &self.pid.to_string()]);
    }
}

impl Testbed {
    /// Takes every agent away, as an operator's mistake would, until the returned guard is dropped.
    #[track_caller]
    pub fn remove_agents(&self) -> RemovedAgents<'_> {
        select_nodes(self, r#"{"quietcore.io/no-such-node": "true"}"#)
            .unwrap_or_else(|error| panic!("{error:#}"));
        let removed = RemovedAgents { testbed: self };
        until("every agent to be gone", READY_WITHIN, || {
            let names =
                run(&mut self.kubectl(&["get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "-o", "name"]))?;
            Ok(if names.trim().is_empty() { Seen::Done(()) } else { Seen::NotYet(names) })
        });
        removed
    }

    /// In the agents' environment until the returned guard is dropped. The agents are replaced.
    #[track_caller]
    pub fn set_agent_variable(&self, name: &'static str, value: &str) -> AgentVariable<'_> {
        self.run_kubectl(&[
            "set",
            "env",
            "-n",
            NAMESPACE,
            "daemonset",
            DAEMON_SET,
            &format!("{name}={value}"),
        ]);
        AgentVariable { testbed: self, name }
    }

    /// Waits until every node that should have an agent has a Ready one.
    #[track_caller]
    pub fn wait_agents(&self) {
        try_wait_agents(self).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// The agents have a variable while this lives.
#[derive(Debug)]
pub struct AgentVariable<'a> {
    testbed: &'a Testbed,
    name: &'static str,
}

impl AgentVariable<'_> {
    /// Takes it away and waits until the agents are Ready.
    #[track_caller]
    pub fn unset(self) {
        let testbed = self.testbed;
        drop(self);
        testbed.wait_agents();
    }
}

impl Drop for AgentVariable<'_> {
    fn drop(&mut self) {
        let without = format!("{}-", self.name);
        let unset = run(&mut self.testbed.kubectl(&[
            "set",
            "env",
            "-n",
            NAMESPACE,
            "daemonset",
            DAEMON_SET,
            &without,
        ]));
        if !std::thread::panicking() {
            unset.unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

/// There is no agent while this lives.
#[derive(Debug)]
pub struct RemovedAgents<'a> {
    testbed: &'a Testbed,
}

impl RemovedAgents<'_> {
    /// Brings them back and waits until they are Ready.
    #[track_caller]
    pub fn restore(self) {
        drop(self);
    }
}

impl Drop for RemovedAgents<'_> {
    fn drop(&mut self) {
        let restored = select_nodes(self.testbed, r#"{"quietcore.io/no-such-node": null}"#)
            .and_then(|()| try_wait_agents(self.testbed));
        if !std::thread::panicking() {
            restored.unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

fn select_nodes(testbed: &Testbed, selector: &str) -> anyhow::Result<()> {
    let patch = format!(r#"{{"spec": {{"template": {{"spec": {{"nodeSelector": {selector}}}}}}}}}"#);
    run(&mut testbed.kubectl(&["patch", "daemonset", DAEMON_SET, "-n", NAMESPACE, "-p", &patch]))?;
    Ok(())
}

fn try_wait_agents(testbed: &Testbed) -> anyhow::Result<()> {
    try_until("every agent to be Ready", READY_WITHIN, || {
        let set =
            run(&mut testbed.kubectl(&["get", "daemonset", DAEMON_SET, "-n", NAMESPACE, "-o", "json"]))?;
        let set: Value = serde_json::from_str(&set)?;
        let status = &set["status"];
        let seen_by_controller = status["observedGeneration"] == set["metadata"]["generation"];
        let wanted = &status["desiredNumberScheduled"];
        let all = wanted.as_u64().is_some_and(|n| n > 0)
            && [&status["numberReady"], &status["updatedNumberScheduled"]].iter().all(|n| *n == wanted);
        Ok(if seen_by_controller && all { Seen::Done(()) } else { Seen::NotYet(status.to_string()) })
    })
}
