//! Being root on a node: programs in its namespaces, and its services.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cache::Cache;
use crate::command::run;
use crate::engine::Engine;
use crate::testbed::{ENGINE_VARIABLE, NAME_VARIABLE, NODE_SHELL_VARIABLE, Testbed};
use crate::wait::{Seen, try_until, until};

/// How a program gets to run as root on a node of this cluster.
#[derive(Debug)]
pub enum Access {
    /// The testbed's own cluster: a node is a container.
    Container(Engine),
    /// Any other: a privileged pod on the node, of an image with nsenter and sleep.
    Pod { image: String },
    /// Not at all; verbs that need it say so.
    Refused,
}

impl Access {
    /// As the environment says: a cluster of `testbed`, or an image for node shells, or neither.
    pub fn from_env() -> Result<Access> {
        let variable = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        match (variable(NAME_VARIABLE), variable(NODE_SHELL_VARIABLE)) {
            (Some(_), _) => {
                let engine =
                    variable(ENGINE_VARIABLE).with_context(|| format!("{ENGINE_VARIABLE} is not set"))?;
                Ok(Access::Container(Engine::named(&engine, &Cache::open()?)?))
            }
            (None, Some(image)) => Ok(Access::Pod { image }),
            (None, None) => Ok(Access::Refused),
        }
    }
}

/// The namespace of node shells. It stays while tests run: a shell is made once for a node.
const SHELLS: &str = "quietcore-node-shells";

const SERVICE_WITHIN: Duration = Duration::from_secs(60);
const NODE_WITHIN: Duration = Duration::from_secs(120);

#[derive(Debug, Clone)]
pub struct Node<'a> {
    testbed: &'a Testbed,
    name: String,
}

impl<'a> Node<'a> {
    pub(crate) fn new(testbed: &'a Testbed, name: &str) -> Node<'a> {
        Node { testbed, name: name.to_owned() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn testbed(&self) -> &'a Testbed {
        self.testbed
    }

    /// A program in the node's namespaces, as root.
    pub(crate) fn command(&self, words: &[&str]) -> Result<Command> {
        match &self.testbed.access {
            Access::Container(engine) => {
                let mut command = engine.command();
                command.args(["exec", "-i", &self.name]).args(words);
                Ok(command)
            }
            Access::Pod { image } => {
                let shell = self.shell(image)?;
                let enter = ["nsenter", "-t", "1", "-m", "-u", "-i", "-n", "-p", "--"];
                let exec = ["exec", "-i", "-n", SHELLS, shell.as_str(), "--"];
                Ok(self.testbed.kubectl(&[exec.as_slice(), &enter, words].concat()))
            }
            Access::Refused => bail!(
                "cannot act on node {}: set {NODE_SHELL_VARIABLE} to an image with nsenter and sleep, \
                 or {NAME_VARIABLE} for a cluster of `testbed up`",
                self.name
            ),
        }
    }

    /// Output of a program on the node that must succeed.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> String {
        self.try_run(words).unwrap_or_else(|error| panic!("on node {}: {error:#}", self.name))
    }

    pub fn try_run(&self, words: &[&str]) -> Result<String> {
        run(&mut self.command(words)?)
    }

    /// As `run`, for a line of shell.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.run(&["sh", "-c", script])
    }

    /// Restarts a systemd service (`containerd`, `kubelet`) and waits until the node is Ready again.
    #[track_caller]
    pub fn restart(&self, service: &str) {
        self.run(&["systemctl", "restart", service]);
        self.wait_ready();
    }

    /// Stops a systemd service until the returned guard is dropped.
    #[track_caller]
    pub fn stop(&self, service: &str) -> StoppedService<'a> {
        self.run(&["systemctl", "stop", service]);
        StoppedService { node: self.clone(), service: service.to_owned() }
    }

    /// Waits until the runtime answers, the kubelet is healthy and knows its pods, and the API has the node Ready.
    #[track_caller]
    pub fn wait_ready(&self) {
        let answers = |words: &[&str]| {
            Ok(match self.try_run(words) {
                Ok(_) => Seen::Done(()),
                Err(error) => Seen::NotYet(format!("{error:#}")),
            })
        };
        until("the runtime to answer", SERVICE_WITHIN, || answers(&["crictl", "version"]));
        let healthz = ["curl", "-sf", "--max-time", "2", "http://127.0.0.1:10248/healthz"];
        until("the kubelet to be healthy", SERVICE_WITHIN, || answers(&healthz));
        until(&format!("node {} to be Ready", self.name), NODE_WITHIN, || {
            let node: Value =
                serde_json::from_str(&self.kubectl(&["get", "node", &self.name, "-o", "json"])?)?;
            let mut conditions = node["status"]["conditions"].as_array().into_iter().flatten();
            let ready = conditions.find(|condition| condition["type"] == "Ready");
            let is_ready = ready.is_some_and(|condition| condition["status"] == "True");
            Ok(if is_ready { Seen::Done(()) } else { Seen::NotYet(node["status"]["conditions"].to_string()) })
        });
        // a kubelet that was just started answers "pod does not exist" until it has heard from the API server
        until(&format!("the kubelet of {} to know its pods", self.name), NODE_WITHIN, || {
            let on_node = format!("spec.nodeName={}", self.name);
            let wanted = self.kubectl(&["get", "pods", "-A", "--field-selector", &on_node, "-o", "json"])?;
            let known =
                self.kubectl(&["get", "--raw", &format!("/api/v1/nodes/{}/proxy/pods", self.name)])?;
            let known = pod_names(&known)?;
            let unknown: Vec<_> =
                pod_names(&wanted)?.into_iter().filter(|name| !known.contains(name)).collect();
            Ok(if unknown.is_empty() {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("unknown: {unknown:?}"))
            })
        });
    }

    fn kubectl(&self, words: &[&str]) -> Result<String> {
        run(&mut self.testbed.kubectl(words))
    }

    /// What the node offers to pods of an extended resource, e.g. `quietcore.io/core`: 0 where nobody published it.
    #[track_caller]
    pub fn allocatable(&self, resource: &str) -> u64 {
        let node = self.testbed.get("node", &self.name);
        node["status"]["allocatable"][resource].as_str().and_then(|count| count.parse().ok()).unwrap_or(0)
    }

    /// The node's journal of one unit since it booted.
    #[track_caller]
    pub fn journal(&self, unit: &str) -> String {
        self.run(&["journalctl", "--no-pager", "-o", "short-precise", "-u", unit])
    }

    /// The name of this node's shell pod, running.
    fn shell(&self, image: &str) -> Result<String> {
        let name = format!("shell-{}", self.name);
        let phase = ["get", "pod", "-n", SHELLS, &name, "-o", "jsonpath={.status.phase}"];
        if run(&mut self.testbed.kubectl(&phase)).is_ok_and(|phase| phase == "Running") {
            return Ok(name);
        }
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": SHELLS}});
        let pod = shell_pod(&name, &self.name, image);
        let both = format!("{namespace}\n---\n{pod}\n");
        self.testbed.try_apply(&both).map_err(anyhow::Error::msg)?;
        try_until(&format!("node shell {name}"), Duration::from_secs(60), || {
            let phase = run(&mut self.testbed.kubectl(&phase))?;
            Ok(if phase == "Running" { Seen::Done(()) } else { Seen::NotYet(phase) })
        })?;
        Ok(name)
    }
}

impl Drop for Testbed {
    fn drop(&mut self) {
        if matches!(self.access, Access::Pod { .. }) {
            let delete = ["delete", "namespace", SHELLS, "--ignore-not-found", "--wait=true"];
            // a cluster that does not answer any more cannot be tidied
            let _unreachable = run(&mut self.kubectl(&delete));
        }
    }
}

/// `namespace/name` of each pod in a list.
fn pod_names(list: &str) -> Result<Vec<String>> {
    let list: Value = serde_json::from_str(list).context("read a list of pods")?;
    let name = |pod: &Value| {
        Some(format!("{}/{}", pod["metadata"]["namespace"].as_str()?, pod["metadata"]["name"].as_str()?))
    };
    Ok(list["items"].as_array().into_iter().flatten().filter_map(name).collect())
}

fn shell_pod(name: &str, node: &str, image: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": SHELLS},
        "spec": {
            "nodeName": node,
            "hostPID": true,
            "terminationGracePeriodSeconds": 0,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{
                "name": "shell",
                "image": image,
                "command": ["sleep", "1000000"],
                "securityContext": {"privileged": true},
            }],
        },
    })
}

/// A systemd service that is stopped while this lives.
#[derive(Debug)]
pub struct StoppedService<'a> {
    node: Node<'a>,
    service: String,
}

impl StoppedService<'_> {
    /// Starts it and waits until the node is Ready.
    #[track_caller]
    pub fn start(self) {
        drop(self);
    }
}

impl Drop for StoppedService<'_> {
    fn drop(&mut self) {
        let started = self.node.try_run(&["systemctl", "start", &self.service]);
        if !std::thread::panicking() {
            started.unwrap_or_else(|error| panic!("{error:#}"));
            self.node.wait_ready();
        }
    }
}
