//! Whatever ends a run, it leaves nothing behind. Starts clusters of its own.
#![expect(clippy::unwrap_used, reason = "a test, also outside of its #[test] functions")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use quietcore_tests::cluster::Cluster;
use quietcore_tests::command::run;
use quietcore_tests::wait::{Seen, until};

/// One `testbed run` and where it says what.
struct Supervised {
    cluster: Cluster,
    child: Child,
    folder: tempfile::TempDir,
}

/// What a running cluster has on the machine, by names that its containers give it.
struct Traces {
    words: Vec<String>,
}

impl Supervised {
    /// Starts `testbed run -- sh -c SCRIPT`; `$MARK` in the script is a file that says how far it is.
    fn start(name: &str, script: &str) -> Supervised {
        let cluster = Cluster::named(name).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let said = fs::File::create(folder.path().join("said")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_testbed"))
            .args(["run", "--name", name, "--", "sh", "-c", script])
            .env("MARK", folder.path().join("mark"))
            .stdin(Stdio::null())
            .stdout(said.try_clone().unwrap())
            .stderr(said)
            .spawn()
            .unwrap();
        Supervised { cluster, child, folder }
    }

    fn mark(&self) -> PathBuf {
        self.folder.path().join("mark")
    }

    fn said(&self) -> String {
        fs::read_to_string(self.folder.path().join("said")).unwrap()
    }

    /// Waits until the command in the cluster runs, and looks what the cluster has by then.
    fn wait_running(&self) -> Traces {
        until("the command to run in the cluster", Duration::from_secs(300), || {
            let text = fs::read_to_string(self.mark()).unwrap_or_default();
            Ok(if text.ends_with('\n') { Seen::Done(()) } else { Seen::NotYet(self.said()) })
        });
        Traces::of(&self.cluster)
    }

    fn send(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), signal).unwrap();
    }

    fn wait(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    #[track_caller]
    fn check_logs_are_kept(&self) {
        let said = self.said();
        let folder = said.lines().find_map(|line| line.strip_prefix("logs of the cluster are in "));
        let folder = Path::new(folder.unwrap_or_else(|| panic!("no folder of logs is named:\n{said}")));
        let journal = folder.join(format!("{}-control-plane.kubelet.log", self.cluster.name));
        assert!(fs::read_to_string(&journal).unwrap().contains("kubelet"), "{}", journal.display());
        assert!(fs::read_to_string(folder.join("pods.txt")).unwrap().contains("kube-apiserver"));
    }
}

impl Traces {
    fn of(cluster: &Cluster) -> Traces {
        let mut inspect = cluster.engine.command();
        let format = "{{.Id}} {{.GraphDriver.Data.MergedDir}} {{.NetworkSettings.SandboxKey}} \
                      {{range .Mounts}}{{.Name}} {{end}}";
        inspect.args(["inspect", "--type=container", "--format", format]).args(cluster.nodes().unwrap());
        let words: Vec<_> = run(&mut inspect).unwrap().split_whitespace().map(str::to_owned).collect();
        assert!(!words.is_empty());
        Traces { words }
    }

    #[track_caller]
    fn check_gone(&self, cluster: &Cluster) {
        assert_eq!(cluster.nodes().unwrap(), Vec::<String>::new());
        assert!(!cluster.kubeconfig.exists(), "{}", cluster.kubeconfig.display());
        let volumes = run(cluster.engine.command().args(["volume", "ls"])).unwrap();
        assert!(!self.words.iter().any(|word| volumes.contains(word)), "{volumes}");
        let network = run(cluster.engine.command().args(["network", "ls", "--format", "{{.Name}}"])).unwrap();
        assert!(!network.lines().any(|name| name == cluster.name), "{network}");
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut cgroups = String::new();
        list_folders(Path::new("/sys/fs/cgroup"), &mut cgroups);
        for word in &self.words {
            assert!(!mounts.contains(word), "{word} is still mounted:\n{mounts}");
            assert!(!cgroups.contains(word), "{word} still has a cgroup:\n{cgroups}");
            assert!(!Path::new(word).exists(), "{word} is still there");
        }
    }
}

fn list_folders(folder: &Path, list: &mut String) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        list.push_str(&format!("{}\n", entry.path().display()));
        list_folders(&entry.path(), list);
    }
}

#[test]
fn an_interrupted_run_ends_its_command_keeps_the_logs_and_leaves_nothing() {
    let mut run = Supervised::start("quietcore-interrupted", "echo $$ >$MARK; sleep 1000");
    let traces = run.wait_running();
    let command = fs::read_to_string(run.mark()).unwrap();
    run.send(Signal::SIGINT);
    assert!(!run.wait().success());
    assert!(!Path::new("/proc").join(command.trim()).exists(), "the command still runs");
    run.check_logs_are_kept();
    traces.check_gone(&run.cluster);
}

#[test]
fn a_failing_command_gives_its_exit_code_keeps_the_logs_and_leaves_nothing() {
    let script = "kubectl get nodes && helm list && echo ran >$MARK && sleep 3; exit 101";
    let mut run = Supervised::start("quietcore-failing", script);
    let traces = run.wait_running();
    assert_eq!(run.wait().code(), Some(101), "{}", run.said());
    run.check_logs_are_kept();
    traces.check_gone(&run.cluster);
}

#[test]
fn an_interrupt_while_the_cluster_starts_leaves_nothing() {
    let mut run = Supervised::start("quietcore-starting", "true");
    until("the first container", Duration::from_secs(300), || {
        let nodes = run.cluster.nodes()?;
        Ok(if nodes.is_empty() { Seen::NotYet(run.said()) } else { Seen::Done(()) })
    });
    let traces = Traces::of(&run.cluster);
    run.send(Signal::SIGTERM);
    assert!(!run.wait().success());
    traces.check_gone(&run.cluster);
}

#[test]
fn what_a_killed_run_left_is_removed_under_its_name() {
    let mut run = Supervised::start("quietcore-killed", "echo $$ >$MARK; exec sleep 1000");
    let traces = run.wait_running();
    run.send(Signal::SIGKILL);
    run.wait();
    assert_ne!(run.cluster.nodes().unwrap(), Vec::<String>::new());
    let command: i32 = fs::read_to_string(run.mark()).unwrap().trim().parse().unwrap();
    kill(Pid::from_raw(command), Signal::SIGKILL).unwrap();
    let down =
        Command::new(env!("CARGO_BIN_EXE_testbed")).args(["down", "--name", "quietcore-killed"]).status();
    assert!(down.unwrap().success());
    traces.check_gone(&run.cluster);
}

#[test]
fn a_name_in_use_is_refused_in_words() {
    let cluster = Cluster::named("quietcore-claimed").unwrap();
    let _claim = cluster.claim().unwrap();
    let refused =
        Command::new(env!("CARGO_BIN_EXE_testbed")).args(["down", "--name", &cluster.name]).output();
    let said = String::from_utf8_lossy(&refused.unwrap().stderr).into_owned();
    assert!(said.contains("quietcore-claimed is being used by another testbed"), "{said}");
}
