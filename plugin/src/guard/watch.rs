//! Step 7: puts the threads of a waiting container into the guard's task storage, by pidfd.
//!
//! Only at StartContainer, for the runtime's init, which sleeps: a plain update of a running thread's
//! element would later send IPIs to cores in user mode (RCU tasks trace).

use std::{
    collections::BTreeSet,
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{abi, slots::Slot};

/// pidfd_open(2), Linux 6.9: a pidfd of a thread that is not its group's leader.
const PIDFD_THREAD: u32 = 0o200;

#[derive(Debug, thiserror::Error)]
pub enum WatchError {
    #[error("list the threads of process {pid}")]
    Threads { pid: i32, source: io::Error },
    #[error("open thread {tid} of process {pid}")]
    Open { pid: i32, tid: i32, source: io::Error },
    #[error("watch thread {tid} of process {pid}")]
    Update { pid: i32, tid: i32, source: libbpf_rs::Error },
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
        ..abi::qc_thread::default()
    });
    let mut watched = BTreeSet::new();
    for _ in 0..16 {
        let tids = list_threads(pid)?;
        let new: Vec<i32> = tids.difference(&watched).copied().collect();
        if new.is_empty() {
            return Ok(watched.len());
        }
        for tid in new {
            match open_thread(pid, tid) {
                Ok(pidfd) => {
                    let key = pidfd.as_raw_fd().to_ne_bytes();
                    threads.update(&key, &value, MapFlags::ANY).map_err(|source| WatchError::Update {
                        pid,
                        tid,
                        source,
                    })?;
                }
                // Gone since it was listed.
                Err(error) if error.raw_os_error() == Some(nix::libc::ESRCH) && tid != pid => {}
                Err(source) => return Err(WatchError::Open { pid, tid, source }),
            }
            watched.insert(tid);
        }
    }
    Err(WatchError::Unstable { pid })
}

fn list_threads(pid: i32) -> Result<BTreeSet<i32>, WatchError> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).and_then(Iterator::collect::<io::Result<Vec<_>>>);
    let entries = entries.map_err(|source| WatchError::Threads { pid, source })?;
    Ok(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn open_thread(pid: i32, tid: i32) -> io::Result<OwnedFd> {
    let flags = if tid == pid { PidfdFlags::empty() } else { PidfdFlags::from_bits_retain(PIDFD_THREAD) };
    let tid = Pid::from_raw(tid).ok_or_else(|| io::Error::from_raw_os_error(nix::libc::ESRCH))?;
    Ok(pidfd_open(tid, flags)?)
}

#[expect(unsafe_code, reason = "a plain C struct as its bytes, for the map update")]
fn bytes_of(thread: &abi::qc_thread) -> Vec<u8> {
    // SAFETY: record.h asserts that the struct has no padding, so all its bytes are initialized.
    unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(thread).cast::<u8>(), size_of::<abi::qc_thread>())
    }
    .to_vec()
}
