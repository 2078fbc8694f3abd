//! What happens on a kernel entry, by class.
//!
//! A field that these types do not know is an error, here and in policy.rs: an agent older than the schema must
//! refuse what it cannot keep, and a policy from a file has no API server that would name the typo.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::DURATION;

/// Signals whose default action ends the process: one that is ignored, or stops, by default would be a violation
/// that nobody notices (signal(7)).
const KNOWN_SIGNAL: &str = "!has(self.signal) || string(self.signal).matches('^(SIGHUP|SIGINT|SIGQUIT|SIGILL|SIGTRAP|SIGABRT|SIGBUS|SIGFPE|SIGKILL|SIGUSR1|SIGSEGV|SIGUSR2|SIGPIPE|SIGALRM|SIGTERM|SIGSTKFLT|SIGXCPU|SIGXFSZ|SIGVTALRM|SIGPROF|SIGIO|SIGPWR|SIGSYS|3[5-9]|[45][0-9]|6[0-4])$')";
const SIGNAL_WORDS: &str = "signal is a name such as SIGUSR1 or SIGKILL, or a real-time number from 35 to 64; \
    signals that stop the process or are ignored by default (SIGSTOP, SIGCHLD, ...) are not allowed";

const BUDGETED: &str = "!has(self.budget) || !(self.action in ['Ignore', 'Count'])";
const BUDGET_WORDS: &str =
    "a budget turns an entry below its rate into Count: it needs action Report, Signal or Freeze";

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("self.machineCheck.action in ['Ignore', 'Count', 'Report']")
        .message("machineCheck is the hardware's doing: it is counted or reported, never signalled").field_path(".machineCheck.action")
)]
pub struct Entries {
    /// System calls, also those that a seccomp filter denies, also by the 32-bit entry.
    #[serde(default)]
    pub syscall: SyscallEntry,
    /// Page faults, alignment and other faults of the thread's own instructions.
    #[serde(default)]
    pub exception: Entry,
    /// Timer ticks, device interrupts, inter-processor interrupts, being scheduled out.
    #[serde(default)]
    pub interrupt: Entry,
    /// Non-maskable interrupts and machine checks: never a signal.
    #[serde(default)]
    pub machine_check: Entry,
}

/// The class syscall, which alone has exceptions.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.signal) == (self.action == 'Signal')")
        .message("signal is required exactly when action is Signal").field_path(".signal"),
    validation = Rule::new(KNOWN_SIGNAL).message(SIGNAL_WORDS).field_path(".signal"),
    validation = Rule::new(BUDGETED).message(BUDGET_WORDS).field_path(".budget")
)]
pub struct SyscallEntry {
    /// What happens on such an entry of an armed thread.
    #[serde(default)]
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
    /// Below this rate an entry is only counted: {entries: 10, per: 1m}.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
}

/// One class of kernel entry.
#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("has(self.signal) == (self.action == 'Signal')")
        .message("signal is required exactly when action is Signal").field_path(".signal"),
    validation = Rule::new(KNOWN_SIGNAL).message(SIGNAL_WORDS).field_path(".signal"),
    validation = Rule::new(BUDGETED).message(BUDGET_WORDS).field_path(".budget")
)]
pub struct Entry {
    /// What happens on such an entry of an armed thread.
    #[serde(default)]
    pub action: Action,
    /// A name such as SIGUSR1, or a real-time number from 35 to 64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(extend("maxLength" = 16))]
    pub signal: Option<IntOrString>,
    /// Below this rate an entry is only counted: {entries: 10, per: 1m}.
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
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Budget {
    /// Number of entries that are only counted.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub entries: i64,
    /// In this time: 1m, 1h.
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("budget.per must be longer than 0s"))]
    pub per: String,
}
