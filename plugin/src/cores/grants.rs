//! Step 3: the ledger in memory, and the thread that writes it down.
//!
//! CreateContainer decides from memory and never waits for a disk: a thread writes behind it, in order.
//! Allocate waits, because the kubelet will replay its answer after a crash of ours.

use std::{
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tokio::sync::{oneshot, watch};

use super::{
    ledger::{Ledger, Saved},
    set::CpuSet,
    store::{self, StoreError},
    token::Token,
};

/// The disk may be full for a while: memory must not stay ahead of it for longer than that.
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// The allocation stands in memory and serves, but a restart of the agent might not know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the node's ledger of cores cannot be written: see the agent's log")]
pub struct NotSaved;

#[derive(Debug)]
pub struct Grants {
    ledger: Mutex<Ledger>,
    writer: mpsc::Sender<Write>,
    revision: watch::Sender<u64>,
}

/// What is to be on disk, and who waits for it.
#[derive(Debug)]
struct Write {
    saved: Saved,
    done: Option<oneshot::Sender<Result<(), NotSaved>>>,
}

impl Grants {
    /// `isolated`: the CPUs that may be granted now, whatever was granted before.
    pub fn open(file: PathBuf, isolated: &CpuSet) -> Result<Grants, StoreError> {
        let ledger = store::read(&file, isolated)?;
        let (writer, writes) = mpsc::channel();
        std::thread::spawn(move || write_behind(&file, &writes));
        Ok(Grants { ledger: Mutex::new(ledger), writer, revision: watch::Sender::default() })
    }

    /// Changes with each change of the ledger.
    pub fn revisions(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    pub fn read<T>(&self, look: impl FnOnce(&Ledger) -> T) -> T {
        look(&self.lock())
    }

    /// Saved soon, if anything changed: containers without cores cost the disk nothing.
    pub fn change<T>(&self, change: impl FnOnce(&mut Ledger) -> T) -> T {
        let mut ledger = self.lock();
        let before = ledger.revision();
        let result = change(&mut ledger);
        if ledger.revision() != before {
            self.save(&ledger, None);
        }
        result
    }

    /// Saved when it returns `Ok`; in memory in any case.
    pub async fn allocate(&self, token: Token, cpus: CpuSet) -> Result<(), NotSaved> {
        let (done, saved) = oneshot::channel();
        {
            let mut ledger = self.lock();
            ledger.allocate(token, cpus);
            self.save(&ledger, Some(done));
        }
        saved.await.unwrap_or(Err(NotSaved))
    }

    /// What changed before is on disk when it returns; for the end of the agent.
    pub async fn flush(&self) -> Result<(), NotSaved> {
        let (done, saved) = oneshot::channel();
        self.save(&self.lock(), Some(done));
        saved.await.unwrap_or(Err(NotSaved))
    }

    /// Under the lock, so that the writer sees states in the order they were made.
    fn save(&self, ledger: &Ledger, done: Option<oneshot::Sender<Result<(), NotSaved>>>) {
        // The writer ends after its sender only.
        let _ = self.writer.send(Write { saved: ledger.saved().clone(), done });
        self.revision.send_replace(ledger.revision());
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_behind(file: &Path, writes: &mpsc::Receiver<Write>) {
    let mut unsaved: Option<Saved> = None;
    loop {
        let next = match &unsaved {
            None => writes.recv().ok(),
            Some(saved) => match writes.recv_timeout(WRITE_AGAIN_AFTER) {
                Ok(write) => Some(write),
                Err(mpsc::RecvTimeoutError::Timeout) => Some(Write { saved: saved.clone(), done: None }),
                Err(mpsc::RecvTimeoutError::Disconnected) => None,
            },
        };
        let Some(mut write) = next else { return };
        let mut waiting = Vec::from_iter(write.done.take());
        // Only the newest state matters; whoever waits for an older one gets it with this.
        while let Ok(newer) = writes.try_recv() {
            write = newer;
            waiting.extend(write.done.take());
        }
        let result = store::write(file, &write.saved);
        match (&result, &unsaved) {
            (Err(error), None) => {
                tracing::error!(step = 3, %error, path = %file.display(), "the ledger is not saved; trying again");
            }
            (Ok(()), Some(_)) => tracing::info!(step = 3, "the ledger is saved again"),
            _ => {}
        }
        for done in waiting {
            let _ = done.send(result.as_ref().map_or(Err(NotSaved), |()| Ok(())));
        }
        unsaved = result.is_err().then_some(write.saved);
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Arc};

    use super::*;

    fn isolated() -> CpuSet {
        "1-9".parse().unwrap()
    }

    fn open(folder: &Path) -> Grants {
        Grants::open(folder.join("state/ledger.json"), &isolated()).unwrap()
    }

    async fn allocate(grants: &Grants, token: &str) -> Result<(), NotSaved> {
        grants.allocate(Token::of(token), "1".parse().unwrap()).await
    }

    fn knows(grants: &Grants, token: &str) -> bool {
        grants.read(|ledger| ledger.cpus_of(&Token::of(token))).is_ok()
    }

    #[tokio::test]
    async fn an_allocation_is_on_disk_when_it_is_answered() {
        let folder = tempfile::tempdir().unwrap();
        let grants = open(folder.path());
        allocate(&grants, "t").await.unwrap();
        assert!(knows(&open(folder.path()), "t"));
    }

    #[tokio::test]
    async fn the_newest_state_is_on_disk_after_a_flush() {
        let folder = tempfile::tempdir().unwrap();
        let grants = Arc::new(open(folder.path()));
        for n in 0..100 {
            grants.change(|ledger| ledger.allocate(Token::of(&n.to_string()), "1".parse().unwrap()));
        }
        grants.flush().await.unwrap();
        let again = open(folder.path());
        assert!((0..100).all(|n| knows(&again, &n.to_string())));
    }

    #[tokio::test]
    async fn what_the_disk_refused_is_written_when_it_takes_it_again() {
        let folder = tempfile::tempdir().unwrap();
        // A file where the folder should be: no privilege gets around it.
        let in_the_way = folder.path().join("state");
        let grants = open(folder.path());
        fs::write(&in_the_way, b"").unwrap();
        assert_eq!(allocate(&grants, "t").await, Err(NotSaved));
        assert!(knows(&grants, "t"), "the pod may run as long as the agent does");
        fs::remove_file(&in_the_way).unwrap();
        grants.flush().await.unwrap();
        assert!(knows(&open(folder.path()), "t"));
    }

    #[test]
    fn an_ordinary_container_costs_the_disk_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let grants = open(folder.path());
        grants.change(|ledger| ledger.release("ordinary"));
        drop(grants);
        assert!(!folder.path().join("state").exists());
    }
}
