//! What makes the lab a node: kubelet and containerd as the testbed's clusters have them, runc, the agent, two images,
//! and what starts all of it there: the tests of `tests/lab_node`, or the bench of `benches/lab_quiet`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cache::{self, Cache, NODE_FOLDER};
use crate::command::run;
use crate::image::{self, Image};
use crate::lab::root::Root;
use crate::progress;

const AT: &str = "/lab/starter";
const PROGRAMS: [&str; 4] = ["containerd", "containerd-shim-runc-v2", "ctr", "kubelet"];
const CONFIGURATIONS: [(&str, &str); 6] = [
    ("etc/containerd/config.toml", include_str!("../../lab/containerd.toml")),
    ("etc/kubelet.yaml", include_str!("../../lab/kubelet.yaml")),
    ("etc/resolv.conf", ""),
    ("etc/hosts", "127.0.0.1 localhost\n"),
    ("etc/hostname", "lab\n"),
    ("etc/machine-id", "0123456789abcdef0123456789abcdef\n"),
];

#[derive(Debug)]
pub struct Node {
    programs: PathBuf,
    agent: PathBuf,
    starter: PathBuf,
    /// Of whoever starts it, before a person's.
    arguments: &'static [&'static str],
}

impl Node {
    pub fn build_tests(cache: &Cache) -> Result<Node> {
        Node::build(cache, &["test", "--no-run"], ["--test", "lab_node"], &["--test-threads=1"])
    }

    pub fn build_bench(cache: &Cache) -> Result<Node> {
        Node::build(cache, &["build"], ["--bench", "lab_quiet"], &[])
    }

    fn build(
        cache: &Cache,
        how: &[&str],
        target: [&str; 2],
        arguments: &'static [&'static str],
    ) -> Result<Node> {
        let starter = [how, &["-p", "quietcore-tests", "--features", "lab"], &target].concat();
        Ok(Node {
            programs: programs(cache)?,
            agent: built(&["build", "-p", "quietcore", "--bin", "quietcore"], "quietcore")?,
            starter: built(&starter, target[1])?,
            arguments,
        })
    }

    /// `work`: a folder for what is made on the way.
    pub fn put(&self, root: &Root, work: &Path) -> Result<()> {
        for program in PROGRAMS {
            root.program(&self.programs.join(program), &format!("/usr/bin/{program}"))?;
        }
        root.program(Path::new("/usr/sbin/runc"), "/usr/sbin/runc")?;
        root.program(&self.agent, "/usr/bin/quietcore")?;
        root.program(&self.starter, AT)?;
        for (path, content) in CONFIGURATIONS {
            root.text(path, content, 0o644)?;
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR"));
        let include = format!("-I{}", sources.join("../abi/include").display());
        for (name, source) in [("pause", "node/pause.c"), ("workload", "workloads/workload.c")] {
            let program = work.join(name);
            image::compile_static(&[&sources.join(source)], &[&include], &program)?;
            let archive = work.join(format!("{name}.tar"));
            Image::of_program(&format!("localhost/{name}:lab"), &program).write(&archive)?;
            root.program(&archive, &format!("/lab/images/{name}.tar"))?;
        }
        Ok(())
    }

    /// With what a person adds: a test's name, `--nocapture`.
    pub fn command(&self, arguments: &[String]) -> Vec<String> {
        let own = [&[AT], self.arguments].concat().into_iter().map(str::to_owned);
        own.chain(arguments.iter().cloned()).collect()
    }
}

/// Named by what they are built from; a cached one needs no network.
fn programs(cache: &Cache) -> Result<PathBuf> {
    let sources = ["binaries.sh", "mod/k8s", "mod/containerd"].map(|name| Path::new(NODE_FOLDER).join(name));
    let folder = cache.path(format!("lab-node-{}", cache::hash_of(&sources)?));
    let _one_at_a_time = cache.lock("lab-node")?;
    if !folder.exists() {
        let partial = cache.path("lab-node-unfinished");
        cache::remove_folder(&partial)?;
        fs::create_dir_all(&partial).with_context(|| format!("make {}", partial.display()))?;
        progress::step("build kubelet and containerd", || cache::build_binaries(&partial, "lab"))?;
        fs::rename(&partial, &folder).with_context(|| format!("make {}", folder.display()))?;
    }
    Ok(folder)
}

/// The executable that cargo builds for `target`.
pub(super) fn built(words: &[&str], target: &str) -> Result<PathBuf> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut build = Command::new(cargo);
    build.args(words).args(["--quiet", "--message-format=json-render-diagnostics"]);
    let messages = run(&mut build)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let ours = messages.filter(|message| message["target"]["name"] == target);
    let executable = ours.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    executable.with_context(|| format!("cargo built no {target}"))
}
