//! What the records of a run add up to: causes, and how long armed threads were left alone. Pure.
//!
//! A stretch goes from one recorded entry of an armed thread to the next, or to where it was disarmed. Where its
//! end is not known (a thread other than the first that ends while armed) it is counted, never guessed.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use crate::{
    policy::{effective::Class, syscalls},
    violation::{
        happening::{Cause, Happening, Story, SyscallAbi},
        text::printable,
    },
};

/// A program can make as many different causes as there are numbers; these are told apart.
const CAUSES: usize = 256;
/// A kernel's comm has 15 characters.
const NAME_MAX: usize = 16;
const EXECVE: u64 = 59;
const EXECVEAT: u64 = 322;

#[derive(Debug, Default)]
pub struct Tally {
    causes: HashMap<Key, (String, u64)>,
    armed: HashMap<u32, Since>,
    /// The command's first thread, by its number in the initial PID namespace.
    main: Option<u32>,
    seen: Seen,
}

/// The class, which cause, and its number.
type Key = (usize, u8, u64);

#[derive(Debug, Clone, Copy)]
struct Since {
    at: Duration,
    /// Of the thread: tells it from a later one of the same number.
    started: Duration,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Seen {
    pub armings: u64,
    pub refused: u64,
    pub left_core: u64,
    /// Entries whose action is Report or above.
    pub violations: u64,
    /// By class: cause and number, the most frequent first.
    pub causes: [Vec<(String, u64)>; 4],
    pub stretches: Stretches,
    pub unknown_stretches: u64,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Stretches {
    pub total: Duration,
    pub longest: Duration,
    /// By the power of two of microseconds that it is shorter than: how many, and how long together.
    pub by_length: BTreeMap<u32, (u64, Duration)>,
}

impl Stretches {
    fn add(&mut self, length: Duration) {
        let micros = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        let (count, total) = self.by_length.entry(u64::BITS - micros.leading_zeros()).or_default();
        *count += 1;
        *total += length;
        self.total += length;
        self.longest = self.longest.max(length);
    }
}

impl Tally {
    /// `is_main`: of the command's first thread. `reported`: an entry whose action is Report or above.
    pub fn note(&mut self, happening: &Happening, is_main: bool, reported: bool) {
        let tid = happening.thread.host_tid;
        if is_main {
            self.main = Some(tid);
        }
        match &happening.story {
            Story::Armed => {
                self.seen.armings += 1;
                self.stretch_ends(happening);
                self.stretch_begins(happening);
            }
            Story::Disarmed => self.stretch_ends(happening),
            Story::LeftCore => {
                self.seen.left_core += 1;
                self.stretch_ends(happening);
            }
            Story::ArmRefused(_) => self.seen.refused += 1,
            // Part of the entry before.
            Story::CameOn => {}
            Story::Entry(entry) => {
                self.seen.violations += u64::from(reported);
                self.count(entry.class, &entry.cause);
                // Machine checks are a CPU's, not a thread's.
                if tid != 0 {
                    self.stretch_ends(happening);
                    if !entry.disarmed && !is_exec(&entry.cause) {
                        self.stretch_begins(happening);
                    }
                }
            }
        }
    }

    /// `at`: when the command's first process was seen to have ended, on the records' clock.
    pub fn end(mut self, at: Duration) -> Seen {
        for (tid, since) in &self.armed {
            if Some(*tid) == self.main {
                self.seen.stretches.add(at.saturating_sub(since.at));
            } else {
                self.seen.unknown_stretches += 1;
            }
        }
        let mut by_class: [BTreeMap<String, u64>; 4] = Default::default();
        for ((class, ..), (label, count)) in self.causes {
            *by_class[class].entry(label).or_default() += count;
        }
        for (causes, counted) in self.seen.causes.iter_mut().zip(by_class) {
            *causes = counted.into_iter().collect();
            causes.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        }
        self.seen
    }

    fn count(&mut self, class: Class, cause: &Cause) {
        let (kind, number) = kind(cause);
        let mut key = (class.index(), kind, number);
        if CAUSES <= self.causes.len() && !self.causes.contains_key(&key) {
            key = (class.index(), u8::MAX, 0);
        }
        let words = || if key.1 == u8::MAX { "others".to_owned() } else { label(cause) };
        self.causes.entry(key).or_insert_with(|| (words(), 0)).1 += 1;
    }

    fn stretch_begins(&mut self, happening: &Happening) {
        let since = Since { at: happening.at, started: happening.thread.started };
        self.armed.insert(happening.thread.host_tid, since);
    }

    fn stretch_ends(&mut self, happening: &Happening) {
        match self.armed.remove(&happening.thread.host_tid) {
            Some(since) if since.started == happening.thread.started => {
                self.seen.stretches.add(happening.at.saturating_sub(since.at));
            }
            // Its thread ended, and its number has a new one.
            Some(_) => self.seen.unknown_stretches += 1,
            None => {}
        }
    }
}

/// The new image is not armed. Where the exec failed the thread still is, and its next record says so.
fn is_exec(cause: &Cause) -> bool {
    matches!(cause, Cause::Syscall { number: EXECVE | EXECVEAT, abi: SyscallAbi::X64, .. })
}

fn kind(cause: &Cause) -> (u8, u64) {
    match cause {
        Cause::Syscall { number, abi: SyscallAbi::X64, .. } => (0, *number),
        Cause::Syscall { number, abi: SyscallAbi::Compat, .. } => (1, *number),
        Cause::Syscall { number, abi: SyscallAbi::X32, .. } => (2, *number),
        Cause::PageFault { .. } => (3, 0),
        Cause::Tick => (4, 0),
        Cause::Reschedule => (5, 0),
        Cause::CallFunction => (6, 0),
        Cause::IrqWork => (7, 0),
        Cause::DeviceIrq { irq, .. } => (8, *irq),
        Cause::Switch { tid, .. } => (9, *tid),
        Cause::Vector(vector) => (10, *vector),
        Cause::Trap { signal } => (11, *signal),
        Cause::Nmi => (12, 0),
        Cause::MachineCheck => (13, 0),
    }
}

/// In the words of `violation::describe`, without what differs from one entry to the next.
pub(crate) fn label(cause: &Cause) -> String {
    match cause {
        Cause::Syscall { number, abi: SyscallAbi::X64, .. } => match syscalls::name(*number) {
            Some(name) => format!("{name}(2)"),
            None => format!("system call {number}"),
        },
        Cause::Syscall { number, abi: SyscallAbi::Compat, .. } => {
            format!("{number} of the 32-bit table (int 0x80)")
        }
        Cause::Syscall { number, abi: SyscallAbi::X32, .. } => format!("{number} by the x32 entry"),
        Cause::PageFault { .. } => "page fault".to_owned(),
        Cause::Tick => "local timer tick".to_owned(),
        Cause::Reschedule => "reschedule IPI".to_owned(),
        Cause::CallFunction => "function-call IPI".to_owned(),
        Cause::IrqWork => "irq_work IPI".to_owned(),
        Cause::DeviceIrq { irq, name } => format!("irq {irq} ({})", printable(name, NAME_MAX)),
        Cause::Switch { comm, .. } => format!("switched out by {}", printable(comm, NAME_MAX)),
        Cause::Vector(0) => "unknown vector".to_owned(),
        Cause::Vector(vector) => format!("vector {vector:#x}"),
        Cause::Trap { signal } => {
            let number = u32::try_from(*signal).unwrap_or_default();
            format!("trap ({})", crate::policy::signals::name(number))
        }
        Cause::Nmi => "NMI".to_owned(),
        Cause::MachineCheck => "MCE".to_owned(),
    }
}

#[cfg(test)]
#[path = "tally_tests.rs"]
mod tests;
