//! What runs a node's container: Docker where it works and has upstream's node image, else podman.
//!
//! podman gets configuration and storage of its own, so that it neither sees nor changes what else a
//! machine has of it.

use std::env;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Tools};
use crate::command::{output, run};
use crate::node_image;
use crate::packages;
use crate::progress;
use crate::testbed::ENGINE_VARIABLE;

#[derive(Debug, Clone)]
pub enum Engine {
    Docker,
    Podman(Podman),
}

#[derive(Debug, Clone)]
pub struct Podman {
    containers_conf: PathBuf,
    storage_conf: PathBuf,
}

/// * no default ulimits: podman raises them, which needs CAP_SYS_RESOURCE
/// * runc: crun refuses the hybrid cgroup hierarchy
/// * cgroupfs: the host may not run systemd
/// * netavark: CNI networks have no DNS without a plugin that Debian does not ship, and workers look for
///   the control plane by name
const CONTAINERS_CONF: &str = r#"[containers]
default_ulimits = []
[network]
network_backend = "netavark"
network_config_dir = "@STORE@/networks"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
static_dir = "@STORE@/static"
tmp_dir = "@RUN@/tmp"
volume_path = "@STORE@/volumes"
"#;

/// skip_mount_home: else podman leaves a bind mount of its storage on itself behind
const STORAGE_CONF: &str = r#"[storage]
driver = "overlay"
graphroot = "@STORE@/storage"
runroot = "@RUN@/storage"
[storage.options.overlay]
skip_mount_home = "true"
"#;

impl Engine {
    /// What the environment names, else looks at the machine: is there a Docker that has, or can pull, the node image?
    pub fn choose(cache: &Cache, tools: &Tools) -> Result<Engine> {
        if let Ok(name) = env::var(ENGINE_VARIABLE) {
            return Engine::named(&name, cache);
        }
        let works = |command: &mut Command| output(command).is_ok_and(|output| output.status.success());
        if works(Command::new("docker").arg("info")) {
            let image = tools.upstream_node_image()?;
            let has_image = works(Command::new("docker").args(["image", "inspect", &image]))
                || progress::step(&format!("pull {image}"), || {
                    Ok(works(Command::new("docker").args(["pull", "-q", &image])))
                })?;
            if has_image {
                return Ok(Engine::Docker);
            }
            progress::say("docker works but cannot pull the node image: using podman");
        }
        Engine::named("podman", cache)
    }

    /// The engine of a running testbed, by the name that `name` gave.
    pub fn named(name: &str, cache: &Cache) -> Result<Engine> {
        match name {
            "docker" => Ok(Engine::Docker),
            "podman" => {
                packages::ensure(packages::PODMAN)?;
                Ok(Engine::Podman(Podman::configure(cache)?))
            }
            other => bail!("unknown container engine {other}: docker or podman"),
        }
    }

    pub fn name(&self) -> &'static str {
        match self {
            Engine::Docker => "docker",
            Engine::Podman(_) => "podman",
        }
    }

    /// Makes sure that the node image is there; its name.
    pub fn node_image(&self, cache: &Cache, tools: &Tools) -> Result<String> {
        match self {
            Engine::Docker => tools.upstream_node_image(),
            Engine::Podman(podman) => node_image::ensure(cache, podman),
        }
    }

    /// Whether nodes come with upstream's network plugin, or `network` has to make them one.
    pub fn brings_network(&self) -> bool {
        matches!(self, Engine::Docker)
    }

    /// `docker` or `podman`: the same command line.
    pub fn command(&self) -> Command {
        match self {
            Engine::Docker => Command::new("docker"),
            Engine::Podman(podman) => podman.command(),
        }
    }

    /// kind, told to use this engine and a network that belongs to this cluster alone.
    pub fn kind(&self, tools: &Tools, cluster: &str) -> Command {
        let mut kind = tools.kind();
        kind.env("KIND_EXPERIMENTAL_PROVIDER", self.name())
            .env("KIND_EXPERIMENTAL_DOCKER_NETWORK", cluster)
            .env("KIND_EXPERIMENTAL_PODMAN_NETWORK", cluster);
        if let Engine::Podman(podman) = self {
            podman.environment(&mut kind);
        }
        kind
    }
}

impl Podman {
    fn configure(cache: &Cache) -> Result<Podman> {
        let store = cache.folder("podman")?;
        let run = cache.runtime_folder()?;
        let write = |name: &str, template: &str| {
            let text = template
                .replace("@STORE@", &store.to_string_lossy())
                .replace("@RUN@", &run.to_string_lossy());
            let file = store.join(name);
            // not truncated under a podman that another process is just starting
            if fs::read_to_string(&file).ok().as_deref() != Some(&text) {
                fs::write(&file, text).with_context(|| format!("write {}", file.display()))?;
            }
            anyhow::Ok(file)
        };
        // kind mounts it into every node, whether the kernel has modules or not
        fs::create_dir_all("/lib/modules").context("make /lib/modules")?;
        Ok(Podman {
            containers_conf: write("containers.conf", CONTAINERS_CONF)?,
            storage_conf: write("storage.conf", STORAGE_CONF)?,
        })
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("podman");
        self.environment(&mut command);
        command
    }

    pub(crate) fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("CONTAINERS_CONF", &self.containers_conf)
            .env("CONTAINERS_STORAGE_CONF", &self.storage_conf)
    }

    pub(crate) fn has_image(&self, tag: &str) -> Result<bool> {
        Ok(!run(self.command().args(["images", "-q", tag]))?.trim().is_empty())
    }
}
