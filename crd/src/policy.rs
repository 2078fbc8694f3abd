//! `DataplanePolicy`: which kernel entries a pod's cores may see, and what happens on the others.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entries::Entries;

/// Hours, minutes, seconds and milliseconds, as Go and Kubernetes write them: 1h30m. Without the pattern the API
/// server would refuse a bad one by the words of its CEL interpreter.
pub(crate) const DURATION: &str = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))+$";

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quietcore.io",
    version = "v1alpha1",
    kind = "DataplanePolicy",
    plural = "dataplanepolicies",
    shortname = "dpp",
    category = "quietcore",
    namespaced,
    status = "DataplanePolicyStatus",
    derive = "PartialEq",
    doc = "Which kernel entries the cores of a pod may see, and what happens on the others. A pod names it in the annotation policy.quietcore.io/pod and requests quietcore.io/core.",
    printcolumn(name = "Mode", type_ = "string", json_path = ".spec.mode"),
    printcolumn(name = "Arm", type_ = "string", json_path = ".spec.arm.at"),
    printcolumn(name = "Pods", type_ = "integer", json_path = ".status.pods"),
    printcolumn(name = "Violations", type_ = "integer", json_path = ".status.violations"),
    printcolumn(
        name = "Accepted",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Accepted")].status"#
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = Rule::new("size(self.metadata.name) <= 63")
        .message("a policy's name has at most 63 characters: pods name it in an annotation")
)]
#[cfg_attr(test, kube(cel))]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.enforceFor) || self.mode == 'Enforce'")
        .message("enforceFor is only for mode Enforce: in Audit nothing is enforced").field_path(".enforceFor")
)]
pub struct DataplanePolicySpec {
    /// Audit reports what Enforce would have signalled, and signals nothing.
    #[serde(default)]
    pub mode: Mode,
    /// After this time, counted from the container's first arming, Enforce becomes Audit by itself: 24h, 30m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("enforceFor must be longer than 0s"))]
    pub enforce_for: Option<String>,
    /// What happens on an entry of each class: syscall, exception, interrupt, machineCheck. Default: Report.
    #[serde(default)]
    pub entries: Entries,
    /// When strictness begins, and how long it lasts.
    #[serde(default)]
    pub arm: Arm,
    /// What the cores must be like.
    #[serde(default)]
    pub cores: Cores,
    /// true: the program may arm itself, but neither choose signals nor disarm.
    #[serde(default)]
    pub locked: bool,
    /// What happens to a container that should be strict and, after the agent was away, is found not to be.
    #[serde(default)]
    pub on_unprotected: OnUnprotected,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Audit,
    Enforce,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnprotected {
    #[default]
    Report,
    Kill,
}

#[derive(Serialize, Deserialize, KubeSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[x_kube(
    validation = Rule::new("!has(self.settleFor) || self.at == 'Settled'")
        .message("settleFor is only for arm.at Settled").field_path(".settleFor")
)]
pub struct Arm {
    /// Prctl: when the thread asks for it. Exec: at the program's first instruction. Settled: when the thread
    /// has run for settleFor without an entry.
    #[serde(default)]
    pub at: ArmAt,
    /// How long a thread must be without an entry before it is armed: 500ms, 2s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32), regex(pattern = DURATION))]
    #[x_kube(validation = Rule::new("duration(self) > duration('0s')").message("settleFor must be longer than 0s"))]
    pub settle_for: Option<String>,
    /// OneShot: the first violation with action Signal or Freeze disarms the thread. Continuous: it stays armed.
    #[serde(default)]
    pub after: ArmAfter,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArmAt {
    #[default]
    Prctl,
    Exec,
    Settled,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ArmAfter {
    #[default]
    OneShot,
    Continuous,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cores {
    /// Who chooses them. Devices: the pod requests quietcore.io/core. Runtime: somebody else gives the container its
    /// CPUs (the kubelet's static CPU manager, a DRA driver), and quietcore makes those quiet and guards them.
    #[serde(default)]
    pub from: CoresFrom,
    /// Which CPUs of a granted physical core enter the cpuset: Whole, all of its hyperthreads; OneThread, one, and
    /// nobody gets the others.
    #[serde(default)]
    pub smt: Smt,
    /// Must the kernel be able to stop the tick on the cores (boot parameter nohz_full)? Required: pods are not
    /// created on cores where it cannot. Preferred: they are, and the container's condition says so. Ignored.
    #[serde(default)]
    pub nohz: Nohz,
    /// Number of housekeeping CPUs to add to the container's cpuset, for its threads that need not be strict.
    #[serde(default)]
    #[schemars(range(min = 0, max = 64))]
    pub shared_cpus: i64,
    /// The longest that waking from an idle state may take (PM QoS resume latency), in microseconds; 0 allows no idle
    /// state but polling. Absent: as the node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub wakeup_latency_microseconds: Option<i64>,
    /// The cpufreq governor of the cores while they are granted. Absent: as the node has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub governor: Option<Governor>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoresFrom {
    #[default]
    Devices,
    Runtime,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Smt {
    #[default]
    Whole,
    OneThread,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Nohz {
    Required,
    #[default]
    Preferred,
    Ignored,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Governor {
    Performance,
    Powersave,
    Schedutil,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataplanePolicyStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Running pods under this policy.
    #[serde(default)]
    pub pods: i64,
    /// Violations of running pods.
    #[serde(default)]
    pub violations: i64,
    /// Accepted: agents can keep this policy. Enforced: at least one pod runs under it in mode Enforce.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}
