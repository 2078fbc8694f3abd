//! What happens on a kernel entry, by class.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Signals whose default action ends the process: one that is ignored, or stops, by default would be a violation
/// that nobody notices (signal(7)).
const KNOWN_SIGNAL: &str = "!has(self.signal) || string(self.signal).matches('^(SIGHUP|SIGINT|SIGQUIT|SIGILL|SIGTRAP|SIGABRT|SIGBUS|SIGFPE|SIGKILL|SIGUSR1|SIGSEGV|SIGUSR2|SIGPIPE|SIGALRM|SIGTERM|SIGSTKFLT|SIGXCPU|SIGXFSZ|SIGVTALRM|SIGPROF|SIGIO|SIGPWR|SIGSYS|3[5-9]|[45][0-9]|6[0-4])$')";
const SIGNAL_WORDS: &str = "signal is a name such as SIGUSR1 or SIGKILL, or a real-time number from 35 to 64; \
    signals that stop the process or are ignored by default (SIGSTOP, SIGCHLD, ...) are not allowed";

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.machineCheck) || self.machineCheck.action in ['Ignore', 'Count', 'Report']")
        .message("machineCheck is the hardware's doing: it is counted or reported, never signalled").field_path(".machineCheck.action")
)]
pub struct Entries {
    /// System calls, also those that a seccomp filter denies, also by the 32-bit entry.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub syscall: Option<SyscallEntry>,
    /// Page faults, alignment and other faults of the thread's own instructions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exception: Option<Entry>,
    /// Timer ticks, device interrupts, inter-processor interrupts, being scheduled out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interrupt: Option<Entry>,
    /// Non-maskable interrupts and machine checks: never a signal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_check: Option<Entry>,
}

/// The class syscall, which alone has exceptions.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.signal) == (self.action == 'Signal')")
        .message("signal is required exactly when action is Signal").field_path(".signal"),
    validation = Rule::new(KNOWN_SIGNAL).message(SIGNAL_WORDS).field_path(".signal")
)]
pub struct SyscallEntry {
    /// What happens on such an entry of an armed thread.
    pub action: Action,
    /// A name such as SIGUSR1, or a real-time number from 35 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16))]
    pub signal: Option<IntOrString>,
    /// System calls that are never a violation, by their x86-64 names: [clock_gettime, getpid].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(min = 1, max = 32), regex(pattern = r"^[a-z0-9_]+$")))]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub except: Vec<String>,
    /// Below this rate an entry is only counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// One class of kernel entry.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.signal) == (self.action == 'Signal')")
        .message("signal is required exactly when action is Signal").field_path(".signal"),
    validation = Rule::new(KNOWN_SIGNAL).message(SIGNAL_WORDS).field_path(".signal")
)]
pub struct Entry {
    /// What happens on such an entry of an armed thread.
    pub action: Action,
    /// A name such as SIGUSR1, or a real-time number from 35 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16))]
    pub signal: Option<IntOrString>,
    /// Below this rate an entry is only counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// Ignore: not even a violation. Count: metrics only. Report: and an Event. Signal: and the signal, before the
/// thread's next instruction. Freeze: the process stops where it stands.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Action {
    Ignore,
    Count,
    #[default]
    Report,
    Signal,
    Freeze,
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Budget {
    /// Number of entries that are only counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub entries: i64,
    /// In this time: 1m, 1h.
    #[schemars(length(max = 32), regex(pattern = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$"))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("budget.per must be longer than 0s"))]
    pub per: String,
}
