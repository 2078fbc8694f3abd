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
    let (tag, file) = (tag_of(&key), file_of(cache, &key));

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
        remove_old_images(cache, podman)?;
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

/// Clones at different commits take turns; each has a node image of its own.
const N_KEPT: usize = 3;

/// Keeps the images made last, and nothing of interrupted builds.
fn remove_old_images(cache: &Cache, podman: &Podman) -> Result<()> {
    let mut images = Vec::new();
    for entry in fs::read_dir(cache.path("")).context("list the cache")? {
        let entry = entry.context("list the cache")?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if let Some(key) = name.strip_prefix("node-image-").and_then(|rest| rest.strip_suffix(".tar.zst")) {
            let made = entry.metadata().and_then(|metadata| metadata.modified());
            images.push((made.with_context(|| format!("look at {name}"))?, key.to_owned()));
        }
        if name.starts_with("build-") {
            cache::remove_folder(&entry.path())?;
        }
    }
    images.sort();
    for (_, key) in images.iter().rev().skip(N_KEPT) {
        // refused while a cluster runs from it
        let _in_use = output(podman.command().args(["rmi", &tag_of(key)]))?;
        let file = file_of(cache, key);
        fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    }
    Ok(())
}

fn tag_of(key: &str) -> String {
    format!("localhost/quietcore-node:{key}")
}

fn file_of(cache: &Cache, key: &str) -> PathBuf {
    cache.path(format!("node-image-{key}.tar.zst"))
}
