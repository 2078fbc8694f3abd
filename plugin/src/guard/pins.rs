//! Step 7: where the guard lives when no agent runs: programs, links and maps pinned in a bpffs.
//!
//! A complete set lies in `ROOT/abi<N>-<hash of the programs>-<detector>-<provider>`; a half-made one in the same with `-partial`,
//! which is thrown away. Nothing here loads or attaches.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use sha2::{Digest as _, Sha256};

use super::{
    abi,
    detector::{Detector, Variant},
    load::GuardError,
    prctl::BY_BPF,
};
use crate::{
    arm::plan::Provider,
    cores::set::{CpuId, CpuSet},
};

const PARTIAL: &str = "-partial";
/// The one map that every version can be asked by: `struct qc_cpus` begins with the granted CPUs.
const CPUS: &str = "data-cpus";

pub(super) fn dir_of(root: &Path, object: &[u8], variant: Variant) -> PathBuf {
    let hash: String = Sha256::digest(object).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    root.join(format!("abi{}-{hash}-{}", abi::QC_GUARD_ABI, variant.name()))
}

pub(super) fn partial(dir: &Path) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push(PARTIAL);
    path.into()
}

/// bpffs allows no dots in names, and libbpf names the map of a data section after it.
pub(super) fn name_of(map: &str) -> String {
    map.trim_start_matches('.').replace('.', "-")
}

pub(super) fn link_of(program: &str) -> String {
    format!("{program}-link")
}

pub(super) fn open_map(path: &Path) -> Result<MapHandle, GuardError> {
    MapHandle::from_pinned_path(path).map_err(|source| GuardError::Adopt { path: path.to_owned(), source })
}

/// Removes guards of other versions, and half-made ones; not while containers run under one.
pub(super) fn remove_others(root: &Path, ours: Option<&Path>) -> Result<(), GuardError> {
    let at_root = |source| GuardError::PinDir { path: root.to_owned(), source };
    for entry in fs::read_dir(root).map_err(at_root)? {
        let path = entry.map_err(at_root)?.path();
        let half_made = path.to_string_lossy().ends_with(PARTIAL);
        if Some(path.as_path()) == ours {
            continue;
        }
        if !half_made && in_use(&path)? {
            return Err(GuardError::OtherVersionInUse { path });
        }
        remove(&path)?;
    }
    Ok(())
}

pub(super) fn remove(path: &Path) -> Result<(), GuardError> {
    fs::remove_dir_all(path).map_err(|source| GuardError::PinDir { path: path.to_owned(), source })
}

/// Of a node that nobody guards any more. Was there anything?
pub fn remove_all(root: &Path) -> Result<bool, GuardError> {
    let is_there = root.exists();
    if is_there {
        remove(root)?;
    }
    Ok(is_there)
}

/// The guards that lie here. One that an agent is just making has granted nothing yet.
pub(super) fn whole(root: &Path) -> impl Iterator<Item = PathBuf> {
    let dirs = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    dirs.filter(|dir| dir.join(CPUS).exists())
}

/// The CPUs that an agent has granted to running containers, by what it pinned; `None`: no agent, or no strict
/// container.
pub fn granted(root: &Path) -> Result<Option<CpuSet>, GuardError> {
    let mut all = BTreeSet::new();
    for dir in whole(root) {
        let bytes = granted_mask(&dir)?;
        let bits = bytes.iter().enumerate().flat_map(|(idx, byte)| {
            (0..8)
                .filter(move |bit| byte >> bit & 1 == 1)
                .filter_map(move |bit| u32::try_from(idx * 8 + bit).ok())
        });
        all.extend(bits.filter_map(CpuId::new));
    }
    Ok(CpuSet::new(all))
}

/// Who answers the prctl for them, by the name of what is pinned.
pub fn provider(root: &Path) -> Option<Provider> {
    let pinned: Vec<PathBuf> = whole(root).collect();
    let is_of = |variant: &Variant| {
        let end = format!("-{}", variant.name());
        pinned.iter().any(|dir| dir.to_string_lossy().ends_with(&end))
    };
    let mut variants =
        Detector::ALL.into_iter().flat_map(|detector| BY_BPF.map(|provider| Variant { detector, provider }));
    variants.find(is_of).map(|variant| variant.provider)
}

pub(super) fn in_use(dir: &Path) -> Result<bool, GuardError> {
    Ok(granted_mask(dir)?.iter().any(|byte| *byte != 0))
}

fn granted_mask(dir: &Path) -> Result<Vec<u8>, GuardError> {
    let unreadable = |source| GuardError::OtherVersionUnreadable { path: dir.to_owned(), source };
    let cpus = MapHandle::from_pinned_path(dir.join(CPUS)).map_err(unreadable)?;
    let mut value = cpus.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(unreadable)?.unwrap_or_default();
    // A bit and a byte for each CPU: how many CPUs depends on the version that made it.
    value.truncate(value.len() / 9);
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{arm::plan::Provider, guard::detector::Detector};

    const VARIANT: Variant = Variant { detector: Detector::Tracepoint, provider: Provider::Seccomp };

    #[test]
    fn a_change_of_the_programs_is_another_directory() {
        let root = Path::new("/pins");
        let dir = |object| dir_of(root, object, VARIANT);
        assert_ne!(dir(b"one"), dir(b"other"));
        assert_eq!(dir(b"one"), Path::new("/pins/abi6-7692c3ad3540bb80-tracepoint-seccomp"));
        assert_eq!(
            partial(&dir(b"one")),
            Path::new("/pins/abi6-7692c3ad3540bb80-tracepoint-seccomp-partial")
        );
    }

    #[test]
    fn map_names_lose_what_a_bpffs_refuses() {
        assert_eq!(name_of(".data.cpus"), CPUS);
        assert_eq!(name_of("qc_records"), "qc_records");
    }
}
