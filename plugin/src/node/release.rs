//! `quietcore node release`: gives one node back by hand, where no agent is left to be asked. As the agent's own release:
//! the node's settings from the journal, then what the guard has pinned. Needs no API server.
//!
//! The lock is held meanwhile, so that no agent starts in between.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use super::{NodeError, args::ReleaseArgs};
use crate::{
    coexist::alone::{Alone, AloneError},
    cores::{ledger::Holder, store},
    guard::{
        frozen::{FrozenError, PinnedThreads},
        pins,
    },
    quiet::{
        journal,
        keeper::Keeper,
        kernel::{Host, Kernel as _},
    },
};

pub(super) fn release(args: &ReleaseArgs) -> Result<String, NodeError> {
    let ReleaseArgs { state_dir, pin_dir, host_root } = args;
    if !state_dir.exists() && !pin_dir.exists() {
        return Ok("quietcore has never run here: nothing to give back\n".to_owned());
    }
    let _alone = Alone::hold(state_dir).map_err(|error| match error {
        AloneError::Another { pid } => NodeError::AgentServes { pid },
        error => error.into(),
    })?;
    let claims = store::claims(&state_dir.join("ledger.json"))?;
    let in_the_way = in_the_way(&claims, &processes(&host_root.join("proc"), pin_dir)?);
    if !in_the_way.is_empty() {
        return Err(NodeError::StrictContainers(in_the_way.join(", ")));
    }
    let (n_changes, left) = give_back(Host::new(host_root.clone()), state_dir.join("settings.json"))?;
    let unpinned = pins::remove_all(pin_dir)?;
    Ok(words(n_changes, &left, unpinned))
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Process {
    pid: i32,
    comm: String,
    /// The lines of /proc/PID/cgroup.
    cgroups: String,
    watched: bool,
}

/// Strict containers that run, whether the ledger knows them or only the guard does.
fn in_the_way(claims: &[(Holder, String)], processes: &[Process]) -> Vec<String> {
    let claim_of = |process: &Process| claims.iter().position(|(_, id)| process.cgroups.contains(id));
    let named = claims.iter().enumerate().filter_map(|(idx, (holder, _))| {
        let process = processes.iter().find(|process| claim_of(process) == Some(idx))?;
        let Holder { namespace, pod, container, .. } = holder;
        Some(format!("{namespace}/{pod}/{container} (process {})", process.pid))
    });
    let nameless = processes.iter().filter(|process| process.watched && claim_of(process).is_none());
    let nameless = nameless
        .map(|Process { pid, comm, .. }| format!("process {pid} ({comm}), which the ledger does not know"));
    named.chain(nameless).collect()
}

fn processes(proc: &Path, pin_dir: &Path) -> Result<Vec<Process>, NodeError> {
    let guard = match PinnedThreads::open(pin_dir) {
        Ok(guard) => Some(guard),
        Err(FrozenError::NoGuard(_)) => None,
        Err(error) => return Err(error.into()),
    };
    let entries = fs::read_dir(proc).map_err(NodeError::read(proc))?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let mut processes = Vec::new();
    for pid in pids {
        let text = |name: &str| fs::read_to_string(proc.join(pid.to_string()).join(name)).ok();
        // It has ended since.
        let (Some(comm), Some(cgroups)) = (text("comm"), text("cgroup")) else { continue };
        let watched = guard.as_ref().map_or(Ok(None), |guard| guard.slot_of(pid))?.is_some();
        let comm = crate::violation::text::printable(comm.trim_end(), 16);
        processes.push(Process { pid, comm, cgroups, watched });
    }
    Ok(processes)
}

/// How many settings were changed, and what is not as it was before.
fn give_back(host: Host, path: PathBuf) -> Result<(usize, Vec<String>), NodeError> {
    let file = Path::new("/proc/sys/kernel/random/boot_id");
    let boot_id = host.read(file).map_err(NodeError::read(file))?;
    let (journal, damage) = journal::read(&path, boot_id.trim())?;
    let n_changes = journal.changes.len();
    let mut keeper = Keeper::new(host, journal::File(path.clone()), journal);
    let pass = keeper.keep(&[]).map_err(|source| NodeError::Write { path, source })?;
    let mut left = pass.not_restored;
    left.extend(damage);
    for (file, before) in keeper.at_rest().into_iter().flatten() {
        let now = keeper.kernel().read(file).unwrap_or_default();
        if now.trim() != before {
            let file = file.display();
            left.push(format!("{file}: {before:?} before, {:?} now: a reboot gives it back", now.trim()));
        }
    }
    Ok((n_changes, left))
}

fn words(n_changes: usize, left: &[String], unpinned: bool) -> String {
    let mut text = format!("released: {n_changes} settings were ours");
    text.push_str(if unpinned { ", the guard is unpinned\n" } else { ", no guard was pinned\n" });
    for left in left {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "not as it was before: {left}");
    }
    if left.is_empty() {
        text.push_str("everything is as it was before\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    fn claim(pod: &str, id: &str) -> (Holder, String) {
        let holder =
            Holder { namespace: "ns".into(), pod: pod.into(), pod_uid: "uid".into(), container: "c".into() };
        (holder, id.to_owned())
    }

    fn process(pid: i32, cgroups: &str, watched: bool) -> Process {
        Process { pid, comm: "app".to_owned(), cgroups: cgroups.to_owned(), watched }
    }

    #[test]
    fn what_runs_is_in_the_way_and_what_only_the_ledger_remembers_is_not() {
        let claims = [claim("gone", "aaaa"), claim("runs", "bbbb")];
        let processes = [
            process(1, "0::/init.scope\n", false),
            process(7, "0::/kubepods.slice/cri-containerd-bbbb.scope\n", true),
            process(8, "0::/kubepods.slice/cri-containerd-bbbb.scope\n", false),
        ];
        assert_eq!(in_the_way(&claims, &processes), ["ns/runs/c (process 7)"]);
        assert!(in_the_way(&claims[..1], &processes[..1]).is_empty());
        // Its ledger was lost.
        assert_eq!(in_the_way(&[], &processes), ["process 7 (app), which the ledger does not know"]);
    }

    /// A node whose agent is gone, in a folder.
    struct Node(tempfile::TempDir);

    impl Node {
        fn new() -> Node {
            let node = Node(tempfile::tempdir().unwrap());
            node.write("proc/sys/kernel/random/boot_id", "this\n");
            node.write("proc/sys/vm/stat_interval", "120\n");
            let change = r#"{"area": "Node", "name": "vm.stat_interval", "before": "1", "now": "120", "format": null, "made": true}"#;
            let changes = format!("{{\"/proc/sys/vm/stat_interval\": {change}}}");
            node.write(
                "state/settings.json",
                &format!("{{\"version\": 1, \"boot_id\": \"this\", \"changes\": {changes}}}"),
            );
            node
        }

        fn at(&self, path: &str) -> PathBuf {
            self.0.path().join(path)
        }

        fn write(&self, path: &str, text: &str) {
            fs::create_dir_all(self.at(path).parent().unwrap()).unwrap();
            fs::write(self.at(path), text).unwrap();
        }

        fn release(&self) -> Result<String, NodeError> {
            let (state_dir, pin_dir) = (self.at("state"), self.at("pins"));
            release(&ReleaseArgs { state_dir, pin_dir, host_root: self.0.path().to_owned() })
        }

        fn stat_interval(&self) -> String {
            fs::read_to_string(self.at("proc/sys/vm/stat_interval")).unwrap()
        }
    }

    #[test]
    fn the_nodes_settings_are_given_back_and_a_second_time_there_is_nothing_to_do() {
        let node = Node::new();
        expect![[r#"
            released: 1 settings were ours, no guard was pinned
            everything is as it was before
        "#]]
        .assert_eq(&node.release().unwrap());
        assert_eq!(node.stat_interval().trim(), "1");
        expect![[r#"
            released: 0 settings were ours, no guard was pinned
            everything is as it was before
        "#]]
        .assert_eq(&node.release().unwrap());
    }

    #[test]
    fn while_an_agent_serves_the_node_nothing_is_touched() {
        let node = Node::new();
        let _agent = Alone::hold(&node.at("state")).unwrap();
        let refusal = node.release().unwrap_err().to_string();
        assert!(
            refusal.contains(&format!("agent (process {}) serves this node", std::process::id())),
            "{refusal}"
        );
        assert_eq!(node.stat_interval(), "120\n");
    }

    #[test]
    fn while_a_process_that_the_ledger_names_runs_nothing_is_touched() {
        let node = Node::new();
        let holder = r#"{"namespace": "ns", "pod": "p", "pod_uid": "uid", "container": "c"}"#;
        let mut ledger = crate::cores::ledger::Ledger::empty("1".parse().unwrap());
        let token = crate::cores::token::Token::of("t");
        ledger.allocate(token.clone(), "1".parse().unwrap());
        let policy = crate::policy::accept::node_default();
        ledger.claim(&token, &serde_json::from_str(holder).unwrap(), "cccc", "plan", &policy).unwrap();
        store::write(&node.at("state/ledger.json"), "this", ledger.saved()).unwrap();
        node.write("proc/7/comm", "app\n");
        node.write("proc/7/cgroup", "0::/kubepods.slice/cri-containerd-cccc.scope\n");
        let refusal = node.release().unwrap_err().to_string();
        assert!(refusal.contains("ns/p/c (process 7)"), "{refusal}");
        assert_eq!(node.stat_interval(), "120\n");
        fs::remove_dir_all(node.at("proc/7")).unwrap();
        node.release().unwrap();
        assert_eq!(node.stat_interval().trim(), "1");
    }

    #[test]
    fn a_node_that_never_had_an_agent_stays_untouched() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let args = ReleaseArgs { state_dir: at("state"), pin_dir: at("pins"), host_root: at("root") };
        assert!(release(&args).unwrap().contains("nothing to give back"));
        assert!(!at("state").exists());
    }
}
