//! Step 2: what a policy means for one container, in the terms of steps 3 to 9.
//!
//! Built only by `accept`, so whatever holds an `Effective` holds a policy that this agent can keep.
//! Types only: no IO, no Kubernetes.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The four classes of kernel entry. The order is that of `enum qc_class` in bpf/record.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Class {
    Syscall,
    Exception,
    Interrupt,
    MachineCheck,
}

impl Class {
    pub const ALL: [Class; 4] = [Class::Syscall, Class::Exception, Class::Interrupt, Class::MachineCheck];

    pub fn index(self) -> usize {
        self as usize
    }

    /// The field name users write and metrics carry.
    pub fn name(self) -> &'static str {
        match self {
            Class::Syscall => "syscall",
            Class::Exception => "exception",
            Class::Interrupt => "interrupt",
            Class::MachineCheck => "machineCheck",
        }
    }
}

/// Ordered by strength: "Report or above" is `Action::Report <= action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Action {
    Ignore,
    Count,
    Report,
    /// Number 1 to 64, never one that the kernel ignores or stops on by default.
    Signal(u8),
    /// The process stops where it is.
    Freeze,
}

/// Below this rate an entry is only counted. Of each thread by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Budget {
    pub entries: u32,
    pub per: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArmAt {
    Prctl,
    Exec,
    /// By the agent, once the thread has been quiet for `settle_for`.
    Settled,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ArmAfter {
    OneShot,
    Continuous,
}

/// Which policy object this came from: names Events and metrics, and tells an edited policy from the one
/// a running container started with.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PolicyRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// metadata.generation: grows with each edit of the spec.
    pub generation: i64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effective {
    /// `None`: the node's default policy, for cores without an annotation.
    pub source: Option<PolicyRef>,
    /// false: Audit, where `Signal` and `Freeze` are only reported.
    pub enforce: bool,
    /// After this long since the container's first arming it is Audit.
    #[serde(default)]
    pub enforce_for: Option<Duration>,
    /// By `Class::index`. The last, machineCheck, is never `Signal`.
    pub actions: [Action; 4],
    /// By `Class::index`.
    #[serde(default)]
    pub budgets: [Option<Budget>; 4],
    /// Numbers of x86-64 system calls that are never a violation, sorted.
    pub except: Vec<u16>,
    pub arm_at: ArmAt,
    pub arm_after: ArmAfter,
    /// For `ArmAt::Settled`: how long it must be quiet. For `ArmAt::Exec`: exceptions count after this long without one, or from the first system call on.
    pub settle_for: Duration,
    /// The program may arm, but neither choose signals nor disarm.
    pub locked: bool,
    #[serde(default)]
    pub cores: CoresWanted,
}

/// What the policy asks of the cores themselves.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CoresWanted {
    /// The container's CPUs come from another allocator, not from quietcore.io/core.
    pub from_runtime: bool,
    /// Of each physical core only its first CPU enters the cpuset.
    pub one_thread: bool,
    pub nohz: Nohz,
    /// Housekeeping CPUs to add to the cpuset.
    pub shared: u32,
    /// PM QoS resume latency of the cores; 0 allows no idle state but polling.
    pub wakeup_latency_us: Option<u32>,
    /// cpufreq governor of the cores, as the kernel names it.
    pub governor: Option<String>,
}

/// Must the tick be able to stop?
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Nohz {
    Required,
    #[default]
    Preferred,
    Ignored,
}
