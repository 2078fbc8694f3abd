//! What podman leaves on the machine after its last container: empty cgroups and a mount for namespaces.
//!
//! Removed only where nothing is in them, and not while another testbed is making a container.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MntFlags, umount2};

use crate::cache::Cache;
use crate::command::run;
use crate::engine::Podman;

const LOCK: &str = "containers";
/// podman bind-mounts it on itself for the network namespaces that it names.
const NAMESPACES: &str = "/run/netns";

/// Held while containers are being made.
pub(crate) fn keep(cache: &Cache) -> Result<File> {
    cache.lock_shared(LOCK)
}

pub(crate) fn remove(cache: &Cache, podman: &Podman) -> Result<()> {
    let Some(_nobody_creates) = cache.try_lock(LOCK)? else { return Ok(()) };
    if !run(podman.command().args(["ps", "-aq"]))?.trim().is_empty() {
        return Ok(());
    }
    for hierarchy in folders_in(Path::new("/sys/fs/cgroup")) {
        for name in ["libpod_parent/conmon", "libpod_parent"] {
            remove_empty(&hierarchy.join(name))?;
        }
    }
    let is_mounted = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    let is_mounted = is_mounted.lines().any(|line| line.split(' ').nth(1) == Some(NAMESPACES));
    if is_mounted && fs::read_dir(NAMESPACES).is_ok_and(|mut entries| entries.next().is_none()) {
        umount2(NAMESPACES, MntFlags::MNT_DETACH).with_context(|| format!("unmount {NAMESPACES}"))?;
    }
    Ok(())
}

fn folders_in(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// A cgroup that still has a process or a child is somebody else's.
fn remove_empty(cgroup: &Path) -> Result<()> {
    match fs::remove_dir(cgroup) {
        Ok(()) => Ok(()),
        Err(error) => match error.kind() {
            ErrorKind::NotFound | ErrorKind::ResourceBusy | ErrorKind::DirectoryNotEmpty => Ok(()),
            _ => Err(error).with_context(|| format!("remove cgroup {}", cgroup.display())),
        },
    }
}
