//! systemd-boot with kernel-install(8): /etc/kernel/cmdline is the command line of every entry it writes. Where that
//! file is missing it takes /usr/lib/kernel/cmdline or the running kernel's line: a new file must begin with that.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    NodeError,
    boot_loader::{Stated, read_if_there, within},
    cmdline::{self, Argument},
    state::{Applied, Written},
    tools::{Run, find},
};

const CMDLINE: &str = "/etc/kernel/cmdline";
/// systemd.io/BOOT_LOADER_INTERFACE: the loader says its name to the system that it booted.
const LOADER_INFO: &str = "sys/firmware/efi/efivars/LoaderInfo-4a67b082-0a4c-41cf-b6c7-440b29bb8c4f";

pub(super) fn booted_this(root: &Path) -> bool {
    // Four bytes of attributes, then UTF-16.
    let info = fs::read(root.join(LOADER_INFO)).unwrap_or_default();
    let name: Vec<u8> = info.into_iter().skip(4).step_by(2).collect();
    name.starts_with(b"systemd-boot")
}

pub(super) fn is_installed(root: &Path) -> bool {
    ["boot", "efi", "boot/efi"].iter().any(|folder| root.join(folder).join("loader/loader.conf").exists())
}

pub(super) fn stated(root: &Path) -> Result<Vec<Stated>, NodeError> {
    let line = read_if_there(&within(root, Path::new(CMDLINE)))?;
    Ok(line.map(|line| Stated { path: CMDLINE.into(), line }).into_iter().collect())
}

pub(super) fn file(root: &Path, before: Option<&Applied>, add: &[String]) -> Result<Written, NodeError> {
    let ours = before.map(|applied| applied.added.as_slice()).unwrap_or_default();
    let there = read_if_there(&within(root, Path::new(CMDLINE)))?;
    let without = |line: &str| {
        let words = cmdline::split(line).into_iter().map(|Argument { text, .. }| text);
        words.filter(|text| !ours.contains(text)).collect::<Vec<_>>()
    };
    let (mut words, before) = match (there, before.and_then(|applied| applied.written.as_ref())) {
        (Some(line), Some(written)) if line == written.text => (without(&line), written.before.clone()),
        // Edited since: what is not ours counts as the administrator's.
        (Some(line), Some(_)) => (without(&line), Some(without(&line).join(" ") + "\n")),
        (Some(line), None) => (without(&line), Some(line)),
        (None, _) => {
            let mut words = without(&default_line(root)?);
            // The running kernel may still have what an earlier apply gave it.
            words.retain(|text| !add.contains(text) && !is_loaders(text));
            (words, None)
        }
    };
    words.extend_from_slice(add);
    Ok(Written { path: CMDLINE.into(), text: words.join(" ") + "\n", before })
}

fn default_line(root: &Path) -> Result<String, NodeError> {
    if let Some(line) = read_if_there(&root.join("usr/lib/kernel/cmdline"))? {
        return Ok(line);
    }
    let path = root.join("proc/cmdline");
    fs::read_to_string(&path).map_err(NodeError::read(&path))
}

/// As kernel-install leaves them out of the running kernel's line.
fn is_loaders(text: &str) -> bool {
    text.starts_with("BOOT_IMAGE=") || text.starts_with("initrd=")
}

/// Each kernel by itself: `kernel-install add-all` is of systemd 254.
pub(super) fn update(root: &Path, tools: &dyn Run) -> Result<(), NodeError> {
    let hint = || NodeError::UnknownLoader { hint: "kernel-install went away: install it again".into() };
    let program = find(root, "kernel-install").ok_or_else(hint)?;
    let kernels = kernels(root);
    if kernels.is_empty() {
        return Err(NodeError::NoKernel);
    }
    for (release, image) in kernels {
        tools.run(&program.to_string_lossy(), &["add", &release, &image.to_string_lossy()])?;
    }
    Ok(())
}

/// Releases with their images, as seen from the root.
fn kernels(root: &Path) -> Vec<(String, PathBuf)> {
    let folders = fs::read_dir(root.join("lib/modules")).into_iter().flatten().flatten();
    let releases = folders.filter_map(|entry| entry.file_name().into_string().ok());
    let image = |release: String| {
        let beside = PathBuf::from(format!("/lib/modules/{release}/vmlinuz"));
        let in_boot = PathBuf::from(format!("/boot/vmlinuz-{release}"));
        let image = [beside, in_boot].into_iter().find(|path| within(root, path).is_file())?;
        Some((release, image))
    };
    let mut kernels: Vec<_> = releases.filter_map(image).collect();
    kernels.sort();
    kernels
}
