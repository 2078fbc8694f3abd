//! Step 8: which file of a process holds an address.
//!
//! Opens files only as `O_PATH`: nothing here calls into a file system that the container may have made up
//! itself (FUSE would let it hang the agent). The child process opens for reading, under its deadline.
//!
//! Needs CAP_SYS_PTRACE for /proc/PID/maps of another user's process and CAP_CHECKPOINT_RESTORE for
//! /proc/PID/map_files (proc_map_files(5)); without the latter the file is looked up below /proc/PID/root.

use std::{
    io::{self, BufRead, BufReader, Read},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};

use crate::violation::symbolize::{maps::Mapping, place::NoModule};

/// A process with the kernel's default vm.max_map_count has at most 65,530 lines of about 100 bytes.
const MAPS_BYTES: u64 = 8 << 20;
/// Libraries of one process that we keep; a program with more is symbolized as far as these go.
const MAPPINGS: usize = 256;

/// The executable mappings of a process, at one moment.
#[derive(Debug)]
pub struct Snapshot {
    proc_dir: PathBuf,
    mappings: Vec<Mapping>,
}

/// How the child process gets at a mapped file.
#[derive(Debug, Clone)]
pub struct Module {
    pub file: ModuleFile,
    pub id: FileId,
}

#[derive(Debug, Clone)]
pub enum ModuleFile {
    /// The file itself.
    Mapped(Arc<OwnedFd>),
    /// The container's root, and the path in it: to be resolved without leaving the root.
    InRoot(Arc<OwnedFd>, PathBuf),
}

/// Tells one version of a file from another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileId {
    device: String,
    inode: u64,
    modified: Option<(i64, u32)>,
}

#[cfg(test)]
impl FileId {
    pub(crate) fn for_test(inode: u64) -> FileId {
        FileId { device: "fd:00".into(), inode, modified: None }
    }
}

impl Snapshot {
    /// `started` is the thread's start on CLOCK_BOOTTIME: its number may be somebody else's by now.
    pub fn take(proc_root: &Path, pid: i32, started: Duration) -> Result<Snapshot, NoModule> {
        let proc_dir = proc_root.join(pid.to_string());
        is_still(&proc_dir, started)?;
        let mappings = read_maps(&proc_dir).map_err(|e| no_module(&e))?;
        // Once more: the number may have changed hands while we read.
        is_still(&proc_dir, started)?;
        if mappings.is_empty() {
            // A zombie's map is empty.
            return Err(NoModule::Ended);
        }
        Ok(Snapshot { proc_dir, mappings })
    }

    pub fn find(&self, ip: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.contains(ip))
    }

    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// `None`: no file that may be opened.
    pub fn open(&self, mapping: &Mapping) -> Option<Module> {
        let path = mapping.path.as_ref()?;
        let id = |modified| FileId { device: mapping.device.clone(), inode: mapping.inode, modified };
        let entry = self.proc_dir.join(format!("map_files/{:x}-{:x}", mapping.start, mapping.end));
        if let Ok(file) = open(&entry, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) {
            let modified = modified(&file);
            return Some(Module { file: ModuleFile::Mapped(Arc::new(file)), id: id(modified) });
        }
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = open(self.proc_dir.join("root"), flags, Mode::empty()).ok()?;
        Some(Module { file: ModuleFile::InRoot(Arc::new(root), path.clone()), id: id(None) })
    }
}

fn read_maps(proc_dir: &Path) -> io::Result<Vec<Mapping>> {
    let maps = std::fs::File::open(proc_dir.join("maps"))?;
    let mut mappings = Vec::new();
    for line in BufReader::new(maps.take(MAPS_BYTES)).split(b'\n') {
        if let Some(mapping) = Mapping::parse(&line?) {
            mappings.push(mapping);
        }
        if mappings.len() == MAPPINGS {
            break;
        }
    }
    Ok(mappings)
}

/// Without asking the file system: one in user space may not answer.
fn modified(file: &OwnedFd) -> Option<(i64, u32)> {
    let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
    let stat = statx(file, "", flags, StatxFlags::MTIME).ok()?;
    Some((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec))
}

fn is_still(proc_dir: &Path, started: Duration) -> Result<(), NoModule> {
    let stat = std::fs::read(proc_dir.join("stat")).map_err(|e| no_module(&e))?;
    let found = start_ticks(&stat).ok_or(NoModule::NotReadable)?;
    if found == ticks(started) { Ok(()) } else { Err(NoModule::Ended) }
}

fn no_module(error: &io::Error) -> NoModule {
    match error.raw_os_error() {
        Some(nix::libc::ENOENT | nix::libc::ESRCH) => NoModule::Ended,
        _ => NoModule::NotReadable,
    }
}

/// Field 22 of proc_pid_stat(5), which is counted from after the name because a name may hold anything.
fn start_ticks(stat: &[u8]) -> Option<u64> {
    let after_name = &stat[stat.iter().rposition(|b| *b == b')')? + 1..];
    std::str::from_utf8(after_name).ok()?.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// USER_HZ is 100 on x86-64, whatever the kernel's own tick.
fn ticks(started: Duration) -> u64 {
    started.as_secs() * 100 + u64::from(started.subsec_millis() / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_start_time() {
        let stat = b"7 (a) b) 0 0) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21";
        assert_eq!(start_ticks(stat), Some(4242));
        assert_eq!(start_ticks(b"7 (a) S"), None);
        assert_eq!(start_ticks(b""), None);
    }

    #[test]
    fn start_times_are_compared_in_clock_ticks() {
        assert_eq!(ticks(Duration::from_nanos(42_429_999_999)), 4242);
    }

    #[test]
    fn a_reused_number_is_another_process() {
        let us = i32::try_from(std::process::id()).unwrap();
        let taken = Snapshot::take(Path::new("/proc"), us, Duration::from_secs(1));
        assert_eq!(taken.err(), Some(NoModule::Ended));
    }
}
