//! Step 8: which pod a cgroup belongs to, by its number.
//!
//! The number is the directory's inode (kernfs), so the directories are looked through: seldom, off-core, and to
//! a bounded depth. A cgroup that is gone by then stays a number.

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::DirEntryExt as _,
    path::{Path, PathBuf},
};

/// kubepods.slice / QoS class / pod / container, below a kind node's two.
const DEPTH: usize = 7;
const ANSWERS: usize = 256;

#[derive(Debug)]
pub struct Cgroups {
    /// The cpuset controller's hierarchy.
    root: PathBuf,
    answers: HashMap<u64, Option<String>>,
}

impl Cgroups {
    /// `mounts` is /sys/fs/cgroup: with cgroup v2 the hierarchy itself, else the cpuset controller's is in it.
    pub fn new(mounts: &Path) -> Cgroups {
        let v1 = mounts.join("cpuset");
        let root = if v1.join("cpuset.cpus").exists() { v1 } else { mounts.to_owned() };
        Cgroups { root, answers: HashMap::new() }
    }

    /// "pod UID", or the path of what is no pod's.
    pub fn name(&mut self, id: u64) -> Option<String> {
        if let Some(answer) = self.answers.get(&id) {
            return answer.clone();
        }
        let path = find(&self.root, id, DEPTH);
        let answer = path.as_deref().and_then(|path| path.strip_prefix(&self.root).ok()).map(words);
        if ANSWERS <= self.answers.len() {
            self.answers.clear();
        }
        self.answers.insert(id, answer.clone());
        answer
    }
}

fn find(dir: &Path, id: u64, depth: usize) -> Option<PathBuf> {
    let mut below = Vec::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.ino() == id {
            return Some(entry.path());
        }
        below.push(entry.path());
    }
    let depth = depth.checked_sub(1)?;
    below.iter().find_map(|dir| find(dir, id, depth))
}

/// Both of the kubelet's drivers: "pod<uid>" and "kubepods-burstable-pod<uid with underscores>.slice".
fn words(path: &Path) -> String {
    let parts = path.iter().filter_map(|part| part.to_str());
    let pod = parts.filter(|part| !part.contains(':')).find_map(|part| {
        let part = part.strip_suffix(".slice").unwrap_or(part);
        let (before, uid) = part.rsplit_once("pod")?;
        let named_so = before.is_empty() || before.ends_with('-');
        (named_so && 32 <= uid.len()).then(|| uid.replace('_', "-"))
    });
    pod.map_or_else(|| format!("cgroup /{}", path.display()), |uid| format!("pod {uid}"))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    #[track_caller]
    fn check(path: &str, expect: Expect) {
        expect.assert_eq(&words(Path::new(path)));
    }

    #[test]
    fn a_pod_is_known_by_its_uid_whatever_the_cgroup_driver() {
        check(
            "kubepods/burstable/pod2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11/0123abcd",
            expect!["pod 2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11"],
        );
        check(
            "kubepods.slice/kubepods-pod2f1c6a6e_74f0_4b6f_a0c5_8c2b5f0c9d11.slice/cri-containerd-0123.scope",
            expect!["pod 2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11"],
        );
    }

    #[test]
    fn what_is_no_pods_is_called_by_its_path() {
        check("system.slice/cron.service", expect!["cgroup /system.slice/cron.service"]);
        check("podman.slice", expect!["cgroup /podman.slice"]);
    }

    #[test]
    fn a_cgroup_is_found_by_its_number() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("system.slice/cron.service");
        fs::create_dir_all(&dir).unwrap();
        let id = std::os::unix::fs::MetadataExt::ino(&fs::metadata(&dir).unwrap());
        let mut cgroups = Cgroups::new(root.path());
        assert_eq!(cgroups.name(id).as_deref(), Some("cgroup /system.slice/cron.service"));
        assert_eq!(cgroups.name(u64::MAX), None);
    }
}
