//! The image of a node where upstream's cannot be pulled: Debian packages and Go modules, no registry.
//!
//! Made once and kept as one compressed file whose name is a hash of everything it is made from.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::cache::{self, Cache, NODE_FOLDER};
use crate::command::{output, run};
use crate::components;
use crate::engine::Podman;
use crate::image;
use crate::packages;
use crate::progress;

/// Makes sure that podman has the node image; its name.
pub fn ensure(cache: &Cache, podman: &Podman) -> Result<String> {
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let made_from = ["image.rs", "components.rs"].map(|name| Path::new(source).join(name));
    let key = cache::hash_of(&[&[PathBuf::from(NODE_FOLDER)], made_from.as_slice()].concat())?;
    let tag = format!("localhost/quietcore-node:{key}");
    let file = cache.path(format!("node-image-{key}.tar.zst"));

    let _one_at_a_time = cache.lock("node-image")?;
    if podman.has_image(&tag)? {
        return Ok(tag);
    }
    if !file.exists() {
        packages::ensure(packages::NODE_IMAGE)?;
        let work = cache.path(format!("build-{key}"));
        cache::remove_folder(&work)?;
        build(&work, podman, &tag)?;
        progress::step("compress the node image", || save(podman, &tag, &file))?;
        cache::remove_folder(&work)?;
        remove_other_images(cache, podman, &file, &tag)?;
    } else {
        progress::step("load the node image", || load(podman, &file))?;
    }
    Ok(tag)
}

fn build(work: &Path, podman: &Podman, tag: &str) -> Result<()> {
    let [binaries, rootfs, images] = ["bin", "rootfs", "images"].map(|name| work.join(name));
    for folder in [&binaries, &images] {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    }
    let script = |name: &str| Command::new(Path::new(NODE_FOLDER).join(name));
    progress::step("build Kubernetes and containerd", || {
        let pause = Path::new(NODE_FOLDER).join("pause.c");
        image::compile_static(&[&pause], &["-s"], &binaries.join("pause"))?;
        cache::build_binaries(&binaries, "node")
    })?;
    progress::step("make the node's root filesystem", || {
        run(script("rootfs.sh").arg(&binaries).arg(&rootfs))
    })?;
    progress::step("make the control plane's images", || {
        components::write_images(&binaries, &rootfs, &images)
    })?;
    progress::step("import the node image", || {
        run(podman.environment(&mut script("import.sh")).arg(&binaries).arg(&rootfs).arg(&images).arg(tag))
    })?;
    Ok(())
}

fn save(podman: &Podman, tag: &str, file: &Path) -> Result<()> {
    let unfinished = file.with_extension("unfinished");
    let mut save =
        podman.command().args(["save", tag]).stdout(Stdio::piped()).spawn().context("start podman save")?;
    let stream = save.stdout.take().context("podman save has no output")?;
    let out = File::create(&unfinished).with_context(|| format!("write {}", unfinished.display()))?;
    let compressed = Command::new("zstd").args(["-q", "-T0", "-3"]).stdin(stream).stdout(out).status();
    let saved = save.wait().context("wait for podman save")?;
    if !saved.success() || !compressed.context("start zstd")?.success() {
        bail!("podman save {tag} | zstd failed");
    }
    fs::rename(&unfinished, file).with_context(|| format!("rename to {}", file.display()))
}

fn load(podman: &Podman, file: &Path) -> Result<()> {
    let mut unpack = Command::new("zstd")
        .args(["-q", "-dc"])
        .arg(file)
        .stdout(Stdio::piped())
        .spawn()
        .context("start zstd")?;
    let stream = unpack.stdout.take().context("zstd has no output")?;
    let loaded = podman.command().args(["load", "-q"]).stdin(stream).stdout(Stdio::null()).status();
    let unpacked = unpack.wait().context("wait for zstd")?;
    if !unpacked.success() || !loaded.context("start podman load")?.success() {
        bail!("zstd -dc {} | podman load failed; delete the file to have it built again", file.display());
    }
    Ok(())
}

/// Keeps one node image, and nothing of interrupted builds.
fn remove_other_images(cache: &Cache, podman: &Podman, file: &Path, tag: &str) -> Result<()> {
    for entry in fs::read_dir(cache.path("")).context("list the cache")? {
        let path = entry.context("list the cache")?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with("node-image-") && path != file {
            fs::remove_file(&path).with_context(|| format!("remove {}", path.display()))?;
        }
        if name.starts_with("build-") {
            cache::remove_folder(&path)?;
        }
    }
    let list =
        ["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", "reference=localhost/quietcore-node"];
    for other in run(podman.command().args(list))?.lines().filter(|other| *other != tag) {
        // refused while a cluster of another clone runs from it
        let _in_use = output(podman.command().args(["rmi", other]))?;
    }
    Ok(())
}
