//! grubby, where each kernel has a boot entry of its own (Fedora, RHEL): it changes all entries, and what kernels
//! installed later get (grubby(8), --update-kernel=ALL).

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    NodeError,
    boot_loader::{Stated, read_if_there, within},
    tools::{Run, find},
};

/// The entries, and not /etc/default/grub: grubby keeps the two alike.
pub(super) fn stated(root: &Path) -> Result<Vec<Stated>, NodeError> {
    let folder = Path::new("/boot/loader/entries");
    let names =
        fs::read_dir(within(root, folder)).into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut paths: Vec<PathBuf> = names.map(|name| folder.join(name)).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "conf"));
    paths.sort();
    let mut stated = Vec::new();
    for path in paths {
        if let Some(text) = read_if_there(&within(root, &path))? {
            let options = text.lines().filter_map(|line| line.trim_start().strip_prefix("options"));
            stated.push(Stated { path, line: options.collect() });
        }
    }
    Ok(stated)
}

pub(super) fn update(
    root: &Path,
    tools: &dyn Run,
    before: &[String],
    now: &[String],
) -> Result<(), NodeError> {
    let hint = || NodeError::UnknownLoader { hint: "grubby went away: install it again".into() };
    let grubby = find(root, "grubby").ok_or_else(hint)?;
    let gone: Vec<String> = before.iter().filter(|parameter| !now.contains(parameter)).cloned().collect();
    let (remove, add) = (format!("--remove-args={}", gone.join(" ")), format!("--args={}", now.join(" ")));
    let mut arguments = vec!["--update-kernel=ALL"];
    if !gone.is_empty() {
        arguments.push(&remove);
    }
    if !now.is_empty() {
        arguments.push(&add);
    }
    if arguments.len() == 1 {
        return Ok(());
    }
    tools.run(&grubby.to_string_lossy(), &arguments)
}
