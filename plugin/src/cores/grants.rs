//! Step 3: the ledger in memory and on disk.
//!
//! CreateContainer decides from memory and never waits for a disk: a thread writes behind it, in order.
//! Allocate waits, because the kubelet will replay its answer after a crash of ours.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
};

use super::ledger::Ledger;
use crate::agent::disk;

#[derive(Debug, thiserror::Error)]
pub enum GrantsError {
    #[error("read the ledger {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("keep the damaged ledger aside as {path}")]
    KeepAside { path: PathBuf, source: io::Error },
}

#[derive(Debug)]
pub struct Grants {
    ledger: Mutex<Ledger>,
    writer: mpsc::Sender<Write>,
}

/// What is to be on disk, and who waits for it.
#[derive(Debug)]
struct Write {
    ledger: serde_json::Value,
    done: Option<mpsc::Sender<bool>>,
}

impl Grants {
    pub fn open(file: PathBuf) -> Result<Grants, GrantsError> {
        let ledger = read(&file)?;
        let (writer, writes) = mpsc::channel();
        std::thread::spawn(move || write_behind(&file, &writes));
        Ok(Grants { ledger: Mutex::new(ledger), writer })
    }

    pub fn read<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }

    /// Saved soon.
    pub fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let result = change(&mut ledger);
        self.save(&ledger, None);
        result
    }

    /// Saved when it returns true.
    pub fn change_durably(&self, change: impl FnOnce(&mut Ledger)) -> bool {
        let (done, saved) = mpsc::channel();
        let mut ledger = self.lock();
        change(&mut ledger);
        self.save(&ledger, Some(done));
        drop(ledger);
        saved.recv().unwrap_or(false)
    }

    fn save(&self, ledger: &Ledger, done: Option<mpsc::Sender<bool>>) {
        // Under the lock, so that the writer sees states in the order they were made.
        match serde_json::to_value(ledger) {
            Ok(ledger) => drop(self.writer.send(Write { ledger, done })),
            Err(error) => tracing::error!(%error, "the ledger does not serialize"),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_behind(file: &Path, writes: &mpsc::Receiver<Write>) {
    while let Ok(mut write) = writes.recv() {
        let mut waiting = Vec::from_iter(write.done.take());
        // Only the newest state matters; whoever waits for an older one gets it with this.
        while let Ok(newer) = writes.try_recv() {
            write = newer;
            waiting.extend(write.done.take());
        }
        let saved = disk::write_json(file, &write.ledger);
        if let Err(error) = &saved {
            tracing::error!(%error, path = %file.display(), "the ledger is not saved");
        }
        for done in waiting {
            let _ = done.send(saved.is_ok());
        }
    }
}

/// A damaged ledger is kept beside the new one. Starting without it is safe: running strict containers are
/// found by Synchronize and reported, and their tokens are refused until their pods are made anew.
fn read(file: &Path) -> Result<Ledger, GrantsError> {
    let bytes = match fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Ledger::default()),
        Err(source) => return Err(GrantsError::Read { path: file.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(ledger) => Ok(ledger),
        Err(error) => {
            let aside = file.with_extension("damaged");
            tracing::error!(%error, kept = %aside.display(), "the ledger is damaged; starting with an empty one");
            fs::rename(file, &aside).map_err(|source| GrantsError::KeepAside { path: aside, source })?;
            Ok(Ledger::default())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cores::token::Token;

    #[test]
    fn an_allocation_is_on_disk_when_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.json");
        let grants = Grants::open(file.clone()).unwrap();
        assert!(grants.change_durably(|ledger| ledger.allocate(Token::of("t"), "1".parse().unwrap())));
        let again = Grants::open(file).unwrap();
        assert_eq!(again.read(|ledger| ledger.cpus_of(&Token::of("t"))), Ok("1".parse().unwrap()));
    }

    #[test]
    fn a_damaged_ledger_is_kept_aside_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ledger.json");
        fs::write(&file, b"{\"allocations\": {").unwrap();
        let grants = Grants::open(file.clone()).unwrap();
        assert_eq!(grants.read(|ledger| ledger.grants().count()), 0);
        assert_eq!(fs::read(file.with_extension("damaged")).unwrap(), b"{\"allocations\": {");
    }
}
