//! Keeps what explains a failure: every node's journal and pod logs, and the API's view.
//!
//! Best effort on purpose: half a broken cluster still has the other half's logs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};

use crate::cluster::Cluster;
use crate::command::watch;

/// Logs of a cluster, in a new folder whose path is returned.
pub fn keep(cluster: &Cluster) -> Result<PathBuf> {
    let folder = new_folder(&cluster.name)?;
    save(&folder.join("events.txt"), cluster.kubectl(&["get", "events", "-A", "--sort-by=.lastTimestamp"]));
    save(&folder.join("pods.txt"), cluster.kubectl(&["get", "pods", "-A", "-o", "wide"]));
    save(&folder.join("describe-pods.txt"), cluster.kubectl(&["describe", "pods", "-A"]));
    save(&folder.join("describe-nodes.txt"), cluster.kubectl(&["describe", "nodes"]));
    save(
        &folder.join("quietcore.yaml"),
        cluster.kubectl(&["get", "dataplanepolicies,dataplanenodes", "-A", "-o", "yaml"]),
    );
    for node in cluster.nodes().unwrap_or_default() {
        let on_node = |words: &[&str]| cluster.on_node(&node, words);
        save(
            &folder.join(format!("{node}.journal.log")),
            on_node(&["journalctl", "--no-pager", "-o", "short-precise"]),
        );
        for unit in ["containerd", "kubelet"] {
            let words = ["journalctl", "--no-pager", "-o", "short-precise", "-u", unit];
            save(&folder.join(format!("{node}.{unit}.log")), on_node(&words));
        }
        save(&folder.join(format!("{node}.containers.txt")), on_node(&["crictl", "ps", "-a"]));
        save(&folder.join(format!("{node}.mounts.txt")), on_node(&["cat", "/proc/self/mountinfo"]));
        // every container's output, the agent's too, also of containers that are gone from the API
        save(
            &folder.join(format!("{node}.pod-logs.tar")),
            on_node(&["tar", "-C", "/var/log", "-cf", "-", "pods"]),
        );
    }
    Ok(folder)
}

/// `testbed-logs/NAME-SECONDS` in cargo's target folder.
pub fn new_folder(name: &str) -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(workspace.join("target"), PathBuf::from);
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let folder = target.join("testbed-logs").join(format!("{name}-{seconds}"));
    fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
    folder.canonicalize().with_context(|| format!("find {}", folder.display()))
}

pub(crate) fn save(file: &Path, mut command: Command) {
    if let Ok(out) = File::create(file)
        && let Ok(errors) = out.try_clone()
    {
        // what could not be had says so in its own file
        let _said_there = watch(command.stdout(out).stderr(errors).stdin(Stdio::null()));
    }
}
