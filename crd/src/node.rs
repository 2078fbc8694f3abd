//! `DataplaneNode`: what one node offers, and the request that it lets go. Only that node's agent writes it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, MicroTime};
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[kube(
    group = "quietcore.io",
    version = "v1alpha1",
    kind = "DataplaneNode",
    plural = "dataplanenodes",
    shortname = "dpn",
    category = "quietcore",
    status = "DataplaneNodeStatus",
    doc = "What one node offers to strict pods. It has the node's name and is written by the node's agent.",
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].status"#
    ),
    printcolumn(name = "Cores", type_ = "string", json_path = ".status.isolatedCpus"),
    printcolumn(name = "Detector", type_ = "string", json_path = ".status.detector"),
    printcolumn(name = "Provider", type_ = "string", json_path = ".status.provider"),
    printcolumn(name = "Runtime", type_ = "string", json_path = ".status.runtime"),
    printcolumn(
        name = "Released",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Released")].status"#,
        priority = 1
    ),
    printcolumn(name = "Kernel", type_ = "string", json_path = ".status.kernel", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneNodeSpec {
    /// true: the agent publishes no cores and lets no strict container be created any more. Those that run go on; the
    /// condition Released names them, or says that none does. false again: the node serves as before.
    #[serde(default)]
    pub cordon: bool,
    /// true: the agent publishes no cores any more, gives the node's settings back, unpins its programs and says so in
    /// the condition Released. Refused, and the pods are named there, while strict pods run.
    #[serde(default)]
    pub release: bool,
    /// When cordon and release end by themselves, and the node serves again: who asked for them may have died before
    /// all nodes were asked. Without it they hold until they are taken back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<MicroTime>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct DataplaneNodeStatus {
    /// CPUs that strict pods may get, in the kernel's list format; empty on a node that shares its machine with
    /// another that publishes them.
    #[serde(default)]
    pub isolated_cpus: String,
    /// Release of the running kernel: 6.12.0-1-amd64.
    #[serde(default)]
    pub kernel: String,
    /// How kernel entries are seen: Edge, or Tracepoint, which slows each system call of the whole node.
    #[serde(default)]
    pub detector: String,
    /// What a system call of anybody on this node costs, measured when the guard was attached.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub system_call_tax: Option<SystemCallTax>,
    /// Who answers the prctl: Lsm or Seccomp.
    #[serde(default)]
    pub provider: String,
    /// Container runtime and its NRI version.
    #[serde(default)]
    pub runtime: String,
    /// Running strict containers, as namespace/pod/container.
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub strict_containers: Vec<String>,
    /// Each CPU that strict pods may get, and who has it.
    #[serde(default)]
    #[schemars(length(max = 8192), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["cpu"]))]
    pub cores: Vec<Core>,
    /// What was changed on the node so that the cores are left alone, and what it could not be; without what is kept
    /// for each core alike, such as interrupts.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["setting"]))]
    pub settings: Vec<Setting>,
    /// What `quietcore check` finds wanting on this node, as of the last minute in which no core was granted; what is in order is not listed.
    #[serde(default)]
    #[schemars(length(max = 64), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["item"]))]
    pub findings: Vec<Finding>,
    /// Interrupts that cannot be moved off the cores, by number and handler: 24 (nvme0q1).
    #[serde(default)]
    #[schemars(length(max = 256))]
    pub fixed_interrupts: Vec<String>,
    /// What this kernel did not give back when cores were released, and what does: usually a reboot.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub not_restored: Vec<String>,
    /// Ready: pods can get cores. Quiet: granted cores have everything this kernel can give. RebootRequired: boot
    /// settings were written that are not in force. Conflicted: somebody else sets cpusets here. Released: the answer to
    /// cordon or release, of the generation that it observed; there is none while neither is asked for.
    #[serde(default)]
    #[schemars(length(max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Of one getppid(2) of a thread that nobody watches, on a housekeeping CPU.
#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct SystemCallTax {
    /// Before the guard was attached.
    pub without_nanoseconds: i64,
    pub with_nanoseconds: i64,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Core {
    /// Number of the CPU.
    pub cpu: i64,
    #[serde(default)]
    pub state: CoreState,
    /// The container that has it, as namespace/pod/container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<String>,
    /// Can the kernel stop the tick here (boot parameter nohz_full)?
    #[serde(default)]
    pub nohz_full: bool,
    /// Why no new pod gets it, if none does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retired: Option<String>,
    /// How the scheduler is kept away from it: Boot (isolcpus), Partition (an isolated cpuset), None.
    #[serde(default)]
    pub isolation: Isolation,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    #[default]
    None,
    Boot,
    Partition,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Setting {
    /// Its name: vm.stat_interval.
    pub setting: String,
    #[serde(default)]
    pub state: SettingState,
    /// What it was before, and what it is now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub now: Option<String>,
    /// What the kernel said, where it did not take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Its name in the table of `quietcore check`.
    pub item: String,
    #[serde(default)]
    pub state: FindingState,
    #[serde(default)]
    pub found: String,
    /// What to change.
    #[serde(default)]
    pub remedy: String,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FindingState {
    /// Strict pods run less well without it.
    #[default]
    Missing,
    /// The file that tells could not be read.
    Unknown,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SettingState {
    /// As granted cores need it.
    #[default]
    Kept,
    /// The kernel, or another component, does not let it be so.
    Refused,
    /// This kernel has no such setting.
    Absent,
}

#[derive(Serialize, Deserialize, JsonSchema, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CoreState {
    #[default]
    Free,
    Granted,
    /// No pod gets it; `retired` says why.
    Retired,
}
