//! Which processes a container's cgroup holds, and where their threads may run. IO; what to do is decided elsewhere.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    path::{Path, PathBuf},
};

use nix::{errno::Errno, unistd::Pid};

use crate::cores::{affinity, set::CpuSet};

/// kubepods.slice / QoS class / pod / container, below a kind node's two.
const DEPTH: usize = 7;
/// What a container makes of its own cgroup.
const DEPTH_WITHIN: usize = 4;
/// A process that makes threads all the time meets us again at the next look.
const ROUNDS: usize = 8;

/// Where the containers' cgroups are: the cpuset controller's hierarchy, as the runtime's exec knows it.
#[derive(Debug)]
pub(super) struct Folders {
    root: PathBuf,
    proc: PathBuf,
    /// By the container's id. `None`: not to be found.
    known: HashMap<String, Option<PathBuf>>,
}

impl Folders {
    /// `mounts` is /sys/fs/cgroup: with cgroup v2 the hierarchy itself, else the cpuset controller's is in it.
    pub(super) fn new(mounts: &Path, proc: &Path) -> Folders {
        let v1 = mounts.join("cpuset");
        let root = if v1.join("cpuset.cpus").exists() { v1 } else { mounts.to_owned() };
        Folders { root, proc: proc.to_owned(), known: HashMap::new() }
    }

    pub(super) fn retain(&mut self, is_there: impl Fn(&str) -> bool) {
        self.known.retain(|id, _| is_there(id));
    }

    /// `None`: it is gone, or the agent does not see the node's cgroups; the second is in the log once.
    pub(super) fn of(&mut self, container_id: &str, pid: i32) -> Option<PathBuf> {
        if let Some(known) = self.known.get(container_id) {
            return known.clone();
        }
        let lines = fs::read_to_string(self.proc.join(pid.to_string()).join("cgroup")).ok()?;
        let found = own_path(&lines).and_then(|path| self.find(&path, container_id));
        if found.is_none() {
            let root = self.root.display();
            tracing::warn!(container_id, %root, "its cgroup is not found: what is exec'd there stays unseen");
        }
        self.known.insert(container_id.to_owned(), found.clone());
        found
    }

    /// From within a cgroup namespace, or where only a part of the hierarchy is mounted, the path leads nowhere: then
    /// the folder is looked for by its name.
    fn find(&self, path: &Path, container_id: &str) -> Option<PathBuf> {
        let is_its =
            |path: &&Path| path.file_name().is_some_and(|name| name.to_string_lossy().contains(container_id));
        // A container that made cgroups of its own is in one of them.
        // Neither is there in the cgroup of another process that got its number.
        let path = path.ancestors().find(is_its)?;
        let direct = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let is_whole = path.iter().all(|part| part != "..");
        (is_whole && direct.is_dir())
            .then_some(direct)
            .or_else(|| named(&self.root, path.file_name()?, DEPTH))
    }
}

/// The line of the cpuset controller's hierarchy (cgroups(7), /proc/PID/cgroup).
fn own_path(lines: &str) -> Option<PathBuf> {
    let fields = |line: &str| {
        let mut fields = line.splitn(3, ':');
        Some((fields.next()?.to_owned(), fields.next()?.to_owned(), PathBuf::from(fields.next()?)))
    };
    let lines: Vec<_> = lines.lines().filter_map(fields).collect();
    let v1 = lines.iter().find(|(_, controllers, _)| controllers.split(',').any(|name| name == "cpuset"));
    let v2 = lines.iter().find(|(number, controllers, _)| number == "0" && controllers.is_empty());
    v1.or(v2).map(|(_, _, path)| path.clone())
}

fn named(folder: &Path, name: &std::ffi::OsStr, depth: usize) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in fs::read_dir(folder).ok()?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            if entry.file_name() == name {
                return Some(entry.path());
            }
            below.push(entry.path());
        }
    }
    let depth = depth.checked_sub(1)?;
    below.iter().find_map(|folder| named(folder, name, depth))
}

/// Of a cgroup and those below it. 0 is a process outside of the agent's PID namespace.
pub(super) fn pids(cgroup: &Path) -> BTreeSet<i32> {
    let mut pids = BTreeSet::new();
    collect(cgroup, DEPTH_WITHIN, &mut pids);
    pids.remove(&0);
    pids
}

fn collect(cgroup: &Path, depth: usize, pids: &mut BTreeSet<i32>) {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    pids.extend(listed.lines().filter_map(|line| line.parse::<i32>().ok()));
    let Some(depth) = depth.checked_sub(1) else { return };
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect(&entry.path(), depth, pids);
        }
    }
}

/// May one of its threads run on another CPU than these? `None`: it is gone.
pub(super) fn may_leave(pid: i32, cpus: &CpuSet) -> Option<bool> {
    let threads = threads(pid).ok()?;
    let allowed: Vec<CpuSet> = threads.iter().filter_map(|tid| affinity::of(*tid).ok()).collect();
    (!allowed.is_empty()).then(|| allowed.iter().any(|allowed| !allowed.is_subset(cpus)))
}

/// All threads, also those that are made meanwhile; their children inherit it. A thread or process that is gone is
/// no error.
pub(super) fn move_to(pid: i32, cpus: &CpuSet) -> Result<(), Errno> {
    let mut moved = BTreeSet::new();
    for _round in 0..ROUNDS {
        let all = threads(pid).unwrap_or_default();
        let new: Vec<Pid> = all.difference(&moved).copied().collect();
        if new.is_empty() {
            return Ok(());
        }
        for tid in new {
            match affinity::restrict(tid, cpus) {
                Ok(()) | Err(Errno::ESRCH) => moved.insert(tid),
                Err(errno) => return Err(errno),
            };
        }
    }
    Ok(())
}

fn threads(pid: i32) -> io::Result<BTreeSet<Pid>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let tids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(tids.map(Pid::from_raw).collect())
}

/// A process's name, and its parent's: "containerd-shim (pid 812)". Empty where it is gone.
pub(super) fn names(pid: i32) -> (String, Option<String>) {
    let comm = |pid: i32| fs::read_to_string(format!("/proc/{pid}/comm")).ok();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse::<i32>().ok());
    let parent = parent.and_then(|pid| Some(format!("{} (pid {pid})", comm(pid)?.trim_end())));
    (comm(pid).unwrap_or_default().trim_end().to_owned(), parent)
}

#[cfg(test)]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    const ID: &str = "0123abcd";

    /// A hierarchy with these folders, and a process 7 whose cgroup is as /proc says.
    fn found(folders: &[&str], lines: &str) -> Option<PathBuf> {
        let root = tempfile::tempdir().unwrap();
        for folder in folders {
            fs::create_dir_all(root.path().join("cgroup").join(folder)).unwrap();
        }
        fs::create_dir_all(root.path().join("proc/7")).unwrap();
        fs::write(root.path().join("proc/7/cgroup"), lines).unwrap();
        if folders[0].starts_with("cpuset") {
            fs::write(root.path().join("cgroup/cpuset/cpuset.cpus"), "").unwrap();
        }
        let mut known = Folders::new(&root.path().join("cgroup"), &root.path().join("proc"));
        let found = known.of(ID, 7);
        found.map(|path| path.strip_prefix(root.path().join("cgroup")).unwrap().to_owned())
    }

    #[test]
    fn a_containers_cgroup_is_where_proc_says() {
        let v2 = "kubepods.slice/kubepods-pod1.slice/cri-containerd-0123abcd.scope";
        assert_eq!(found(&[v2], &format!("0::/{v2}\n")), Some(v2.into()));
        // Hybrid: runc's own hierarchy is there as well, and the controllers are not in it.
        let lines = "3:cpu,cpuset:/kubepods/pod1/0123abcd\n0::/other\n";
        let v1 = "cpuset/kubepods/pod1/0123abcd";
        assert_eq!(found(&[v1], lines), Some(v1.into()));
        assert_eq!(found(&["kubepods"], "0::/gone/0123abcd\n"), None);
    }

    /// A pid of before a crash, which another service has by now.
    #[test]
    fn the_cgroup_of_another_process_is_never_taken_for_the_containers() {
        assert_eq!(found(&["system.slice/sshd.service"], "0::/system.slice/sshd.service\n"), None);
        assert_eq!(found(&["system.slice"], "0::/\n"), None);
    }

    #[test]
    fn one_that_made_cgroups_of_its_own_is_found_whole() {
        let whole = "kubepods/pod1/0123abcd";
        assert_eq!(found(&[whole], "0::/kubepods/pod1/0123abcd/init.scope\n"), Some(whole.into()));
    }

    #[test]
    fn from_within_a_cgroup_namespace_it_is_found_by_its_name() {
        let lines = "0::/../../kubepods-pod1.slice/cri-containerd-0123abcd.scope\n";
        let folder = "kubepods.slice/kubepods-pod1.slice/cri-containerd-0123abcd.scope";
        assert_eq!(found(&["kubepods.slice/agent", folder], lines), Some(folder.into()));
        let lines = format!("0::/node.scope/{folder}\n");
        assert_eq!(found(&[folder], &lines), Some(folder.into()));
    }

    #[test]
    fn processes_of_cgroups_below_are_its_own() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("below")).unwrap();
        fs::write(root.path().join("cgroup.procs"), "7\n0\n").unwrap();
        fs::write(root.path().join("below/cgroup.procs"), "9\n").unwrap();
        assert_eq!(pids(root.path()), BTreeSet::from([7, 9]));
        assert_eq!(pids(&root.path().join("gone")), BTreeSet::new());
    }

    #[test]
    fn a_process_is_moved_with_its_threads_and_one_that_is_gone_is_no_error() {
        let mut child = Command::new("/bin/sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let first = CpuSet::from(affinity::of(Pid::from_raw(pid)).unwrap().first());
        move_to(pid, &first).unwrap();
        assert_eq!(may_leave(pid, &first), Some(false));
        let (_, parent) = names(pid);
        assert!(parent.unwrap().ends_with(&format!("(pid {})", std::process::id())));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!((move_to(pid, &first), may_leave(pid, &first)), (Ok(()), None));
    }
}
