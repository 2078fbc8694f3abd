//! Step 3: the ledger in memory, and the thread that writes it down.
//!
//! CreateContainer decides from memory and never waits for a disk: a thread writes behind it, in order.
//! Allocate waits, because the kubelet will replay its answer after a crash of ours.

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
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
#[error(
    "the node's ledger of cores cannot be written (disk full?): see the agent's log; the kubelet tries again by itself"
)]
pub struct NotSaved;

#[derive(Debug)]
pub struct Grants {
    ledger: Mutex<Ledger>,
    writer: mpsc::Sender<Write>,
    revision: watch::Sender<u64>,
    on_disk: Arc<AtomicU64>,
}

/// What is to be on disk, and who waits for it.
#[derive(Debug)]
struct Write {
    saved: Saved,
    revision: u64,
    done: Option<Done>,
}

#[derive(Debug)]
enum Done {
    Task(oneshot::Sender<Result<(), NotSaved>>),
    Thread(mpsc::SyncSender<Result<(), NotSaved>>),
}

impl Done {
    /// Whoever waited may have lost patience.
    fn tell(self, result: Result<(), NotSaved>) {
        match self {
            Done::Task(waiting) => drop(waiting.send(result)),
            Done::Thread(waiting) => drop(waiting.try_send(result)),
        }
    }
}

impl Grants {
    /// `isolated`: the CPUs that may be granted now, whatever was granted before.
    pub fn open(file: PathBuf, isolated: &CpuSet) -> Result<Grants, StoreError> {
        let boot_id = store::boot_id().map_err(StoreError::BootId)?;
        let ledger = store::read(&file, &boot_id, isolated)?;
        let (writer, writes) = mpsc::channel();
        let on_disk = Arc::new(AtomicU64::new(ledger.revision()));
        let written = Arc::clone(&on_disk);
        let write_down = move |saved: &Saved| store::write(&file, &boot_id, saved);
        std::thread::spawn(move || write_behind(write_down, &writes, &written));
        Ok(Grants { ledger: Mutex::new(ledger), writer, revision: watch::Sender::default(), on_disk })
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
            self.save(&ledger, Some(Done::Task(done)));
        }
        saved.await.unwrap_or(Err(NotSaved))
    }

    /// What changed before is on disk when it returns; for the end of the agent.
    pub async fn flush(&self) -> Result<(), NotSaved> {
        let (done, saved) = oneshot::channel();
        self.save(&self.lock(), Some(Done::Task(done)));
        saved.await.unwrap_or(Err(NotSaved))
    }

    /// As `flush`, for a thread that may wait, and no longer than `patience`: a container's first process must not run
    /// before its claim is on disk. Mostly it is since its creation, and a slow disk then delays no start.
    pub fn wait_saved(&self, patience: Duration) -> Result<(), NotSaved> {
        let (done, saved) = mpsc::sync_channel(1);
        {
            let ledger = self.lock();
            if self.on_disk.load(Ordering::Acquire) == ledger.revision() {
                return Ok(());
            }
            self.save(&ledger, Some(Done::Thread(done)));
        }
        saved.recv_timeout(patience).unwrap_or(Err(NotSaved))
    }

    /// Under the lock, so that the writer sees states in the order they were made.
    fn save(&self, ledger: &Ledger, done: Option<Done>) {
        // The writer ends after its sender only.
        let _ = self.writer.send(Write { saved: ledger.saved().clone(), revision: ledger.revision(), done });
        self.revision.send_replace(ledger.revision());
    }

    fn lock(&self) -> MutexGuard<'_, Ledger> {
        // A panic ends the agent (panic = "abort"), so a lock is never poisoned.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_behind(
    write_down: impl Fn(&Saved) -> io::Result<()>,
    writes: &mpsc::Receiver<Write>,
    on_disk: &AtomicU64,
) {
    let mut unsaved: Option<(Saved, u64)> = None;
    loop {
        let next = match &unsaved {
            None => writes.recv().ok(),
            Some((saved, revision)) => match writes.recv_timeout(WRITE_AGAIN_AFTER) {
                Ok(write) => Some(write),
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    Some(Write { saved: saved.clone(), revision: *revision, done: None })
                }
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
        let result = write_down(&write.saved);
        match (&result, &unsaved) {
            (Err(error), None) => {
                tracing::error!(step = 3, %error, "the ledger is not saved; trying again");
            }
            (Ok(()), Some(_)) => tracing::info!(step = 3, "the ledger is saved again"),
            _ => {}
        }
        if result.is_ok() {
            on_disk.store(write.revision, Ordering::Release);
        }
        for done in waiting {
            done.tell(result.as_ref().map_or(Err(NotSaved), |()| Ok(())));
        }
        unsaved = result.is_err().then_some((write.saved, write.revision));
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use super::*;
    use crate::{
        cores::ledger::{Holder, LedgerRefusal, Place},
        policy::accept::node_default,
    };

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
    fn a_thread_that_waits_finds_its_claim_on_disk_or_hears_that_it_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let grants = open(folder.path());
        let patience = Duration::from_secs(60);
        grants.change(|ledger| ledger.allocate(Token::of("t"), "1".parse().unwrap()));
        assert_eq!(grants.wait_saved(patience), Ok(()));
        assert!(knows(&open(folder.path()), "t"));
        fs::remove_dir_all(folder.path().join("state")).unwrap();
        fs::write(folder.path().join("state"), b"").unwrap();
        assert_eq!(grants.wait_saved(patience), Ok(()), "what is saved is not written again");
        grants.change(|ledger| ledger.allocate(Token::of("u"), "2".parse().unwrap()));
        assert_eq!(grants.wait_saved(patience), Err(NotSaved));
    }

    /// The agent dies after each step of a grant, with all that it had written down by then; the next one hears from the
    /// runtime what there is.
    #[tokio::test]
    async fn a_crash_between_any_two_steps_loses_no_grant_and_leaks_none() {
        let holder =
            Holder { namespace: "ns".into(), pod: "p".into(), pod_uid: "uid".into(), container: "c".into() };
        let place = || Place { shared: "0".parse().ok(), ..Place::default() };
        for n_steps in 0..=4 {
            let folder = tempfile::tempdir().unwrap();
            let grants = open(folder.path());
            if 1 <= n_steps {
                allocate(&grants, "t").await.unwrap();
            }
            let claim = |grants: &Grants, id: &str| {
                let (token, policy) = (Token::of("t"), node_default());
                grants.change(|ledger| {
                    ledger.claim(&token, &holder, id, "plan", &policy)?;
                    ledger.placed(id, place());
                    Ok::<_, LedgerRefusal>(())
                })
            };
            if 2 <= n_steps {
                claim(&grants, "first").unwrap();
            }
            if 3 <= n_steps {
                grants.wait_saved(Duration::from_secs(60)).unwrap();
            }
            if 4 <= n_steps {
                grants.change(|ledger| ledger.started("first", 42));
            }
            let died = fs::read(folder.path().join("state/ledger.json")).unwrap_or_default();
            drop(grants);
            for runs in [true, false] {
                let next = tempfile::tempdir().unwrap();
                fs::create_dir(next.path().join("state")).unwrap();
                if !died.is_empty() {
                    fs::write(next.path().join("state/ledger.json"), &died).unwrap();
                }
                let next = open(next.path());
                // Nothing runs before its claim is on disk.
                let live = if runs && 3 <= n_steps { vec!["first".to_owned()] } else { Vec::new() };
                next.change(|ledger| ledger.reconcile(&live, Vec::new()));
                let granted: Vec<Place> =
                    next.read(|ledger| ledger.grants().map(|grant| grant.claim.place).collect());
                assert_eq!(granted, vec![place(); live.len()], "after step {n_steps}");
                assert_eq!(claim(&next, "second").is_ok(), 1 <= n_steps, "after step {n_steps}");
            }
        }
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
