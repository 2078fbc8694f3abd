//! Step 3: what was changed on this node, so that it becomes again what it was.
//!
//! A change is on disk before it is made. The journal is of one boot: what an earlier kernel was told is gone with it.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{setting::Area, want::Format};
use crate::agent::disk;

/// Grows when a reader of the old kind would misunderstand the new.
const VERSION: u32 = 1;

#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    #[error("read the journal of settings {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("keep the damaged journal of settings {path} aside")]
    KeepAside { path: PathBuf, source: io::Error },
    #[error(
        "the journal of settings {path} is of version {found}, this agent knows {VERSION}: install the newer agent again"
    )]
    Newer { path: PathBuf, found: u32 },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub area: Area,
    pub name: String,
    pub before: String,
    pub now: String,
    /// How sets of CPUs are written there, if it is one.
    pub format: Option<Format>,
    /// It was seen to be so: a file that says otherwise was changed by somebody else.
    pub made: bool,
}

#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Journal {
    /// /proc/sys/kernel/random/boot_id of the kernel that was told.
    pub boot_id: String,
    pub changes: BTreeMap<PathBuf, Change>,
    /// What the kernel makes of grants by itself, before the first of this boot.
    #[serde(default)]
    pub at_rest: Option<BTreeMap<PathBuf, String>>,
}

/// Where the journal is kept. A trait, so that a test can let its disk fail.
pub trait Book {
    /// Durable when it returns.
    fn write(&self, journal: &Journal) -> io::Result<()>;
}

#[derive(Debug, Clone)]
pub struct File(pub PathBuf);

impl Book for File {
    fn write(&self, journal: &Journal) -> io::Result<()> {
        disk::write_json(&self.0, &OnDisk { version: VERSION, journal })
    }
}

#[derive(Serialize, Deserialize)]
struct OnDisk<T> {
    version: u32,
    #[serde(flatten)]
    journal: T,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

/// The journal of this boot, and what became of one that could not be understood.
pub fn read(path: &Path, boot_id: &str) -> Result<(Journal, Option<String>), JournalError> {
    let fresh = || Journal { boot_id: boot_id.to_owned(), ..Journal::default() };
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((fresh(), None)),
        Err(source) => return Err(JournalError::Read { path: path.to_owned(), source }),
    };
    // Looked at alone: a newer file may not parse as ours.
    match serde_json::from_slice(&bytes) {
        Ok(Version { version: found }) if VERSION < found => {
            return Err(JournalError::Newer { path: path.to_owned(), found });
        }
        _ => {}
    }
    match serde_json::from_slice::<OnDisk<Journal>>(&bytes) {
        Ok(OnDisk { journal, .. }) if journal.boot_id == boot_id => Ok((journal, None)),
        Ok(_) => Ok((fresh(), None)),
        Err(damage) => {
            let kept_aside = |source| JournalError::KeepAside { path: path.to_owned(), source };
            let aside = disk::keep_aside(path).map_err(kept_aside)?;
            let words = format!(
                "what was changed before is not known any more: the journal was damaged ({damage}) and is kept as {}; \
                 reboot the node to have its own settings again",
                aside.display()
            );
            Ok((fresh(), Some(words)))
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn journal() -> Journal {
        let change = Change {
            area: Area::Node,
            name: "vm.stat_interval".to_owned(),
            before: "1".to_owned(),
            now: "120".to_owned(),
            format: None,
            made: true,
        };
        let changes = BTreeMap::from([(PathBuf::from("/proc/sys/vm/stat_interval"), change)]);
        let isolated = (PathBuf::from("/sys/fs/cgroup/cpuset.cpus.isolated"), String::new());
        Journal { boot_id: "this".to_owned(), changes, at_rest: Some(BTreeMap::from([isolated])) }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("settings.json");
        File(path.clone()).write(&journal()).unwrap();
        (folder, path)
    }

    #[test]
    fn what_was_written_is_read_in_the_same_boot_and_void_in_the_next() {
        let (_folder, path) = written();
        assert_eq!(read(&path, "this").unwrap(), (journal(), None));
        let (after_reboot, damage) = read(&path, "next").unwrap();
        assert_eq!((after_reboot.boot_id.as_str(), after_reboot.changes.len(), damage), ("next", 0, None));
    }

    #[test]
    fn a_first_start_has_changed_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (journal, damage) = read(&folder.path().join("settings.json"), "this").unwrap();
        assert_eq!((journal.changes.len(), damage), (0, None));
    }

    #[track_caller]
    fn check_damage(bytes: &[u8], expect: Expect) {
        let (folder, path) = written();
        fs::write(&path, bytes).unwrap();
        let told = match read(&path, "this") {
            Ok((journal, damage)) => {
                assert!(journal.changes.is_empty() && !path.exists());
                assert_eq!(fs::read(path.with_extension("damaged-1")).unwrap(), bytes);
                damage.unwrap()
            }
            Err(error) => {
                assert_eq!(fs::read(&path).unwrap(), bytes);
                error.to_string()
            }
        };
        expect.assert_eq(&told.replace(folder.path().to_str().unwrap(), ""));
    }

    #[test]
    fn a_journal_that_is_not_understood_is_kept_and_told() {
        check_damage(
            b"{\"version\": 1, \"boot_id\": \"this\", \"chan",
            expect![
                "what was changed before is not known any more: the journal was damaged (EOF while parsing a string at line 1 column 39) and is kept as /settings.damaged-1; reboot the node to have its own settings again"
            ],
        );
        check_damage(
            b"",
            expect![
                "what was changed before is not known any more: the journal was damaged (EOF while parsing a value at line 1 column 0) and is kept as /settings.damaged-1; reboot the node to have its own settings again"
            ],
        );
        check_damage(
            b"{\"version\": 2, \"boot_id\": \"this\", \"changes\": 7}",
            expect![
                "the journal of settings /settings.json is of version 2, this agent knows 1: install the newer agent again"
            ],
        );
    }
}
