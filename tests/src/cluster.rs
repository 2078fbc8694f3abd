//! A kind cluster's life: up, found again, down with nothing left.
//!
//! Names keep clusters apart: containers, network, kubeconfig and lock of a cluster carry its name.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::cache::{self, Cache, Tools};
use crate::command::{output, run, run_with_input};
use crate::engine::Engine;
use crate::leftovers;
use crate::network;
use crate::progress;
use crate::wait::{Seen, try_until};

/// How long a node may take to be Ready: 15 s on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(180);

#[derive(Debug)]
pub struct Cluster {
    pub name: String,
    pub engine: Engine,
    pub tools: Tools,
    pub kubeconfig: PathBuf,
    folder: PathBuf,
}

impl Cluster {
    /// What a cluster of this name is, or would be.
    pub fn named(name: &str) -> Result<Cluster> {
        if name.is_empty() || !name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
        {
            bail!("{name:?} cannot be a cluster's name: only a-z, 0-9 and -");
        }
        let cache = Cache::open()?;
        let tools = cache.tools()?;
        let engine = Engine::choose(&cache, &tools)?;
        let folder = cache.folder(Path::new("clusters").join(name))?;
        Ok(Cluster { name: name.to_owned(), engine, tools, kubeconfig: folder.join("kubeconfig"), folder })
    }

    /// Holds the name against other processes for as long as the file lives.
    pub fn claim(&self) -> Result<File> {
        let lock = Cache::open()?.try_lock(&format!("cluster-{}", self.name))?;
        lock.with_context(|| {
            format!("cluster {} is being used by another testbed; give another --name", self.name)
        })
    }

    /// Whether it is up and answers with this number of Ready nodes.
    pub fn is_up(&self, n_nodes: usize) -> bool {
        self.kubeconfig.exists() && ready_nodes(self).is_ok_and(|ready| ready == n_nodes)
    }

    /// Starts it. What a killed run left under this name is removed first.
    pub fn up(&self, n_nodes: usize) -> Result<()> {
        let cache = Cache::open()?;
        let image = self.engine.node_image(&cache, &self.tools)?;
        self.down()?;
        fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        let _creating = leftovers::keep(&cache)?;
        progress::step(&format!("start cluster {} ({n_nodes} node{})", self.name, plural(n_nodes)), || {
            self.create(&image, n_nodes)?;
            for node in self.nodes()? {
                prepare_node(self, &node)?;
            }
            if !self.engine.brings_network() {
                network::connect(self)?;
            }
            try_until("all nodes to be Ready", READY_WITHIN, || {
                let ready = ready_nodes(self)?;
                Ok(if ready == n_nodes {
                    Seen::Done(())
                } else {
                    Seen::NotYet(format!("{ready} of {n_nodes}"))
                })
            })
        })
    }

    fn create(&self, image: &str, n_nodes: usize) -> Result<()> {
        let config = kind_config(n_nodes, self.engine.brings_network()).to_string();
        let mut kind = self.engine.kind(&self.tools, &self.name);
        kind.args(["create", "cluster", "--quiet", "--name", &self.name, "--image", image, "--config", "-"]);
        run_with_input(kind.arg("--kubeconfig").arg(&self.kubeconfig), config.as_bytes())?;
        Ok(())
    }

    /// Removes it, also where it is half there or was never complete. Errors if anything stays.
    pub fn down(&self) -> Result<()> {
        if !self.containers()?.is_empty() {
            progress::step(&format!("remove cluster {}", self.name), || self.remove_nodes())?;
        }
        let volumes = self.volumes()?;
        if !volumes.is_empty() {
            run(self.engine.command().args(["volume", "rm"]).args(volumes))?;
        }
        // refused while containers use it, and absent if none was made
        let _absent = output(self.engine.command().args(["network", "rm", &self.name]))?;
        cache::remove_folder(&self.folder)?;
        let left = [self.containers()?, self.volumes()?].concat();
        if !left.is_empty() {
            bail!("cluster {} has left containers or volumes behind: {}", self.name, left.join(" "));
        }
        if let Engine::Podman(podman) = &self.engine {
            leftovers::remove(&Cache::open()?, podman)?;
        }
        Ok(())
    }

    /// By label rather than by `kind delete`: this also finds a node that kind was killed while creating.
    fn remove_nodes(&self) -> Result<()> {
        let nodes = self.containers()?;
        // removal alone waits ten seconds for systemd to shut a node down that nobody will look at again
        let _not_running = output(self.engine.command().arg("kill").args(&nodes))?;
        run(self.engine.command().args(["rm", "--force", "--volumes"]).args(&nodes))?;
        Ok(())
    }

    /// The nodes' /var. Docker's are anonymous and go with their container; for podman kind makes them itself, with
    /// the container's name as label.
    fn volumes(&self) -> Result<Vec<String>> {
        let Engine::Podman(_) = self.engine else { return Ok(Vec::new()) };
        let listed = run(self.engine.command().args(["volume", "ls", "--format", "json"]))?;
        let listed: Value = serde_json::from_str(&listed).context("read the list of volumes")?;
        let is_ours = |volume: &&Value| {
            volume["Labels"].as_object().is_some_and(|labels| labels.keys().any(|label| self.has_node(label)))
        };
        let ours = listed.as_array().into_iter().flatten().filter(is_ours);
        Ok(ours.filter_map(|volume| volume["Name"].as_str()).map(str::to_owned).collect())
    }

    /// Whether kind would give a node of this cluster this name.
    fn has_node(&self, container: &str) -> bool {
        let role = container.strip_prefix(&self.name).and_then(|rest| rest.strip_prefix('-'));
        role.is_some_and(|role| {
            let number = role.strip_prefix("worker");
            role == "control-plane" || number.is_some_and(|n| n.chars().all(|c| c.is_ascii_digit()))
        })
    }

    fn containers(&self) -> Result<Vec<String>> {
        let label = format!("label=io.x-k8s.kind.cluster={}", self.name);
        let words = ["ps", "-a", "--format", "{{.Names}}", "--filter", &label];
        Ok(run(self.engine.command().args(words))?.lines().map(str::to_owned).collect())
    }

    /// Its nodes' names; each is also the name of the container.
    pub fn nodes(&self) -> Result<Vec<String>> {
        let mut nodes = self.containers()?;
        nodes.sort();
        Ok(nodes)
    }

    /// A program on a node, as root.
    pub fn on_node(&self, node: &str, words: &[&str]) -> Command {
        let mut command = self.engine.command();
        command.args(["exec", "-i", node]).args(words);
        command
    }

    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = self.tools.kubectl(&self.kubeconfig);
        command.args(words);
        command
    }

    /// Gives every node the image of a docker-archive.
    pub fn load_image(&self, archive: &Path) -> Result<()> {
        let mut kind = self.engine.kind(&self.tools, &self.name);
        run(kind.args(["load", "image-archive", "--name", &self.name]).arg(archive))?;
        Ok(())
    }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// What a real node's systemd mounts at boot, where its container did not. Each node gets a bpffs of its own, so
/// that what agents pin goes with the node; tracefs is the kernel's one.
fn prepare_node(cluster: &Cluster, node: &str) -> Result<()> {
    for (kind, place) in [("bpf", "/sys/fs/bpf"), ("tracefs", "/sys/kernel/tracing")] {
        let mount = format!("mountpoint -q {place} || mount -t {kind} -o mode=700 {kind} {place}");
        run(&mut cluster.on_node(node, &["sh", "-c", &mount]))?;
    }
    Ok(())
}

fn ready_nodes(cluster: &Cluster) -> Result<usize> {
    let listed = run(&mut cluster.kubectl(&["get", "nodes", "-o", "json", "--request-timeout=5s"]))?;
    let nodes: Value = serde_json::from_str(&listed).context("read the list of nodes")?;
    let is_ready = |node: &&Value| {
        let conditions = node["status"]["conditions"].as_array();
        conditions.into_iter().flatten().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    Ok(nodes["items"].as_array().into_iter().flatten().filter(is_ready).count())
}

/// kind reads YAML, which JSON is.
fn kind_config(n_nodes: usize, default_network: bool) -> Value {
    // One control plane: it also runs pods when it is alone, kind takes its taint away then.
    let roles = (0..n_nodes).map(|n| if n == 0 { "control-plane" } else { "worker" });
    json!({
        "kind": "Cluster",
        "apiVersion": "kind.x-k8s.io/v1alpha4",
        // kube-proxy's image of the own node image has nft and no iptables
        "networking": {
            "disableDefaultCNI": !default_network,
            "kubeProxyMode": "nftables",
        },
        // Lowering a score below the node's own needs CAP_SYS_RESOURCE; without it runc fails every pod with
        // "can't get final child's PID from pipe: EOF".
        "containerdConfigPatches": ["[plugins.\"io.containerd.grpc.v1.cri\"]\n  restrict_oom_score_adj = true\n"],
        // from Kubernetes 1.35 on the kubelet refuses a host with cgroup v1 unless told otherwise (KEP-5573)
        "kubeadmConfigPatches": ["kind: KubeletConfiguration\nfailCgroupV1: false\n"],
        "nodes": roles.map(|role| json!({"role": role})).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_node_is_the_only_control_plane() {
        let config = kind_config(3, false);
        let roles: Vec<_> = config["nodes"].as_array().unwrap().iter().map(|node| &node["role"]).collect();
        assert_eq!(roles, ["control-plane", "worker", "worker"]);
    }
}
