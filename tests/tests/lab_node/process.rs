//! Processes of the lab's node, as somebody with the right to sees and treats them: found by their words, brought into a
//! container by exec, signalled, moved. Knows no pods.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use quietcore_tests::command::run;
use quietcore_tests::wait::{Seen, until};

use crate::node::{SOON, ctr};

/// As `kubectl exec` would: in the container's cgroup.
pub(crate) fn exec(container_id: &str, words: &[&str]) {
    let _its_own_status = run(&mut command_to_exec(container_id, words));
}

/// One that stays.
pub(crate) fn start_exec(container_id: &str, words: &[&str]) -> Child {
    let mut command = command_to_exec(container_id, words);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| panic!("start ctr: {error}"))
}

fn command_to_exec(container_id: &str, words: &[&str]) -> Command {
    let mut command = Command::new("ctr");
    command
        .args(["--namespace", "k8s.io", "tasks", "exec", "--exec-id", "visitor", container_id])
        .args(words);
    command
}

/// A process of the node, by its words.
pub(crate) struct Process(PathBuf);

impl Process {
    #[track_caller]
    pub(crate) fn wait(words: &[&str]) -> Process {
        let cmdline: String = words.iter().map(|word| format!("{word}\0")).collect();
        until(&format!("{words:?} to run"), SOON, || {
            let mut processes = fs::read_dir("/proc")?.flatten().map(|entry| entry.path());
            let is_it =
                |path: &PathBuf| fs::read_to_string(path.join("cmdline")).is_ok_and(|found| found == cmdline);
            Ok(processes.find(is_it).map_or(Seen::NotYet("not yet"), |path| Seen::Done(Process(path))))
        })
    }

    pub(crate) fn pid(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    pub(crate) fn read(&self, file: &str) -> String {
        fs::read_to_string(self.0.join(file)).unwrap_or_default()
    }

    /// Until it may run there and nowhere else.
    #[track_caller]
    pub(crate) fn wait_cpus(&self, list: &str) {
        until(&format!("{} to be on CPUs {list}", self.0.display()), SOON, || {
            let status = self.read("status");
            let found = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
            Ok(if found == Some(list) { Seen::Done(()) } else { Seen::NotYet(status.clone()) })
        });
    }

    /// Until it has run for so many clock ticks more.
    #[track_caller]
    pub(crate) fn wait_run(&self, ticks: u64) {
        // The name before them may hold anything; utime and stime are fields 14 and 15 (proc_pid_stat(5)).
        let run = || {
            let stat = self.read("stat");
            let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
            fields.filter_map(|field| field.parse::<u64>().ok()).sum::<u64>()
        };
        let before = run();
        until(&format!("{} to run", self.0.display()), SOON, || {
            Ok(if before + ticks <= run() { Seen::Done(()) } else { Seen::NotYet(run().to_string()) })
        });
    }

    /// By somebody with the right to.
    #[track_caller]
    pub(crate) fn set_cpus(&self, list: &str) {
        let set = run(Command::new("taskset").args(["-a", "-p", "-c", list, &self.pid()]));
        set.unwrap_or_else(|error| panic!("{error:#}"));
    }
}

/// To a container's first process.
#[track_caller]
pub(crate) fn signal(container_id: &str, name: &str) {
    let sent = ctr(&["tasks", "kill", "--signal", name, container_id]);
    sent.unwrap_or_else(|error| panic!("{error:#}"));
}
