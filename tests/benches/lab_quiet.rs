//! `make bench-quiet`, the part that starts pods: the same spinner on a core of an ordinary pod, of the kubelet's static CPU
//! manager, of the boot, and of quietcore, on real components in the lab. Who counts is plugin/benches/kernel, a program
//! of its own here. Quiets nothing itself.
#![expect(clippy::print_stdout, reason = "it shows figures")]

#[path = "../tests/lab_node/node.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod node;
#[path = "../tests/lab_node/process.rs"]
#[allow(dead_code, reason = "the tests use all of it")]
mod process;

use std::fs;
use std::process::{Child, Command};

use anyhow::{Context as _, Result, bail};
use node::{Pod, SOON};
use process::Process;
use quietcore_tests::command::run;
use quietcore_tests::wait::{Seen, until};

/// Who counts, and where what it wrote comes back from.
const COUNTS: &str = "/lab/kernel";
const OUT: &str = "/out";
const KUBELET: &str = "/etc/kubelet.yaml";
const STATIC_KUBELET: &str = "/etc/kubelet-static.yaml";
/// The file that keeps one policy of the CPU manager from following another.
const CPU_MANAGER_STATE: &str = "/var/lib/kubelet/cpu_manager_state";
/// Of a pod that pins itself: the last of this machine, isolated where the boot isolates.
const CPU: &str = "3";

/// What its manifest says of a core.
enum Core {
    /// Nothing: the program pins itself to `CPU`.
    Own,
    /// Guaranteed, with a whole CPU.
    Exclusive,
    Granted,
}

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    fs::write(format!("{OUT}/kernel"), fs::read("/proc/sys/kernel/osrelease")?)?;
    match words[..] {
        ["plain", seconds] => plain(seconds),
        ["domain", seconds] => isolated(seconds),
        // that one again, on whatever was booted
        ["plain" | "domain", seconds, name] => {
            let _containerd = node::start_containerd()?;
            granted(seconds, name)
        }
        _ => bail!("usage: lab_quiet plain|domain SECONDS [quietcore|quietcore-boot]"),
    }
}

fn plain(seconds: &str) -> Result<()> {
    let _containerd = node::start_containerd()?;
    let static_policy = fs::read_to_string(KUBELET)? + "cpuManagerPolicy: static\nreservedSystemCPUs: '0'\n";
    fs::write(STATIC_KUBELET, static_policy)?;
    let kubelet = node::start_kubelet(STATIC_KUBELET)?;
    measure(seconds, &Spinner::start("ordinary", &Core::Own))?;
    measure(seconds, &Spinner::start("static", &Core::Exclusive))?;
    stop(kubelet)?;
    fs::remove_file(CPU_MANAGER_STATE).context("forget the static policy")?;
    granted(seconds, "quietcore")
}

fn isolated(seconds: &str) -> Result<()> {
    let _containerd = node::start_containerd()?;
    let kubelet = node::start_kubelet(KUBELET)?;
    measure(seconds, &Spinner::start("boot", &Core::Own))?;
    stop(kubelet)?;
    granted(seconds, "quietcore-boot")
}

fn granted(seconds: &str, name: &str) -> Result<()> {
    let _agent = node::start_agent()?;
    let _kubelet = node::start_kubelet(KUBELET)?;
    node::wait_ready();
    measure(seconds, &Spinner::start(name, &Core::Granted))
}

fn stop(mut kubelet: Child) -> Result<()> {
    kubelet.kill()?;
    kubelet.wait()?;
    Ok(())
}

/// A pod whose program waits to be watched. Gone when dropped.
struct Spinner {
    name: String,
    pod: Option<Pod>,
    process: Process,
}

impl Spinner {
    fn start(name: &str, core: &Core) -> Spinner {
        let (annotations, resources, cpu) = match core {
            Core::Own => ("{}", "{}", Some(CPU)),
            Core::Exclusive => ("{}", "{limits: {cpu: 1, memory: 64Mi}}", None),
            Core::Granted => ("{policy.quietcore.io/pod: settled}", "{limits: {quietcore.io/core: 1}}", None),
        };
        let words: Vec<&str> = ["still", name].into_iter().chain(cpu).collect();
        let args = words.join("', '");
        let manifest = format!(
            "apiVersion: v1
kind: Pod
metadata: {{name: {name}, annotations: {annotations}}}
spec:
  hostNetwork: true
  # a start that is refused is tried again only so
  restartPolicy: Always
  terminationGracePeriodSeconds: 1
  containers:
    - name: app
      image: localhost/workload:lab
      imagePullPolicy: Never
      args: ['{args}']
      resources: {resources}
      securityContext: {{allowPrivilegeEscalation: false, runAsUser: 65534, capabilities: {{drop: [ALL]}}}}
"
        );
        let pod = Pod::start(name, &manifest);
        pod.wait_log("waiting");
        let command: Vec<&str> = ["/workload"].into_iter().chain(words).collect();
        Spinner { name: name.to_owned(), pod: Some(pod), process: Process::wait(&command) }
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        self.pod = None;
        // the kubelet would, once it comes to it: until then its spinner takes half of the emulator's time
        let _gone = run(Command::new("kill").args(["-KILL", &self.process.pid()]));
        until(&format!("the end of {}", self.name), SOON, || {
            let words = self.process.read("cmdline");
            Ok(if words.is_empty() { Seen::Done(()) } else { Seen::NotYet(words) })
        });
    }
}

/// One after the other: the emulator has one CPU for all of the machine's, and a tick that comes while another's program
/// has it is lost.
fn measure(seconds: &str, Spinner { name, process, .. }: &Spinner) -> Result<()> {
    let who = format!("{name}:{}", process.pid());
    print!("{}", run(Command::new(COUNTS).args(["--entries", seconds, OUT, &who]))?);
    Ok(())
}
