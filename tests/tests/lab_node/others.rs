//! Others that come on granted cores: what the agent makes of it, read from the kernel and the agent's words.

use std::fs;
use std::process::{Child, Command, Stdio};

use quietcore_tests::wait::{Seen, until};

use crate::node::{Node, Pod, SOON};
use crate::quiet::{at_rest, cgroup, isolated_by_boot};

pub(crate) fn read(file: &str) -> String {
    fs::read_to_string(file).unwrap_or_default().trim_end().to_owned()
}

/// The one CPU of a strict pod without shared ones.
#[track_caller]
pub(crate) fn core_of(pod: &Pod) -> String {
    pod.wait_log("arming");
    let core = read(&format!("{}/cpuset.cpus", cgroup(pod)));
    assert!(["1", "2", "3"].contains(&&*core), "{core}");
    core
}

struct Sleeper(Child);

impl Sleeper {
    /// Whoever may not run there does not start.
    fn bound(core: &str) -> Sleeper {
        let mut taskset = Command::new("taskset");
        taskset.args(["-c", core, "sleep", "600"]).stdin(Stdio::null()).stderr(Stdio::null());
        Sleeper(taskset.spawn().expect("taskset starts"))
    }

    fn allowed(&self) -> String {
        let status = read(&format!("/proc/{}/status", self.0.id()));
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:\t"));
        list.unwrap_or_default().to_owned()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whoever_is_bound_to_a_granted_core_is_moved_off_it_and_named_or_cannot_be_bound_there() {
    let node = Node::get();
    let pod = node.pod("intruded", "report", "spin");
    let core = core_of(&pod);
    let mut sleeper = Sleeper::bound(&core);
    if isolated_by_boot() {
        let told = pod.wait_told("who sat there", |note| {
            note.contains("(sleep, cgroup") && note.contains(&format!("was bound to CPU {core}"))
        });
        assert_eq!(told["reason"], "DriftRepaired");
        assert_eq!(sleeper.allowed(), "0");
    } else {
        // A partition's CPUs are nobody else's: sched_setaffinity(2) says EINVAL.
        let status = sleeper.0.wait().expect("taskset ends");
        assert!(!status.success(), "{status}");
    }
    drop(pod);
}

#[test]
fn beside_shared_cpus_everybody_elses_cgroup_leaves_the_core_and_gets_it_back() {
    let node = Node::get();
    at_rest();
    let other = node.ordinary_pod("ordinary", "sleep");
    let file = format!("{}/cpuset.cpus.effective", cgroup(&other));
    let before = read(&file);
    let strict = node.pod("beside", "shared", "control");
    strict.wait_log("calls=");
    let own = read(&format!("{}/cpuset.cpus", cgroup(&strict)));
    let core = own.rsplit([',', '-']).next().unwrap_or_default().to_owned();
    if !isolated_by_boot() {
        let has_core = |list: &str| {
            list.split(',').any(|range| {
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                (first..=last).contains(&&*core)
            })
        };
        assert!(has_core(&before), "{before} {core}");
        until("the other pod to leave the core", SOON, || {
            let now = read(&file);
            Ok(if has_core(&now) { Seen::NotYet(now) } else { Seen::Done(()) })
        });
    }
    drop(strict);
    until("the other pod to have it again", SOON, || {
        let now = read(&file);
        Ok(if now == before { Seen::Done(()) } else { Seen::NotYet(now) })
    });
}
