//! From facts to findings and the verdict. Pure.

use nix::errno::Errno;
use serde::Serialize;

use crate::{
    arm::plan::Provider,
    cores::set::CpuSet,
    guard::{
        detector::Detector,
        tracepoints::{GROUPS, Group, Need},
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
    pub(super) cgroup2: bool,
    pub(super) lockdown: Option<String>,
}

/// Whether a BPF LSM program answers the prctl, by trying it.
#[derive(Debug, Clone)]
pub(super) enum Lsm {
    Answers,
    /// The kernel takes such programs, and runs none.
    Silent,
    Refused(String),
    /// Attaching enters every core.
    StrictPodsRun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum State {
    Good,
    Missing,
    NotHere,
    Unknown,
}

impl State {
    pub(super) fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Missing => "missing",
            State::NotHere => "not here",
            State::Unknown => "unknown",
        }
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Finding {
    pub(super) item: &'static str,
    pub(super) state: State,
    pub(super) found: String,
    pub(super) why: &'static str,
    pub(super) remedy: String,
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

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) cores: String,
    pub(super) findings: Vec<Finding>,
    pub(super) verdict: Verdict,
}

const LSM_REMEDY: &str =
    "as root, on a kernel with CONFIG_BPF_LSM=y, CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS=y and lsm=...,bpf";

pub(super) fn judge(facts: &Facts) -> Report {
    let mut findings = vec![
        of(
            "BTF",
            facts.btf,
            "/sys/kernel/btf/vmlinux",
            "BPF programs find the kernel's types by it",
            "use a kernel with CONFIG_DEBUG_INFO_BTF=y",
        ),
        of(
            "ring buffer",
            facts.ring_buffer,
            "bpf_ringbuf_reserve",
            "records come by it",
            "use Linux 5.8 or later with CONFIG_BPF_SYSCALL=y",
        ),
        of(
            "task storage",
            facts.task_storage,
            "bpf_task_storage_get",
            "what is watched is known by it",
            "use Linux 5.11 or later with CONFIG_BPF_SYSCALL=y",
        ),
    ];
    findings.extend(GROUPS.iter().map(|group| of_group(group, facts)));
    findings.extend([
        of_list(
            "nohz_full",
            facts.nohz_full.as_ref(),
            facts,
            "elsewhere the timer tick enters the core, and Edge sees nothing",
            "nohz_full",
        ),
        of_list(
            "isolated CPUs",
            facts.isolated.as_ref(),
            facts,
            "elsewhere the scheduler puts other tasks on the core",
            "isolcpus=managed_irq,domain",
        ),
        lsm(facts),
        signal(facts),
        native(facts),
        of(
            "bpffs",
            facts.bpffs,
            "/sys/fs/bpf",
            "the guard outlives a restart of the agent by its pins",
            "mount -t bpf bpf /sys/fs/bpf",
        ),
        cgroup(facts),
        lockdown(facts),
    ]);
    Report { cores: facts.cores.to_string(), findings, verdict: verdict(facts) }
}

fn of(item: &'static str, good: bool, what: &str, why: &'static str, remedy: &str) -> Finding {
    let (state, found) = match good {
        true => (State::Good, what.to_owned()),
        false => (State::Missing, format!("no {what}")),
    };
    Finding { item, state, found, why, remedy: remedy.to_owned() }
}

fn absent<'facts>(group: &Group, facts: &'facts Facts) -> Vec<&'facts str> {
    let of_group = |name: &&&str| group.tracepoints.contains(*name);
    facts.absent_tracepoints.iter().filter(of_group).copied().collect()
}

fn of_group(group: &Group, facts: &Facts) -> Finding {
    let absent = absent(group, facts);
    let mut finding =
        of(group.item, absent.is_empty(), &group.tracepoints.join(", "), group.why, group.remedy);
    if !absent.is_empty() {
        finding.found = format!("no {}", absent.join(", "));
        if group.need == Need::Optional {
            finding.state = State::NotHere;
        }
    }
    finding
}

fn of_list(
    item: &'static str,
    list: Option<&CpuSet>,
    facts: &Facts,
    why: &'static str,
    parameter: &str,
) -> Finding {
    let outside = outside(list, &facts.cores);
    let (state, found) = match (list, &outside) {
        (Some(list), None) => (State::Good, list.to_string()),
        (Some(list), Some(outside)) => (State::Missing, format!("{list}, without CPU {outside}")),
        (None, _) => (State::Missing, "none".to_owned()),
    };
    let separator = if parameter.contains('=') { "," } else { "=" };
    Finding { item, state, found, why, remedy: format!("boot with {parameter}{separator}{}", facts.cores) }
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
        Lsm::StrictPodsRun => {
            (State::Unknown, "not tried: attaching enters the cores of the strict pods here", "stop them")
        }
    };
    let why = "a program that arms gets the exact errno by it, without no_new_privs";
    Finding { item: "BPF LSM", state, found: found.to_owned(), why, remedy: remedy.to_owned() }
}

fn signal(facts: &Facts) -> Finding {
    let (good, what) = match (facts.signal_task, facts.signal_thread) {
        (true, _) => (true, "bpf_send_signal_task"),
        (false, true) => (true, "bpf_send_signal_thread, without class and cause in siginfo"),
        (false, false) => (false, "bpf_send_signal_task, bpf_send_signal_thread"),
    };
    of("signal to a thread", good, what, "a violation's signal is sent by it", "use Linux 5.6 or later")
}

fn native(facts: &Facts) -> Finding {
    let (state, found) = match facts.native_errno {
        None => (State::Good, "taken".to_owned()),
        Some(errno) => (State::NotHere, format!("prctl(48): {}", Errno::from_raw(errno))),
    };
    let why = "a kernel with task isolation of its own answers the prctl itself";
    Finding { item: "native prctl", state, found, why, remedy: "nothing needs to change".to_owned() }
}

fn cgroup(facts: &Facts) -> Finding {
    let (state, found) = match facts.cgroup2 {
        true => (State::Good, "v2"),
        false => (State::NotHere, "v1"),
    };
    let why = "cpuset partitions isolate cores without a reboot under v2";
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1".to_owned();
    Finding { item: "cgroup version", state, found: found.to_owned(), why, remedy }
}

/// The word in brackets is in force (kernel_lockdown(7)).
fn lockdown(facts: &Facts) -> Finding {
    let (state, found) = match facts.lockdown.as_deref() {
        None => (State::NotHere, "not in force, or not readable".to_owned()),
        Some(modes) if modes.contains("[confidentiality]") => (State::Missing, modes.to_owned()),
        Some(modes) => (State::Good, modes.to_owned()),
    };
    let why = "confidentiality forbids BPF to read kernel memory";
    Finding { item: "lockdown", state, found, why, remedy: "boot with lockdown=integrity".to_owned() }
}

fn verdict(facts: &Facts) -> Verdict {
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
        (lockdown(facts).state != State::Missing, "lockdown=confidentiality forbids the guard's programs"),
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
        Lsm::Answers => return Provider::Lsm,
        Lsm::Silent => "this kernel does not run BPF LSM programs",
        Lsm::Refused(_) => "this kernel takes no BPF LSM program",
        Lsm::StrictPodsRun => "it was not tried, because strict pods run here",
    };
    reasons.push(format!("not Lsm: {why}; Seccomp needs no_new_privs and cannot tell a thread's own errno"));
    Provider::Seccomp
}

#[cfg(test)]
#[path = "findings_tests.rs"]
mod tests;
