//! Step 8: what a guard's record tells, in types that cannot be misread.
//!
//! With blame.rs the only place that looks into a raw `qc_record`. Pure.

use std::time::Duration;

use crate::{
    guard::abi,
    policy::effective::Class,
    violation::{blame::Blame, text},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Happening {
    /// CLOCK_MONOTONIC.
    pub at: Duration,
    /// The user's instruction pointer.
    pub ip: u64,
    /// Its callers' return addresses, the nearest first: as far as frame pointers lead.
    pub callers: Vec<u64>,
    pub thread: Thread,
    pub story: Story,
    pub blame: Blame,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thread {
    pub comm: String,
    /// In the thread's own PID namespace: the number its program knows.
    pub tid: u32,
    /// In the initial PID namespace.
    pub host_tid: u32,
    pub host_tgid: u32,
    /// CLOCK_BOOTTIME at its start: tells it from a later thread of the same number.
    pub started: Duration,
    pub cpu: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Story {
    Entry(Entry),
    Armed,
    /// By the program's own prctl.
    Disarmed,
    ArmRefused(Refused),
    LeftCore,
    /// The interrupt told before had the thread switched out: `blame.came` took its core.
    CameOn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    Affinity,
    Locked,
    Argument,
    /// `arm.at: Settled`: the guard had no seat free to watch it from.
    Seat,
    /// Not yet: its core ticks.
    Tick,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub class: Class,
    pub cause: Cause,
    pub answer: Answer,
    /// OneShot: nothing more is a violation until the program arms again.
    pub disarmed: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cause {
    Syscall {
        number: u64,
        abi: SyscallAbi,
        args: [u64; 6],
        denied: bool,
    },
    PageFault {
        address: u64,
        code: u64,
    },
    Tick,
    Reschedule,
    CallFunction,
    IrqWork,
    DeviceIrq {
        irq: u64,
        name: String,
    },
    Switch {
        comm: String,
        tid: u64,
    },
    /// An interrupt by its vector; 0 where no tracepoint told it.
    Vector(u64),
    /// An exception that became this signal of the kernel's own.
    Trap {
        signal: u64,
    },
    Nmi,
    MachineCheck,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SyscallAbi {
    X64,
    /// `int 0x80`: the number is an i386 one.
    Compat,
    X32,
}

/// What the thread got for its entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The policy asks for no signal.
    Reported,
    /// It asks for one, its mode is Audit; the signal, if the record names it.
    Audit(u32),
    /// It asked for one, and its `enforceFor` is over.
    Expired(u32),
    Sent(u32),
    /// SIGSTOP to its process.
    Frozen,
    /// SIGKILL in place of this signal.
    Escalated(u32),
    /// The thread blocks it.
    Pending(u32),
    /// The thread's disposition is SIG_IGN.
    Ignored(u32),
    /// Tried again at the next entry.
    NotYet(u32),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownRecord {
    #[error("record of slot {slot} has kind {kind}, which this agent does not know")]
    Kind { slot: u32, kind: u16 },
    #[error("record of slot {slot} has class {class}, which this agent does not know")]
    Class { slot: u32, class: u8 },
    #[error("record of slot {slot} has refusal {refusal}, which this agent does not know")]
    Refusal { slot: u32, refusal: u64 },
}

impl TryFrom<&abi::qc_record> for Happening {
    type Error = UnknownRecord;

    fn try_from(record: &abi::qc_record) -> Result<Happening, UnknownRecord> {
        let story = match u32::from(record.kind) {
            abi::QC_KIND_ARMED => Story::Armed,
            abi::QC_KIND_DISARMED => Story::Disarmed,
            abi::QC_KIND_ARM_REFUSED => Story::ArmRefused(refused(record)?),
            abi::QC_KIND_LEFT_CORE => Story::LeftCore,
            abi::QC_KIND_CAME_ON => Story::CameOn,
            _ => Story::Entry(Entry {
                class: class(record)?,
                cause: cause(record)?,
                answer: answer(record),
                disarmed: has(record, abi::QC_F_DISARMED),
            }),
        };
        let n_callers = usize::try_from(record.n_frames).unwrap_or_default().min(record.frames.len());
        Ok(Happening {
            at: Duration::from_nanos(record.at_ns),
            ip: record.ip,
            callers: record.frames[..n_callers].to_vec(),
            thread: thread(record),
            story,
            blame: Blame::of(record),
        })
    }
}

fn has(record: &abi::qc_record, flag: u32) -> bool {
    record.flags & flag != 0
}

fn thread(record: &abi::qc_record) -> Thread {
    // A level beyond the array would be a guard's bug; the outermost number is then the honest answer.
    let own = usize::try_from(record.pid_level).ok().and_then(|level| record.pids.get(level).copied());
    Thread {
        comm: text::from_c(&record.comm),
        tid: own.unwrap_or(record.pids[0]),
        host_tid: record.pids[0],
        host_tgid: record.tgids[0],
        started: Duration::from_nanos(record.start_ns),
        cpu: record.cpu,
    }
}

fn class(record: &abi::qc_record) -> Result<Class, UnknownRecord> {
    match u32::from(record.class) {
        abi::QC_SYSCALL => Ok(Class::Syscall),
        abi::QC_EXCEPTION => Ok(Class::Exception),
        abi::QC_INTERRUPT => Ok(Class::Interrupt),
        abi::QC_MACHINE_CHECK => Ok(Class::MachineCheck),
        _ => Err(UnknownRecord::Class { slot: record.slot, class: record.class }),
    }
}

fn refused(record: &abi::qc_record) -> Result<Refused, UnknownRecord> {
    match record.detail {
        d if d == u64::from(abi::QC_REFUSED_AFFINITY) => Ok(Refused::Affinity),
        d if d == u64::from(abi::QC_REFUSED_LOCKED) => Ok(Refused::Locked),
        d if d == u64::from(abi::QC_REFUSED_ARGUMENT) => Ok(Refused::Argument),
        d if d == u64::from(abi::QC_REFUSED_SEAT) => Ok(Refused::Seat),
        d if d == u64::from(abi::QC_REFUSED_TICK) => Ok(Refused::Tick),
        refusal => Err(UnknownRecord::Refusal { slot: record.slot, refusal }),
    }
}

fn cause(record: &abi::qc_record) -> Result<Cause, UnknownRecord> {
    Ok(match u32::from(record.kind) {
        abi::QC_KIND_SYSCALL => Cause::Syscall {
            number: record.detail,
            abi: match () {
                () if has(record, abi::QC_F_COMPAT) => SyscallAbi::Compat,
                () if has(record, abi::QC_F_X32) => SyscallAbi::X32,
                () => SyscallAbi::X64,
            },
            args: record.args,
            denied: has(record, abi::QC_F_DENIED),
        },
        abi::QC_KIND_PAGE_FAULT => Cause::PageFault { address: record.detail, code: record.code },
        abi::QC_KIND_TICK => Cause::Tick,
        abi::QC_KIND_RESCHEDULE => Cause::Reschedule,
        abi::QC_KIND_CALL_FUNCTION => Cause::CallFunction,
        abi::QC_KIND_IRQ_WORK => Cause::IrqWork,
        abi::QC_KIND_DEVICE_IRQ => Cause::DeviceIrq { irq: record.detail, name: text::from_c(&record.who) },
        abi::QC_KIND_SWITCH => {
            Cause::Switch { comm: text::from_c(&record.came.comm), tid: u64::from(record.came.tid) }
        }
        abi::QC_KIND_VECTOR => Cause::Vector(record.detail),
        abi::QC_KIND_TRAP => Cause::Trap { signal: record.detail },
        abi::QC_KIND_NMI => Cause::Nmi,
        abi::QC_KIND_MCE => Cause::MachineCheck,
        _ => return Err(UnknownRecord::Kind { slot: record.slot, kind: record.kind }),
    })
}

fn answer(record: &abi::qc_record) -> Answer {
    let signal = record.signal;
    match () {
        () if has(record, abi::QC_F_AUDIT) => Answer::Audit(signal),
        () if has(record, abi::QC_F_EXPIRED) => Answer::Expired(signal),
        () if has(record, abi::QC_F_SEND_FAILED) => Answer::NotYet(signal),
        () if has(record, abi::QC_F_ESCALATED) => Answer::Escalated(signal),
        () if !has(record, abi::QC_F_SIGNALLED) => Answer::Reported,
        () if u32::from(record.action) == abi::QC_FREEZE => Answer::Frozen,
        () if has(record, abi::QC_F_BLOCKED) => Answer::Pending(signal),
        () if has(record, abi::QC_F_IGNORED) => Answer::Ignored(signal),
        () => Answer::Sent(signal),
    }
}
