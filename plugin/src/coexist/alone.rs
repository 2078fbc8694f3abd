//! One agent for a node: two would write one ledger and answer the same containers, and the runtime lets none of
//! both set anything twice. A second one, such as another Helm release, ends after a while, with words; one that
//! is about to go, such as the release before, is waited for.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, flock},
    io::Errno,
};
use tokio::time::{Instant, sleep};

const FILE: &str = "agent.lock";
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Longer than a terminating agent's grace period in the chart.
pub const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, thiserror::Error)]
pub enum AloneError {
    #[error("open {path}")]
    Open { path: PathBuf, source: io::Error },
    #[error("lock {path}")]
    Lock { path: PathBuf, source: io::Error },
    #[error(
        "another quietcore agent (process {pid}) serves this node: keep one of both installations off it"
    )]
    Another { pid: String },
}

/// Holds the node until it is dropped, or the process ends however it ends.
#[derive(Debug)]
pub struct Alone {
    _file: File,
}

impl Alone {
    pub async fn wait(state_dir: &Path, patience: Duration) -> Result<Alone, AloneError> {
        let end = Instant::now() + patience;
        loop {
            match Alone::hold(state_dir) {
                Err(AloneError::Another { pid }) if Instant::now() < end => {
                    tracing::debug!(pid, "another agent serves this node");
                    sleep(LOOK_EVERY).await;
                }
                held_or_not => return held_or_not,
            }
        }
    }

    /// At once, or not.
    pub fn hold(state_dir: &Path) -> Result<Alone, AloneError> {
        let path = state_dir.join(FILE);
        let open = |source| AloneError::Open { path: path.clone(), source };
        fs::create_dir_all(state_dir).map_err(open)?;
        // The file is never removed: whoever waits for it must wait for the same one.
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(open)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut pid = String::new();
                // Only for the message: the first may be about to write it.
                let _ = file.read_to_string(&mut pid);
                return Err(AloneError::Another { pid: pid.trim().to_owned() });
            }
            Err(errno) => return Err(AloneError::Lock { path, source: errno.into() }),
        }
        file.rewind().and_then(|()| file.set_len(0)).map_err(open)?;
        writeln!(file, "{}", std::process::id()).map_err(open)?;
        Ok(Alone { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_is_told_who_is_first_until_that_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let first = Alone::hold(&state).unwrap();
        let refusal = Alone::hold(&state).unwrap_err().to_string();
        assert!(refusal.contains(&format!("(process {})", std::process::id())), "{refusal}");
        drop(first);
        Alone::hold(&state).unwrap();
    }

    #[tokio::test]
    async fn one_that_goes_is_waited_for_and_one_that_stays_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let first = Alone::hold(folder.path()).unwrap();
        let impatient = Alone::wait(folder.path(), Duration::ZERO).await;
        assert!(matches!(impatient, Err(AloneError::Another { .. })));
        let (second, ()) =
            tokio::join!(Alone::wait(folder.path(), Duration::from_secs(60)), async { drop(first) });
        second.unwrap();
    }
}
