//! What the kubelet's CPU manager gave to whom: its checkpoint /var/lib/kubelet/cpu_manager_state.
//!
//! Written before a container is created, so it is the authority on who has CPUs of its own. All three formats
//! (kubernetes pkg/kubelet/cm/cpumanager/state/checkpoint.go): containers by id (to 1.17), by pod and name, and
//! with CPUs of whole pods beside them (gate PodLevelResourceManagers).

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use crate::cores::set::{CpuSet, ParseCpuSetError};

/// In the kubelet's root folder. Replaced by rename, so it cannot be mounted by itself.
pub const FILE: &str = "cpu_manager_state";

#[derive(Debug, thiserror::Error)]
pub enum CpuManagerError {
    #[error("read the CPU manager's state {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no state of a CPU manager: {source}")]
    Json { path: PathBuf, source: serde_json::Error },
    #[error("{path}: {of} has the CPUs {list:?}: {source}")]
    Cpus { path: PathBuf, of: String, list: String, source: ParseCpuSetError },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CpuManager {
    /// No file: this kubelet has not written one, or there is none.
    Absent,
    State(CpuManagerState),
    /// Fail closed: whoever needs to know must not take it for `Absent`.
    Unreadable(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CpuManagerState {
    pub policy: Policy,
    /// Where containers without CPUs of their own run; `None` under policy none, which confines nobody.
    pub shared: Option<CpuSet>,
    pub exclusive: Vec<Exclusive>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Policy {
    None,
    Static,
    Unknown(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exclusive {
    pub owner: Owner,
    pub cpus: CpuSet,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    Container {
        pod_uid: String,
        container: String,
    },
    /// By kubelets up to 1.17.
    ContainerId(String),
    /// Containers of the pod share them, those with entries of their own aside.
    Pod {
        pod_uid: String,
    },
}

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Owner::Container { pod_uid, container } => write!(f, "container {container} of pod {pod_uid}"),
            Owner::ContainerId(id) => write!(f, "container {id}"),
            Owner::Pod { pod_uid } => write!(f, "pod {pod_uid}"),
        }
    }
}

impl CpuManagerState {
    pub fn of(&self, pod_uid: &str, container: &str) -> Option<&CpuSet> {
        let own = Owner::Container { pod_uid: pod_uid.to_owned(), container: container.to_owned() };
        self.exclusive.iter().find(|entry| entry.owner == own).map(|entry| &entry.cpus)
    }
}

pub fn read(path: &Path) -> CpuManager {
    let text = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return CpuManager::Absent,
        text => text.map_err(|source| CpuManagerError::Read { path: path.to_owned(), source }),
    };
    match text.and_then(|text| parse(path, &text)) {
        Ok(state) => CpuManager::State(state),
        Err(error) => CpuManager::Unreadable(match std::error::Error::source(&error) {
            Some(source) if matches!(error, CpuManagerError::Read { .. }) => format!("{error}: {source}"),
            _ => error.to_string(),
        }),
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checkpoint {
    policy_name: String,
    default_cpu_set: String,
    #[serde(default)]
    entries: BTreeMap<String, Entry>,
    #[serde(default)]
    pod_entries: BTreeMap<String, PodEntry>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Entry {
    Cpus(String),
    ByContainer(BTreeMap<String, String>),
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct PodEntry {
    #[serde(default)]
    cpu_set: String,
}

/// The checksum is not looked at: the kubelet replaces the file as a whole, and does not start with a wrong one.
fn parse(path: &Path, text: &[u8]) -> Result<CpuManagerState, CpuManagerError> {
    let json = |source| CpuManagerError::Json { path: path.to_owned(), source };
    let Checkpoint { policy_name, default_cpu_set, entries, pod_entries } =
        serde_json::from_slice(text).map_err(json)?;
    let mut exclusive = Vec::new();
    let mut add = |owner: Owner, list: String| {
        if let Some(cpus) = cpus(path, owner.to_string(), list)? {
            exclusive.push(Exclusive { owner, cpus });
        }
        Ok(())
    };
    for (key, entry) in entries {
        match entry {
            Entry::Cpus(list) => add(Owner::ContainerId(key), list)?,
            Entry::ByContainer(containers) => {
                for (container, list) in containers {
                    add(Owner::Container { pod_uid: key.clone(), container }, list)?;
                }
            }
        }
    }
    for (pod_uid, PodEntry { cpu_set }) in pod_entries {
        add(Owner::Pod { pod_uid }, cpu_set)?;
    }
    Ok(CpuManagerState {
        policy: match policy_name.as_str() {
            "none" => Policy::None,
            "static" => Policy::Static,
            _ => Policy::Unknown(policy_name),
        },
        shared: cpus(path, "the shared pool".to_owned(), default_cpu_set)?,
        exclusive,
    })
}

/// `None` for an empty list, which the kubelet may write.
fn cpus(path: &Path, of: String, list: String) -> Result<Option<CpuSet>, CpuManagerError> {
    match list.parse() {
        Ok(cpus) => Ok(Some(cpus)),
        Err(ParseCpuSetError::Empty) => Ok(None),
        Err(source) => Err(CpuManagerError::Cpus { path: path.to_owned(), of, list, source }),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    pub(in crate::coexist) fn state(text: &str) -> CpuManagerState {
        parse(Path::new("/f"), text.as_bytes()).unwrap()
    }

    #[track_caller]
    fn check(text: &str, expect: Expect) {
        let text = match parse(Path::new("/f"), text.as_bytes()) {
            Err(error) => error.to_string(),
            Ok(CpuManagerState { policy, shared, exclusive }) => {
                let shared = shared.map(|cpus| cpus.to_string());
                let entries = exclusive.iter().map(|Exclusive { owner, cpus }| format!("\n{owner}: {cpus}"));
                format!("{policy:?}, shared {shared:?}{}", entries.collect::<String>())
            }
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn policy_none_confines_nobody() {
        check(
            r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#,
            expect!["None, shared None"],
        );
    }

    /// Written by a kubelet 1.36.3 on a machine of two CPUs, for a pod of a file: without a pod, with one of one
    /// CPU, and with strict-cpu-reservation.
    #[test]
    fn what_a_kubelet_wrote_is_read() {
        check(
            r#"{"policyName":"static","defaultCpuSet":"0-1","checksum":1636926438}"#,
            expect![[r#"Static, shared Some("0-1")"#]],
        );
        check(
            r#"{"policyName":"static","defaultCpuSet":"0","entries":{"3cf57b2a757b193de6e0b860c3b65804":{"app":"1"}},"checksum":1663113982}"#,
            expect![[r#"
                Static, shared Some("0")
                container app of pod 3cf57b2a757b193de6e0b860c3b65804: 1"#]],
        );
        check(
            r#"{"policyName":"static","defaultCpuSet":"1","checksum":363960937}"#,
            expect![[r#"Static, shared Some("1")"#]],
        );
    }

    #[test]
    fn exclusive_cpus_are_known_by_pod_and_name() {
        check(
            r#"{"policyName":"static","defaultCpuSet":"0,8-15","entries":{"3f0a6b9e-0d5b-4b5c-9b1e-6d3f9b3f1c55":{"app":"1-4","side":""}},"checksum":2613471926}"#,
            expect![[r#"
                Static, shared Some("0,8-15")
                container app of pod 3f0a6b9e-0d5b-4b5c-9b1e-6d3f9b3f1c55: 1-4"#]],
        );
    }

    #[test]
    fn older_and_newer_formats_are_read() {
        check(
            r#"{"policyName":"static","defaultCpuSet":"0-3","entries":{"0123abcd":"4-5"},"checksum":1}"#,
            expect![[r#"
                Static, shared Some("0-3")
                container 0123abcd: 4-5"#]],
        );
        check(
            r#"{"policyName":"static","defaultCpuSet":"0-3","entries":{"u":{"app":"4"}},"podEntries":{"u":{"cpuSet":"4-7"}},"checksum":1}"#,
            expect![[r#"
                Static, shared Some("0-3")
                container app of pod u: 4
                pod u: 4-7"#]],
        );
        check(
            r#"{"policyName":"dynamic","defaultCpuSet":"0-3","checksum":1}"#,
            expect![[r#"Unknown("dynamic"), shared Some("0-3")"#]],
        );
    }

    #[test]
    fn a_file_that_is_none_is_an_error_that_names_the_place() {
        check("", expect!["/f is no state of a CPU manager: EOF while parsing a value at line 1 column 0"]);
        check(
            r#"{"policyName":"static","defaultCpuSet":"0-3","entries":{"u":{"app":"4-2"}}}"#,
            expect![[
                r#"/f: container app of pod u has the CPUs "4-2": "4-2" is not a CPU list: expected numbers and ranges such as "1,3-5""#
            ]],
        );
    }

    #[test]
    fn a_missing_file_is_told_from_an_unreadable_one() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(&folder.path().join(FILE)), CpuManager::Absent);
        assert!(matches!(read(folder.path()), CpuManager::Unreadable(why) if why.contains("directory")));
    }

    proptest! {
        #[test]
        fn hostile_text_is_an_error_and_no_panic(text in any::<Vec<u8>>()) {
            let _ = parse(Path::new("/f"), &text);
        }
    }
}
