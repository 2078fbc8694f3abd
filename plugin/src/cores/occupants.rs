//! Step 3: programs of others that may run nowhere but on cores of ours: by taskset, numactl, CPUAffinity=, or a cpuset.
//!
//! Reads /proc and asks the kernel for affinities, which disturbs nobody; never touches a task itself.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::Pid;

use super::{affinity, set::CpuSet};

/// The kernel's own threads stay what they are; a number that was one of theirs is looked at again after so many looks.
const TRUSTED_FOR: u32 = 64;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Occupant {
    pub pid: i32,
    pub comm: String,
    /// Where it may run.
    pub cpus: CpuSet,
    pub cgroup: String,
}

#[derive(Debug)]
pub struct Occupants {
    proc: PathBuf,
    kernels_own: BTreeSet<i32>,
    n_looks: u32,
}

impl Occupants {
    /// `proc` is /proc of the host.
    pub fn new(proc: PathBuf) -> Occupants {
        Occupants { proc, kernels_own: BTreeSet::new(), n_looks: 0 }
    }

    /// One for each process that has such a thread; those of strict containers among them.
    pub fn look(&mut self, cores: &CpuSet) -> Vec<Occupant> {
        self.n_looks += 1;
        if self.n_looks.is_multiple_of(TRUSTED_FOR) {
            self.kernels_own.clear();
        }
        let pids = numbers(&self.proc);
        self.kernels_own.retain(|pid| pids.contains(pid));
        let mut found = Vec::new();
        for pid in pids.into_iter().filter(|pid| *pid != own_pid()) {
            if self.kernels_own.contains(&pid) {
                continue;
            }
            let folder = self.proc.join(pid.to_string());
            let bound = numbers(&folder.join("task")).into_iter().find_map(|tid| {
                let is_bound = affinity::is_within(Pid::from_raw(tid), cores).ok()?;
                if is_bound { affinity::of(Pid::from_raw(tid)).ok() } else { None }
            });
            let Some(cpus) = bound else { continue };
            if is_kernels_own(&folder) {
                self.kernels_own.insert(pid);
                continue;
            }
            // Tasks end while they are looked at.
            let (Some(comm), Some(cgroup)) = (text(&folder, "comm"), cgroup(&folder)) else { continue };
            found.push(Occupant { pid, comm, cpus, cgroup });
        }
        found
    }
}

fn own_pid() -> i32 {
    nix::unistd::getpid().as_raw()
}

fn numbers(folder: &Path) -> BTreeSet<i32> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

fn text(folder: &Path, name: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(name)).ok()?.trim_end().to_owned())
}

/// The flags in field 9 of proc_pid_stat(5); the name before them may hold brackets and spaces of its own.
fn is_kernels_own(folder: &Path) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let flags = text(folder, "stat").and_then(|stat| {
        let (_, after) = stat.rsplit_once(") ")?;
        after.split(' ').nth(6)?.parse::<u64>().ok()
    });
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// In the cpuset controller's hierarchy (cgroups(7)).
fn cgroup(folder: &Path) -> Option<String> {
    let lines = text(folder, "cgroup")?;
    let of = |wanted: fn(&str) -> bool| {
        lines.lines().find_map(|line| {
            let (_, line) = line.split_once(':')?;
            let (controllers, path) = line.split_once(':')?;
            wanted(controllers).then(|| path.to_owned())
        })
    };
    of(|controllers| controllers.split(',').any(|name| name == "cpuset")).or_else(|| of(str::is_empty))
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    struct Sleeper(Child);

    impl Drop for Sleeper {
        fn drop(&mut self) {
            self.0.kill().unwrap();
            self.0.wait().unwrap();
        }
    }

    fn sleeper(cpus: &CpuSet) -> Sleeper {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().unwrap();
        let sleeper = Sleeper(child);
        affinity::restrict(Pid::from_raw(sleeper.0.id().cast_signed()), cpus).unwrap();
        sleeper
    }

    #[test]
    fn who_may_run_nowhere_else_is_found_by_name_and_whoever_may_is_not() {
        let all = affinity::of(Pid::from_raw(0)).unwrap();
        let last = CpuSet::from(all.iter().last().unwrap());
        let bound = sleeper(&last);
        let free = sleeper(&all);
        let mut occupants = Occupants::new(PathBuf::from("/proc"));
        let all_found = occupants.look(&last);
        let of = |sleeper: &Sleeper| {
            let pid = sleeper.0.id().cast_signed();
            all_found.iter().find(|occupant| occupant.pid == pid).cloned()
        };
        let (found, other) = (of(&bound).unwrap(), of(&free));
        assert_eq!((found.comm.as_str(), &found.cpus), ("sleep", &last));
        assert!(found.cgroup.starts_with('/') && (all == last || other.is_none()));
        assert!(!occupants.kernels_own.is_empty(), "each CPU has threads of the kernel's own");
    }
}
