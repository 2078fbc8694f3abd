//! The cluster that a test runs against: whichever KUBECONFIG names.
//!
//! Verbs panic with what they saw: a test has nothing better to do with an error. A `Testbed` has the
//! cluster to itself; in one test binary the next test waits for it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::cache::Cache;
use crate::command::{Failed, run, run_with_input};
use crate::image::{self, Image};
use crate::kube::Namespace;
use crate::node::{Access, Node};

/// Names the testbed's cluster that KUBECONFIG leads to; unset for any other cluster.
pub const NAME_VARIABLE: &str = "QUIETCORE_TESTBED";
/// `podman` or `docker`: what runs that cluster's nodes.
pub const ENGINE_VARIABLE: &str = "QUIETCORE_ENGINE";
/// For any other cluster: an image with nsenter and sleep that its nodes can pull, for verbs that act on a node.
pub const NODE_SHELL_VARIABLE: &str = "QUIETCORE_NODE_SHELL_IMAGE";

const CONTROL_PLANE: &str = "node-role.kubernetes.io/control-plane";

/// Tests of one binary run in threads; restarting a runtime under another test helps nobody.
static ONE_TEST_AT_A_TIME: Mutex<()> = Mutex::new(());

#[derive(Debug)]
pub struct Testbed {
    kubeconfig: PathBuf,
    tools: Option<PathBuf>,
    pub(crate) access: Access,
    _alone: MutexGuard<'static, ()>,
}

impl Testbed {
    /// The cluster of KUBECONFIG. Its nodes are reached as the environment says.
    #[track_caller]
    pub fn from_env() -> Testbed {
        let access = Access::from_env().unwrap_or_else(|error| panic!("{error:#}"));
        Testbed::with_access(access)
    }

    /// As `from_env`, with nodes reached in a given way.
    #[track_caller]
    pub fn with_access(access: Access) -> Testbed {
        let kubeconfig = env::var_os("KUBECONFIG").map(PathBuf::from);
        let kubeconfig = kubeconfig.expect("KUBECONFIG is not set: `testbed run -- COMMAND` sets it");
        // a failed test says nothing about the cluster's use by the next
        let alone = ONE_TEST_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let tools = Cache::open().and_then(|cache| cache.tools_if_built()).unwrap_or_default();
        Testbed { kubeconfig, tools, access, _alone: alone }
    }

    /// A namespace of its own for a test, gone with everything in it when dropped.
    #[track_caller]
    pub fn namespace(&self, name: &str) -> Namespace<'_> {
        Namespace::create(self, name)
    }

    /// All nodes, by name.
    #[track_caller]
    pub fn nodes(&self) -> Vec<Node<'_>> {
        let listed = self.get_list("nodes", &[]);
        listed
            .iter()
            .filter_map(|node| node["metadata"]["name"].as_str())
            .map(|name| Node::new(self, name))
            .collect()
    }

    /// The only node, or the first worker where there are several.
    #[track_caller]
    pub fn node(&self) -> Node<'_> {
        let nodes = self.get_list("nodes", &[]);
        let is_control_plane = |node: &&Value| !node["metadata"]["labels"][CONTROL_PLANE].is_null();
        let node = nodes.iter().find(|node| !is_control_plane(node)).or_else(|| nodes.first());
        Node::new(
            self,
            node.and_then(|node| node["metadata"]["name"].as_str()).expect("the cluster has a node"),
        )
    }

    #[track_caller]
    pub(crate) fn control_plane(&self) -> Node<'_> {
        let nodes = self.get_list("nodes", &["-l", CONTROL_PLANE]);
        let name = nodes.first().and_then(|node| node["metadata"]["name"].as_str());
        Node::new(self, name.expect("a node carries the control plane's label"))
    }

    /// Gives every node an image made of files.
    #[track_caller]
    pub fn load_image(&self, image: &Image) {
        let loaded = self.try_load_image(image);
        loaded.unwrap_or_else(|error| panic!("load image {}: {error:#}", image.tag()));
    }

    fn try_load_image(&self, image: &Image) -> Result<()> {
        let folder = tempfile::tempdir().context("make a temporary folder")?;
        let archive = folder.path().join("image.tar");
        image.write(&archive)?;
        let bytes = std::fs::read(&archive).with_context(|| format!("read {}", archive.display()))?;
        for node in self.nodes() {
            // what `kind load image-archive` does, for nodes of any cluster
            let import =
                ["ctr", "--namespace=k8s.io", "images", "import", "--all-platforms", "--digests", "-"];
            run_with_input(&mut node.command(&import)?, &bytes)?;
        }
        Ok(())
    }

    /// Gives every node the image of a C program: `sources` are paths from the clone's root, and the program is
    /// `/STEM` of the first one's name, static.
    #[track_caller]
    pub fn load_c_program(&self, tag: &str, sources: &[&str], flags: &[&str]) {
        self.load_c_program_with(tag, sources, flags, |image, _program| image);
    }

    /// The same, with what `complete` adds to the image; it gets the program's path on this machine.
    #[track_caller]
    pub fn load_c_program_with(
        &self,
        tag: &str,
        sources: &[&str],
        flags: &[&str],
        complete: impl FnOnce(Image, &Path) -> Image,
    ) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let paths: Vec<PathBuf> = sources.iter().map(|source| root.join(source)).collect();
        let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
        // where programs find the prctl
        let include = format!("-I{}", root.join("abi/include").display());
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("make a temporary folder: {error}"));
        let stem = paths.first().and_then(|path| path.file_stem()).expect("a C program has a source");
        let program = folder.path().join(stem);
        image::compile_static(&paths, &[flags, &[include.as_str()]].concat(), &program)
            .unwrap_or_else(|error| panic!("{error:#}"));
        self.load_image(&complete(Image::of_program(tag, &program), &program));
    }

    /// `kubectl` with this cluster's KUBECONFIG.
    pub fn kubectl(&self, words: &[&str]) -> Command {
        let mut command = self.tool("kubectl");
        command.args(words);
        command
    }

    pub(crate) fn helm(&self, words: &[&str]) -> Command {
        let mut command = self.tool("helm");
        command.args(words);
        command
    }

    fn tool(&self, name: &str) -> Command {
        let mut command =
            Command::new(self.tools.as_deref().map_or(PathBuf::from(name), |tools| tools.join(name)));
        command.arg("--kubeconfig").arg(&self.kubeconfig);
        command
    }

    /// Output of a kubectl command that must succeed.
    #[track_caller]
    pub fn run_kubectl(&self, words: &[&str]) -> String {
        run(&mut self.kubectl(words)).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// Applies objects that are not namespaced, or name their namespace.
    #[track_caller]
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).unwrap_or_else(|refusal| panic!("{refusal}"));
    }

    /// As `apply`; what the API server says where it refuses.
    pub fn try_apply(&self, yaml: &str) -> Result<(), String> {
        apply(self.kubectl(&["apply", "-f", "-"]), yaml)
    }

    /// One object, as JSON.
    #[track_caller]
    pub fn get(&self, kind: &str, name: &str) -> Value {
        parse(&self.run_kubectl(&["get", kind, name, "-o", "json"]))
    }

    /// Objects, as JSON; `filter` is more words for kubectl, such as a selector.
    #[track_caller]
    pub fn get_list(&self, kind: &str, filter: &[&str]) -> Vec<Value> {
        let words = [&["get", kind, "-o", "json"], filter].concat();
        parse(&self.run_kubectl(&words))["items"].as_array().cloned().unwrap_or_default()
    }
}

#[track_caller]
pub(crate) fn parse(json: &str) -> Value {
    serde_json::from_str(json).unwrap_or_else(|error| panic!("not JSON: {error}\n{json}"))
}

/// Feeds objects to kubectl; what it said on refusal.
pub(crate) fn apply(mut kubectl: Command, yaml: &str) -> Result<(), String> {
    match run_with_input(&mut kubectl, without_indent(yaml).as_bytes()) {
        Ok(_) => Ok(()),
        Err(error) => Err(match error.downcast::<Failed>() {
            Ok(failed) => failed.stderr.trim().to_owned(),
            Err(error) => panic!("{error:#}"),
        }),
    }
}

/// Objects written inside a test are indented as it is; `---` between two counts only at the start of a line.
fn without_indent(yaml: &str) -> String {
    let lines = || yaml.lines().filter(|line| !line.trim().is_empty());
    let indent = lines().map(|line| line.len() - line.trim_start_matches(' ').len()).min().unwrap_or(0);
    lines().map(|line| format!("{}\n", &line[indent..])).collect()
}

/// A file of the clone, by its path from the clone's root.
#[track_caller]
pub fn clone_file(path: &str) -> String {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("read {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::without_indent;

    #[test]
    fn two_objects_of_an_indented_string_stay_two() {
        assert_eq!(
            without_indent("\n    kind: A\n    ---\n    kind: B\n      deep: 1\n  "),
            "kind: A\n---\nkind: B\n  deep: 1\n"
        );
    }
}
