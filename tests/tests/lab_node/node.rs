//! The lab as a node: containerd, the agent with policies from a folder, and a kubelet without an API server, whose pods
//! come from files. Started once for all tests; the machine ends with them. The bench starts its parts one by one.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quietcore_tests::command::run;
use quietcore_tests::wait::{Seen, until};
use serde_json::Value;

/// Everything runs in an emulator, on one CPU.
pub(crate) const SOON: Duration = Duration::from_secs(120);
const POLICY_DIR: &str = "/lab/policies";
const MANIFESTS: &str = "/etc/kubernetes/manifests";
/// Of all pods here, by name: every class by a signal, interrupts only reported, and with a CPU for control threads and
/// visitors; armed until the program says otherwise.
const POLICIES: [(&str, &str); 4] = [
    (
        "all",
        "{mode: Enforce, arm: {after: Continuous}, entries: {syscall: {action: Signal, signal: SIGUSR1}, \
         exception: {action: Signal, signal: SIGUSR2}, interrupt: {action: Signal, signal: SIGUSR1}}}",
    ),
    (
        "report",
        "{mode: Audit, arm: {after: Continuous}, entries: {syscall: {action: Ignore}, exception: {action: Ignore}, \
         interrupt: {action: Report}}}",
    ),
    (
        "shared",
        "{mode: Enforce, arm: {after: Continuous}, cores: {sharedCpus: 1}, entries: {syscall: {action: Signal, signal: \
         SIGUSR1}, exception: {action: Signal, signal: SIGUSR2}, interrupt: {action: Report}}}",
    ),
    // of a program that does not ask, also on a core that ticks: only counted interrupts let it settle there
    (
        "settled",
        "{mode: Audit, arm: {at: Settled, settleFor: 500ms, after: Continuous}, entries: {syscall: {action: Report}, \
         exception: {action: Report}, interrupt: {action: Count}}}",
    ),
];
/// Comes back from the lab.
const LOGS: &str = "/out";

pub(crate) struct Node {
    _running: [Child; 3],
}

impl Node {
    pub(crate) fn get() -> &'static Node {
        static NODE: OnceLock<Node> = OnceLock::new();
        NODE.get_or_init(|| Node::start().unwrap_or_else(|error| panic!("{error:#}")))
    }

    fn start() -> Result<Node> {
        let containerd = start_containerd()?;
        let agent = start_agent()?;
        let kubelet = start_kubelet("/etc/kubelet.yaml")?;
        wait_ready();
        Ok(Node { _running: [containerd, agent, kubelet] })
    }

    /// One day of the workload, with a core of its own.
    #[track_caller]
    pub(crate) fn pod(&self, name: &str, policy: &str, day: &str) -> Pod {
        let manifest = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {{policy.quietcore.io/pod: {policy}}}}}
spec:
  hostNetwork: true
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: localhost/workload:lab
      imagePullPolicy: Never
      args: [{day}]
      # what an image could say
      env: [{{name: QUIETCORE_CPUS, value: '0'}}, {{name: QUIETCORE_SHARED_CPUS, value: '1'}}]
      resources: {{limits: {{quietcore.io/core: 1}}}}
      securityContext: {{allowPrivilegeEscalation: false, runAsUser: 65534, capabilities: {{drop: [ALL]}}}}
"
        );
        Pod::start(name, &manifest)
    }

    /// One that asks for no core.
    #[track_caller]
    pub(crate) fn ordinary_pod(&self, name: &str, day: &str) -> Pod {
        let manifest = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}}}
spec:
  hostNetwork: true
  restartPolicy: Never
  terminationGracePeriodSeconds: 1
  containers: [{{name: app, image: 'localhost/workload:lab', imagePullPolicy: Never, args: [{day}]}}]
"
        );
        Pod::start(name, &manifest)
    }

    pub(crate) fn agent_log(&self) -> String {
        read("quietcore.err")
    }

    /// Waits until the cores that the kubelet lists are as wanted, by the agent's last word on them.
    #[track_caller]
    pub(crate) fn wait_held(&self, what: &str, is_so: impl Fn(&str) -> bool) {
        until(&format!("{what} in the kubelet's list of cores"), SOON, || {
            let log = self.agent_log();
            let told = log.lines().rfind(|line| line.contains("the kubelet lists other cores"));
            let told = told.unwrap_or_default();
            Ok(if is_so(told) { Seen::Done(()) } else { Seen::NotYet(told.to_owned()) })
        });
    }

    /// What the agent told of a pod, each a line of JSON.
    pub(crate) fn told(&self, pod: &Pod) -> Vec<Value> {
        let lines = read("quietcore.out");
        let told = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        told.filter(|line| line["pod"] == pod.name.as_str()).collect()
    }
}

/// Ends with its file.
pub(crate) struct Pod {
    pub(crate) name: String,
    file: PathBuf,
}

impl Drop for Pod {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.file);
    }
}

impl Pod {
    #[track_caller]
    pub(crate) fn start(name: &str, manifest: &str) -> Pod {
        let file = Path::new(MANIFESTS).join(format!("{name}.yaml"));
        fs::write(&file, manifest).unwrap_or_else(|error| panic!("write {}: {error}", file.display()));
        Pod { name: format!("{name}-lab"), file }
    }

    /// As the kubelet tells of it; null while it does not know it.
    fn get(&self) -> Result<Value> {
        let pods: Value = serde_json::from_str(&http("10255/pods")?)?;
        let items = pods["items"].as_array().cloned().unwrap_or_default();
        let ours = items.into_iter().find(|pod| pod["metadata"]["name"] == self.name.as_str());
        Ok(ours.unwrap_or_default())
    }

    fn status(&self) -> Result<Value> {
        Ok(self.get()?["status"]["containerStatuses"][0].clone())
    }

    /// Its container's exit status, waited for.
    #[track_caller]
    pub(crate) fn wait_exit_code(&self) -> i64 {
        until(&format!("{} to end", self.name), SOON, || {
            let pod = self.get()?;
            let ended = pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64();
            Ok(ended.map_or_else(|| Seen::NotYet(pod["status"].to_string()), Seen::Done))
        })
    }

    /// Why its container does not start.
    #[track_caller]
    pub(crate) fn wait_refusal(&self) -> String {
        until(&format!("{} to be refused", self.name), SOON, || {
            let status = self.status()?;
            let waiting = &status["state"]["waiting"];
            let refused =
                waiting["reason"] == "CreateContainerError" || waiting["reason"] == "RunContainerError";
            let message = waiting["message"].as_str().filter(|_| refused).map(str::to_owned);
            Ok(message.map_or_else(|| Seen::NotYet(status.to_string()), Seen::Done))
        })
    }

    /// The runtime's id of its running container.
    #[track_caller]
    pub(crate) fn wait_container_id(&self) -> String {
        until(&format!("{} to run", self.name), SOON, || {
            let pod = self.get()?;
            let status = &pod["status"]["containerStatuses"][0];
            let id = status["containerID"].as_str().filter(|_| !status["state"]["running"].is_null());
            let id = id.and_then(|id| id.split("://").nth(1)).map(str::to_owned);
            Ok(id.map_or_else(|| Seen::NotYet(pod["status"].to_string()), Seen::Done))
        })
    }

    /// What its container printed.
    pub(crate) fn log(&self) -> String {
        let mut text = String::new();
        for folder in fs::read_dir("/var/log/pods").into_iter().flatten().flatten() {
            if folder.file_name().to_string_lossy().starts_with(&format!("default_{}_", self.name)) {
                // one for each start
                for log in fs::read_dir(folder.path().join("app")).into_iter().flatten().flatten() {
                    text.push_str(&fs::read_to_string(log.path()).unwrap_or_default());
                }
            }
        }
        text
    }

    #[track_caller]
    pub(crate) fn wait_log(&self, words: &str) {
        until(&format!("{words:?} in the log of {}", self.name), SOON, || {
            let log = self.log();
            Ok(if log.contains(words) {
                Seen::Done(())
            } else {
                Seen::NotYet(format!("{log}\n{}", self.get()?["status"]))
            })
        });
    }

    /// Waits until the agent tells of it what `is_so`.
    #[track_caller]
    pub(crate) fn wait_told(&self, what: &str, is_so: impl Fn(&str) -> bool) -> Value {
        until(what, SOON, || {
            let told = Node::get().told(self);
            let found = told.iter().find(|line| line["note"].as_str().is_some_and(&is_so)).cloned();
            Ok(found.map_or_else(|| Seen::NotYet(format!("{told:?}")), Seen::Done))
        })
    }
}

/// With policies for an agent, and the images.
pub(crate) fn start_containerd() -> Result<Child> {
    for folder in [POLICY_DIR, MANIFESTS, "/var/lib/kubelet/device-plugins", "/var/log/pods"] {
        fs::create_dir_all(folder).with_context(|| format!("make {folder}"))?;
    }
    for (name, spec) in POLICIES {
        let policy = format!(
            "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        );
        let file = Path::new(POLICY_DIR).join(format!("{name}.yaml"));
        fs::write(&file, policy).with_context(|| format!("write {}", file.display()))?;
    }
    // a node has an address, and a way out
    run(Command::new("ip").args(["address", "add", "10.0.2.15/24", "dev", "lo"]))?;
    run(Command::new("ip").args(["route", "add", "default", "dev", "lo"]))?;
    let containerd = start("containerd", &[])?;
    until("containerd", SOON, || Ok(Seen::<_, String>::Done(ctr(&["version"])?)));
    for image in ["pause", "workload"] {
        ctr(&["images", "import", &format!("/lab/images/{image}.tar")])?;
    }
    Ok(containerd)
}

pub(crate) fn start_agent() -> Result<Child> {
    start("quietcore", &["agent", "--isolated-cpus=1-3", "--policy-dir", POLICY_DIR])
}

pub(crate) fn start_kubelet(configuration: &str) -> Result<Child> {
    start("kubelet", &[&format!("--config={configuration}"), "--hostname-override=lab"])
}

/// A pod of a file that is not admitted before is not tried again.
#[track_caller]
pub(crate) fn wait_ready() {
    until("the agent to be ready", SOON, || Ok(Seen::<_, String>::Done(http("9753/readyz")?)));
}

pub(crate) fn ctr(words: &[&str]) -> Result<String> {
    run(Command::new("ctr").args(["--namespace", "k8s.io"]).args(words))
}

/// GET, from a port of this machine.
fn http(path: &str) -> Result<String> {
    run(Command::new("wget").args(["-q", "-O", "-", &format!("http://127.0.0.1:{path}")]))
}

fn start(program: &str, words: &[&str]) -> Result<Child> {
    let log = |ending: &str| {
        let path = Path::new(LOGS).join(format!("{program}.{ending}"));
        File::create(&path).with_context(|| format!("make {}", path.display()))
    };
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(log("out")?).stderr(log("err")?);
    command.spawn().with_context(|| format!("start {program}"))
}

fn read(log: &str) -> String {
    fs::read_to_string(Path::new(LOGS).join(log)).unwrap_or_default()
}
