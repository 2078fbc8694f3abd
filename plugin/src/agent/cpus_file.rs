//! Step 4: the file by which a strict container knows its CPUs, whatever environment a process there has.
//!
//! Named by its content: containers with the same CPUs share it, no container's end has to remove it, and a crash
//! leaves nothing that would be wrong. Not synced: after a crash of the node no container has it mounted.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

use crate::cores::{ledger::Grant, set::CpuSet, shared};

#[derive(Debug, thiserror::Error)]
#[error("write {path}, which tells the container its CPUs: {source}; see the node's disk")]
pub struct CpusFileError {
    path: PathBuf,
    source: io::Error,
}

#[derive(Debug)]
pub struct CpusFiles {
    folder: PathBuf,
}

impl CpusFiles {
    /// Forgets the files that no claimed container has.
    pub fn open(state_dir: &Path, claimed: impl Iterator<Item = Grant>) -> CpusFiles {
        let files = CpusFiles { folder: state_dir.join("cpus") };
        let kept: BTreeSet<PathBuf> =
            claimed.map(|grant| files.path(&content(&grant.cpus, grant.claim.shared.as_ref()))).collect();
        // A container that runs keeps what it has mounted. What cannot be removed does no harm.
        for entry in fs::read_dir(&files.folder).into_iter().flatten().flatten() {
            if !kept.contains(&entry.path()) {
                let _ = fs::remove_file(entry.path());
            }
        }
        files
    }

    /// Returns the file's path on the node.
    pub fn write(&self, grant: &CpuSet, shared: Option<&CpuSet>) -> Result<PathBuf, CpusFileError> {
        let content = content(grant, shared);
        let path = self.path(&content);
        match self.write_once(&path, &content) {
            Ok(()) => Ok(path),
            Err(source) => Err(CpusFileError { path, source }),
        }
    }

    fn path(&self, content: &str) -> PathBuf {
        let hash = Sha256::digest(content.as_bytes());
        self.folder.join(hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect::<String>())
    }

    fn write_once(&self, path: &Path, content: &str) -> io::Result<()> {
        // Read back rather than trusted: a node may have crashed while it was written.
        if fs::read_to_string(path).is_ok_and(|found| found == content) {
            return Ok(());
        }
        fs::create_dir_all(&self.folder)?;
        let unfinished = self.folder.join(".unfinished");
        let _ = fs::remove_file(&unfinished);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o444).open(&unfinished)?;
        file.write_all(content.as_bytes())?;
        // Containers of any user read it through the mount.
        file.set_permissions(fs::Permissions::from_mode(0o444))?;
        fs::rename(&unfinished, path)
    }
}

/// As the environment has it, so that a shell can read it (`. /.quietcore/cpus`).
fn content(grant: &CpuSet, shared: Option<&CpuSet>) -> String {
    shared::variables(grant, shared).map(|(name, value)| format!("{name}={value}\n")).concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    #[test]
    fn the_same_cpus_are_one_file_and_a_damaged_one_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let files = CpusFiles::open(state.path(), std::iter::empty());
        let path = files.write(&cpus("1,3-4"), Some(&cpus("0"))).unwrap();
        assert_ne!(files.write(&cpus("1,3-4"), None).unwrap(), path);
        fs::remove_file(&path).unwrap();
        fs::write(&path, "half").unwrap();
        assert_eq!(files.write(&cpus("1,3-4"), Some(&cpus("0"))).unwrap(), path);
        let found = fs::read_to_string(&path).unwrap();
        assert_eq!(found, "QUIETCORE_CPUS=1,3-4\nQUIETCORE_SHARED_CPUS=0\n");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o444);
    }

    #[test]
    fn the_next_agent_forgets_what_nobody_has() {
        let state = tempfile::tempdir().unwrap();
        let path = CpusFiles::open(state.path(), std::iter::empty()).write(&cpus("1"), None).unwrap();
        CpusFiles::open(state.path(), std::iter::empty());
        assert!(!path.exists());
    }

    #[test]
    fn a_disk_that_refuses_is_an_error_that_names_the_file() {
        let state = tempfile::tempdir().unwrap();
        fs::write(state.path().join("cpus"), "no folder").unwrap();
        let error = CpusFiles::open(state.path(), std::iter::empty()).write(&cpus("1"), None).unwrap_err();
        assert!(error.to_string().starts_with("write /"), "{error}");
    }
}
