//! What this kernel offers the guard: from facts to findings and the verdict. Pure.

use nix::errno::Errno;
use serde::Serialize;

use super::finding::{Finding, Group, Item, NOTHING_TO_DO, State};
use crate::{
    arm::plan::Provider,
    cores::set::CpuSet,
    guard::{
        detector::Detector,
        tracepoints::{self, GROUPS, Need},
    },
};

/// What `probe` read.
#[derive(Debug, Clone)]
pub(super) struct Facts {
    pub(super) cores: CpuSet,
    pub(super) nohz_full: Option<CpuSet>,
    pub(super) isolated: Option<CpuSet>,
    pub(super) btf: bool,
    pub(super) absent_tracepoints: Vec<&'static str>,
    pub(super) ring_buffer: bool,
    pub(super) task_storage: bool,
    pub(super) lsm: Lsm,
    pub(super) signal_task: bool,
    pub(super) signal_thread: bool,
    /// Of the plain prctl; `None`: this kernel took it.
    pub(super) native_errno: Option<i32>,
    pub(super) bpffs: bool,
    pub(super) lockdown: Option<String>,
}

/// Whether a BPF LSM program answers the prctl, by trying it.
#[derive(Debug, Clone)]
pub(super) enum Lsm {
    Answers,
    /// The kernel takes such programs, and runs none.
    Silent,
    Refused(String),
    /// Attaching enters every core. Who answers for those pods, where that can be read.
    StrictPodsRun(Option<Provider>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Grade {
    AsAsked,
    NotAsGood,
    Cannot,
}

impl Grade {
    pub(super) fn status(self) -> u8 {
        match self {
            Grade::AsAsked => 0,
            Grade::NotAsGood => 1,
            Grade::Cannot => 2,
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Grade::AsAsked => "strict pods can run as asked",
            Grade::NotAsGood => "strict pods can run, with something that is not as good",
            Grade::Cannot => "strict pods cannot run",
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Verdict {
    pub(super) grade: Grade,
    pub(super) detector: Option<&'static str>,
    pub(super) provider: Option<&'static str>,
    /// Why not the better one, or why not at all.
    pub(super) reasons: Vec<String>,
}

const BTF: Item =
    Item { group: Group::Detecting, name: "BTF", why: "BPF programs find the kernel's types by it" };
const RING: Item = Item { group: Group::Detecting, name: "ring buffer", why: "records come by it" };
const STORAGE: Item =
    Item { group: Group::Detecting, name: "task storage", why: "what is watched is known by it" };
const LSM: Item = Item {
    group: Group::Detecting,
    name: "BPF LSM",
    why: "a program that arms gets the exact errno by it, without no_new_privs",
};
const SIGNAL: Item =
    Item { group: Group::Detecting, name: "signal to a thread", why: "a violation's signal is sent by it" };
const NATIVE: Item = Item {
    group: Group::Detecting,
    name: "native prctl",
    why: "a kernel with task isolation of its own answers the prctl itself",
};
const BPFFS: Item = Item {
    group: Group::Detecting,
    name: "bpffs",
    why: "the guard outlives a restart of the agent by its pins",
};
const LSM_REMEDY: &str =
    "as root, on a kernel with CONFIG_BPF_LSM=y, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y and lsm=...,bpf";
/// What the strict pods' agent found when it started is in its node's object.
const LSM_BESIDE_PODS: &str = "kubectl get dataplanenode NODE -o jsonpath={.status.provider} tells what their agent chose; \
     to try it anew, run this when no strict pod is on this node";

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![
        of(&BTF, facts.btf, "/sys/kernel/btf/vmlinux", "use a kernel with CONFIG_DEBUG_INFO_BTF=y"),
        of(
            &RING,
            facts.ring_buffer,
            "bpf_ringbuf_reserve",
            "use Linux 5.8 or later with CONFIG_BPF_SYSCALL=y",
        ),
        of(
            &STORAGE,
            facts.task_storage,
            "bpf_task_storage_get",
            "use Linux 5.11 or later with CONFIG_BPF_SYSCALL=y",
        ),
    ];
    findings.extend(GROUPS.iter().map(|group| of_group(group, facts)));
    let bpffs = of(&BPFFS, facts.bpffs, "/sys/fs/bpf", "mount -t bpf bpf /sys/fs/bpf");
    findings.extend([lsm(facts), signal(facts), native(facts), bpffs]);
    findings
}

fn of(item: &Item, good: bool, what: &str, remedy: &str) -> Finding {
    let found = if good { what.to_owned() } else { format!("no {what}") };
    item.good_or_missing(good, found, remedy)
}

fn absent<'facts>(group: &tracepoints::Group, facts: &'facts Facts) -> Vec<&'facts str> {
    let of_group = |name: &&&str| group.tracepoints.contains(*name);
    facts.absent_tracepoints.iter().filter(of_group).copied().collect()
}

fn of_group(group: &tracepoints::Group, facts: &Facts) -> Finding {
    let absent = absent(group, facts);
    let item = Item { group: Group::Detecting, name: group.item, why: group.why };
    let state = match (absent.is_empty(), group.need) {
        (true, _) => State::Good,
        (false, Need::Optional) => State::NotHere,
        (false, _) => State::Missing,
    };
    let found = match absent.is_empty() {
        true => group.tracepoints.join(", "),
        false => format!("no {}", absent.join(", ")),
    };
    item.is(state, found, group.remedy)
}

fn outside(list: Option<&CpuSet>, cores: &CpuSet) -> Option<CpuSet> {
    list.map_or_else(|| Some(cores.clone()), |list| cores.without(list))
}

fn lsm(facts: &Facts) -> Finding {
    let (state, found, remedy) = match &facts.lsm {
        Lsm::Answers => (State::Good, "tried: the prctl has its answer", ""),
        Lsm::Silent => (
            State::Missing,
            "this kernel takes the program and does not run it",
            "boot with lsm=...,bpf (add bpf to the list in /sys/kernel/security/lsm)",
        ),
        Lsm::Refused(why) => (State::Missing, why.as_str(), LSM_REMEDY),
        Lsm::StrictPodsRun(Some(Provider::Lsm)) => {
            (State::Good, "strict pods here have their answer by it", "")
        }
        Lsm::StrictPodsRun(_) => (
            State::Unknown,
            "not tried: strict pods run here, and to attach a program enters their cores",
            LSM_BESIDE_PODS,
        ),
    };
    LSM.is(state, found, remedy)
}

fn signal(facts: &Facts) -> Finding {
    let (good, what) = match (facts.signal_task, facts.signal_thread) {
        (true, _) => (true, "bpf_send_signal_task"),
        (false, true) => (true, "bpf_send_signal_thread, without class and cause in siginfo"),
        (false, false) => (false, "bpf_send_signal_task, bpf_send_signal_thread"),
    };
    of(&SIGNAL, good, what, "use Linux 5.6 or later")
}

fn native(facts: &Facts) -> Finding {
    match facts.native_errno {
        None => NATIVE.is(State::Good, "taken", NOTHING_TO_DO),
        Some(errno) => NATIVE.not_here(format!("prctl(48): {}", Errno::from_raw(errno))),
    }
}

fn is_confidential(facts: &Facts) -> bool {
    facts.lockdown.as_deref().is_some_and(|modes| modes.contains("[confidentiality]"))
}

pub(super) fn verdict(facts: &Facts) -> Verdict {
    let stops = stops(facts);
    if !stops.is_empty() {
        return Verdict { grade: Grade::Cannot, detector: None, provider: None, reasons: stops };
    }
    let mut reasons = Vec::new();
    let detector = detector(facts, &mut reasons);
    let provider = provider(facts, &mut reasons);
    if let Some(shared) = outside(facts.isolated.as_ref(), &facts.cores) {
        reasons.push(format!("other tasks may run on CPU {shared}: it is not isolated"));
    }
    let grade = if reasons.is_empty() { Grade::AsAsked } else { Grade::NotAsGood };
    Verdict { grade, detector: Some(detector.name()), provider: Some(provider.name()), reasons }
}

/// What the agent would refuse to start for.
fn stops(facts: &Facts) -> Vec<String> {
    let mut stops = Vec::new();
    if !facts.btf {
        // Everything else is looked up in it.
        return vec!["this kernel has no BTF, or it is not readable".to_owned()];
    }
    for (there, what) in [
        (facts.ring_buffer, "this kernel has no BPF ring buffer"),
        (facts.task_storage, "this kernel has no BPF task storage"),
        (facts.signal_task || facts.signal_thread, "BPF cannot send a signal to a thread here"),
        (facts.bpffs, "no bpffs is mounted at /sys/fs/bpf"),
        (!is_confidential(facts), "lockdown=confidentiality forbids the guard's programs"),
    ] {
        if !there {
            stops.push(what.to_owned());
        }
    }
    let detector = if edge_refused(facts).is_none() { Detector::Edge } else { Detector::Tracepoint };
    for group in GROUPS.iter().filter(|group| group.need.is_of(detector)) {
        let absent = absent(group, facts);
        if !absent.is_empty() {
            stops.push(format!("this kernel has no tracepoint {}", absent.join(", ")));
        }
    }
    stops
}

fn edge_refused(facts: &Facts) -> Option<String> {
    if let Some(ticking) = outside(facts.nohz_full.as_ref(), &facts.cores) {
        return Some(format!("not Edge: CPU {ticking} is not in nohz_full"));
    }
    let untracked = ["user_enter", "user_exit"].iter().any(|name| facts.absent_tracepoints.contains(name));
    untracked.then(|| "not Edge: this kernel has no tracepoints of context tracking".to_owned())
}

fn detector(facts: &Facts, reasons: &mut Vec<String>) -> Detector {
    match edge_refused(facts) {
        None => Detector::Edge,
        Some(reason) => {
            reasons.push(format!("{reason}; Tracepoint costs every system call of the machine a little"));
            Detector::Tracepoint
        }
    }
}

fn provider(facts: &Facts, reasons: &mut Vec<String>) -> Provider {
    if facts.native_errno.is_none() {
        return Provider::Native;
    }
    let why = match &facts.lsm {
        Lsm::Answers | Lsm::StrictPodsRun(Some(Provider::Lsm)) => return Provider::Lsm,
        Lsm::Silent => "this kernel does not run BPF LSM programs",
        Lsm::Refused(_) => "this kernel takes no BPF LSM program",
        Lsm::StrictPodsRun(_) => "it was not tried, because strict pods run here",
    };
    reasons.push(format!("not Lsm: {why}; Seccomp needs no_new_privs and cannot tell a thread's own errno"));
    Provider::Seccomp
}

#[cfg(test)]
#[path = "detecting_tests.rs"]
mod tests;
