//! Step 7: puts the threads of a waiting container into the guard's task storage, by pidfd.
//!
//! Only at StartContainer, for the runtime's init, which sleeps: a plain update of a running thread's
//! element would later send IPIs to cores in user mode (RCU tasks trace).

use std::{
    collections::BTreeSet,
    fs, io,
    mem::offset_of,
    os::fd::{AsRawFd as _, OwnedFd},
};

use libbpf_rs::{ErrorKind, MapCore as _, MapFlags, MapHandle};
use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{abi, slots::Slot};

/// pidfd_open(2), Linux 6.9: a pidfd of a thread that is not its group's leader.
const PIDFD_THREAD: u32 = 0o200;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("list the threads of process {pid}")]
    Threads { pid: i32, source: io::Error },
    #[error("open thread {tid} of process {pid}")]
    Open { pid: i32, tid: i32, source: Errno },
    #[error("watch thread {tid} of process {pid}")]
    Update { pid: i32, tid: i32, source: libbpf_rs::Error },
    #[error("look up thread {tid}")]
    Lookup { tid: i32, source: libbpf_rs::Error },
    #[error("process {pid} keeps making threads")]
    Unstable { pid: i32 },
}

/// Returns how many threads are watched now. New threads of a watched thread are watched by BPF, so once no
/// listed thread is new, none is missing.
pub fn watch(threads: &MapHandle, pid: i32, slot: Slot, generation: u32) -> Result<usize, WatchError> {
    let value = bytes_of(&abi::qc_thread {
        slot: u32::from(slot.number()),
        generation,
        // It sleeps in the open of the start fifo: the return from that is not an entry.
        in_syscall: 1,
        entry: u8::try_from(abi::QC_ENTRY_TOLD).unwrap_or_default(),
        entry_ip: abi::QC_ANY_PLACE,
        entry_sp: abi::QC_ANY_PLACE,
        ..abi::qc_thread::default()
    });
    let (mut seen, mut n_watched) = (BTreeSet::new(), 0);
    for _ in 0..16 {
        let new: Vec<i32> = list_threads(pid)?.difference(&seen).copied().collect();
        if new.is_empty() {
            return Ok(n_watched);
        }
        for tid in new {
            n_watched += usize::from(watch_thread(threads, pid, tid, &value)?);
            seen.insert(tid);
        }
    }
    Err(WatchError::Unstable { pid })
}

/// Is a process's first thread watched for this holder of the slot? Reading it enters no other CPU. `None`: it is
/// gone.
pub fn is_watched(
    threads: &MapHandle,
    pid: i32,
    slot: Slot,
    generation: u32,
) -> Result<Option<bool>, WatchError> {
    let pidfd = match open_thread(pid, pid) {
        Ok(pidfd) => pidfd,
        // EINVAL, ENOENT: its first thread ended, or it is a thread by now (pidfd_open(2)).
        Err(Errno::SRCH | Errno::INVAL | Errno::NOENT) => return Ok(None),
        Err(source) => return Err(WatchError::Open { pid, tid: pid, source }),
    };
    let ours =
        bytes_of(&abi::qc_thread { slot: u32::from(slot.number()), generation, ..abi::qc_thread::default() });
    match threads.lookup(&pidfd.as_raw_fd().to_ne_bytes(), MapFlags::ANY) {
        Ok(found) => Ok(Some(found.is_some_and(|now| same_holder(&now, &ours)))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Some(false)),
        Err(source) => Err(WatchError::Lookup { tid: pid, source }),
    }
}

/// false: the thread is gone since it was listed, or needs no watching.
fn watch_thread(threads: &MapHandle, pid: i32, tid: i32, value: &[u8]) -> Result<bool, WatchError> {
    let leader = tid == pid;
    let pidfd = match open_thread(pid, tid) {
        Ok(pidfd) => pidfd,
        Err(Errno::SRCH) if !leader => return Ok(false),
        // No PIDFD_THREAD before 6.9. The init's other threads run the runtime's code only and die when its
        // leader execs the shim; should one of them exec, the shim's challenge fails and nothing runs.
        Err(Errno::INVAL) if !leader => return Ok(false),
        Err(source) => return Err(WatchError::Open { pid, tid, source }),
    };
    let key = pidfd.as_raw_fd().to_ne_bytes();
    let update = |flags| threads.update(&key, value, flags);
    let result = match update(MapFlags::NO_EXIST) {
        // By a watched thread that started it, or left by an earlier use of the slot. Replacing an element
        // costs IPIs, so only where it must be.
        Err(error) if error.kind() == ErrorKind::AlreadyExists => match threads.lookup(&key, MapFlags::ANY) {
            Ok(Some(now)) if same_holder(&now, value) => Ok(()),
            Ok(_) => update(MapFlags::ANY),
            Err(error) => Err(error),
        },
        result => result,
    };
    match result {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound && !leader => Ok(false),
        Err(source) => Err(WatchError::Update { pid, tid, source }),
    }
}

/// Slot and generation, the part of `struct qc_thread` that says whose thread it is.
fn same_holder(one: &[u8], other: &[u8]) -> bool {
    let holder = offset_of!(abi::qc_thread, slot)..offset_of!(abi::qc_thread, generation) + size_of::<u32>();
    one.get(holder.clone()) == other.get(holder)
}

fn list_threads(pid: i32) -> Result<BTreeSet<i32>, WatchError> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| WatchError::Threads { pid, source })?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

pub(super) fn open_thread(pid: i32, tid: i32) -> Result<OwnedFd, Errno> {
    let flags = if tid == pid { PidfdFlags::empty() } else { PidfdFlags::from_bits_retain(PIDFD_THREAD) };
    pidfd_open(Pid::from_raw(tid).ok_or(Errno::SRCH)?, flags)
}

#[expect(unsafe_code, reason = "a plain C struct as its bytes, for the map update")]
fn bytes_of(thread: &abi::qc_thread) -> Vec<u8> {
    // SAFETY: record.h asserts that the struct has no padding, so all its bytes are initialized.
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(thread).cast::<u8>(), size_of::<abi::qc_thread>())
    }
    .to_vec()
}
