//! Step 7: which processes stand still because the guard stopped them. Asked of the pinned maps, by a process
//! that is not the agent; reading them enters no other CPU.

use std::{
    fs, io,
    mem::offset_of,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use libbpf_rs::{ErrorKind, MapCore as _, MapFlags, MapHandle};
use rustix::io::Errno;

use super::{abi, load::GuardError, pins, slots::Slot, watch};

#[derive(Debug, thiserror::Error)]
pub enum FrozenError {
    #[error(
        "no guard is pinned at {0}: run this on a node with quietcore's agent, such as in the agent's container"
    )]
    NoGuard(PathBuf),
    #[error("open the guard's maps")]
    Open(#[from] GuardError),
    #[error("read the guard's maps (it needs CAP_BPF)")]
    Read(#[source] libbpf_rs::Error),
    #[error("list the threads of process {pid}")]
    Threads { pid: i32, source: io::Error },
    #[error("open thread {tid}")]
    Thread { tid: i32, source: Errno },
}

/// Whether the guard sent the SIGSTOP that a thread's process stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stop {
    ByGuard,
    /// Not by this thread.
    No,
    /// The kernel shows a process's first thread only (before Linux 6.9).
    Unknown,
}

#[derive(Debug)]
pub struct PinnedThreads {
    threads: MapHandle,
    grants: MapHandle,
}

impl PinnedThreads {
    pub fn open(root: &Path) -> Result<PinnedThreads, FrozenError> {
        let no_guard = || FrozenError::NoGuard(root.to_owned());
        let dir = pins::whole(root).next().ok_or_else(no_guard)?;
        let open = |map| pins::open_map(&dir.join(map));
        Ok(PinnedThreads { threads: open("qc_threads")?, grants: open("qc_grants")? })
    }

    /// The slot of a process that is watched, by its first thread.
    pub fn slot_of(&self, pid: i32) -> Result<Option<Slot>, FrozenError> {
        Ok(self.thread(pid, pid)?.map(|(slot, _)| slot))
    }

    /// The slot of a process that the guard stopped. Whether it still stands is to be asked of /proc.
    pub fn frozen_in(&self, pid: i32) -> Result<Option<Slot>, FrozenError> {
        let Some((slot, first)) = self.thread(pid, pid)? else { return Ok(None) };
        let others = list_threads(pid)?.into_iter().filter(|tid| *tid != pid);
        let mut stops = vec![first];
        for tid in others {
            stops.extend(self.thread(pid, tid)?.map(|(_, stop)| stop));
        }
        let by_guard = stops.contains(&Stop::ByGuard) || stops.contains(&Stop::Unknown);
        Ok(by_guard.then_some(slot))
    }

    /// `None`: it is not watched, or is gone.
    fn thread(&self, pid: i32, tid: i32) -> Result<Option<(Slot, Stop)>, FrozenError> {
        let pidfd = match watch::open_thread(pid, tid) {
            Ok(pidfd) => pidfd,
            Err(Errno::SRCH) => return Ok(None),
            Err(Errno::INVAL) if tid != pid => {
                return Ok(self.thread(pid, pid)?.map(|(slot, _)| (slot, Stop::Unknown)));
            }
            Err(source) => return Err(FrozenError::Thread { tid, source }),
        };
        let found = match self.threads.lookup(&pidfd.as_raw_fd().to_ne_bytes(), MapFlags::ANY) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            found => found.map_err(FrozenError::Read)?,
        };
        let Some(thread) = found else { return Ok(None) };
        let frozen = thread.get(offset_of!(abi::qc_thread, frozen)).is_some_and(|frozen| *frozen != 0);
        let stop = if frozen { Stop::ByGuard } else { Stop::No };
        Ok(self.live_slot(&thread)?.map(|slot| (slot, stop)))
    }

    /// As `grant_of` in thread.bpf.h: a slot that another container has by now is not this thread's any more.
    fn live_slot(&self, thread: &[u8]) -> Result<Option<Slot>, FrozenError> {
        let slot = u32_at(thread, offset_of!(abi::qc_thread, slot));
        let Some(known) = u8::try_from(slot).ok().and_then(Slot::new) else { return Ok(None) };
        let grant = self.grants.lookup(&slot.to_ne_bytes(), MapFlags::ANY).map_err(FrozenError::Read)?;
        let grant = grant.unwrap_or_default();
        let live = grant.get(offset_of!(abi::qc_grant, live)).is_some_and(|live| *live != 0);
        let same = u32_at(&grant, offset_of!(abi::qc_grant, generation))
            == u32_at(thread, offset_of!(abi::qc_thread, generation));
        Ok((live && same).then_some(known))
    }
}

/// 0 where the value is too short: no slot's number, and no generation of a live one.
fn u32_at(value: &[u8], offset: usize) -> u32 {
    let bytes = value.get(offset..offset + size_of::<u32>()).and_then(|bytes| bytes.try_into().ok());
    u32::from_ne_bytes(bytes.unwrap_or_default())
}

fn list_threads(pid: i32) -> Result<Vec<i32>, FrozenError> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|source| FrozenError::Threads { pid, source })?,
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}
