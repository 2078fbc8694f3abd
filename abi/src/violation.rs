//! What the signal of a violation says: a tag, the class, the cause and its detail in 32 bits. Pure.

use core::fmt;

const TAG: u32 = 0xd;
const SI_KERNEL: i32 = 0x80;
/// A detail that does not fit.
const NONE: u16 = 0xffff;
const FAULT_PROTECTION: u16 = 0x1;
const FAULT_WRITE: u16 = 0x2;
const FAULT_FETCH: u16 = 0x10;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Violation {
    pub class: Class,
    pub cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    Syscall,
    Exception,
    Interrupt,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Cause {
    /// One of several that came at once, or one that this version of the crate does not know.
    Unknown,
    /// Its number on this architecture; `None`: none that a system call has, such as -1.
    Syscall(Option<u16>),
    /// Its number on i386: `int $0x80`.
    Syscall32(Option<u16>),
    PageFault {
        write: bool,
        /// Of an instruction.
        fetch: bool,
        /// The page is there, and must not be used so; else it is not mapped in.
        protection: bool,
    },
    /// Another exception: the signal that the kernel makes of it, SIGILL for example; 0: it was fixed up
    /// silently.
    Trap(u16),
    /// The local timer's interrupt; which of its many timers, the Event does not know either.
    Tick,
    /// Another CPU wants this one to look for another task.
    Reschedule,
    /// Another CPU has this one run a kernel function, as munmap(2), mprotect(2) and membarrier(2) of another
    /// thread do.
    CallFunction,
    /// Work that this CPU put off.
    IrqWork,
    /// The interrupt's number, as in /proc/interrupts.
    Device(Option<u16>),
    /// Another interrupt's vector; 0: not known.
    Vector(u16),
    /// Another task took the core, and by which interrupt was not seen.
    Switch,
}

impl Violation {
    /// `None` of any number that no violation's signal carries, and so of 0.
    #[must_use]
    pub const fn from_value(value: u32) -> Option<Violation> {
        if value >> 28 != TAG {
            return None;
        }
        let class = match value >> 24 & 0xf {
            1 => Class::Syscall,
            2 => Class::Exception,
            3 => Class::Interrupt,
            _ => return None,
        };
        let [_, cause, high, low] = value.to_be_bytes();
        let detail = u16::from_be_bytes([high, low]);
        Some(Violation { class, cause: Cause::new(cause, detail) })
    }
}

impl Cause {
    const fn new(cause: u8, detail: u16) -> Cause {
        let number = if detail == NONE { None } else { Some(detail) };
        match cause {
            1 => Cause::Syscall(number),
            2 => Cause::Syscall32(number),
            3 => Cause::PageFault {
                write: detail & FAULT_WRITE != 0,
                fetch: detail & FAULT_FETCH != 0,
                protection: detail & FAULT_PROTECTION != 0,
            },
            4 => Cause::Trap(detail),
            5 => Cause::Tick,
            6 => Cause::Reschedule,
            7 => Cause::CallFunction,
            8 => Cause::IrqWork,
            9 => Cause::Device(number),
            10 => Cause::Vector(detail),
            11 => Cause::Switch,
            _ => Cause::Unknown,
        }
    }
}

/// Of a `siginfo_t`. No other process can send SI_KERNEL (rt_sigqueueinfo(2)).
#[inline]
pub(crate) fn value_of(code: i32, value: u64) -> u32 {
    match u32::try_from(value) {
        Ok(value) if code == SI_KERNEL && value >> 28 == TAG => value,
        _ => 0,
    }
}

impl fmt::Display for Class {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(match self {
            Class::Syscall => "syscall",
            Class::Exception => "exception",
            Class::Interrupt => "interrupt",
        })
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.cause {
            Cause::Unknown => write!(to, "{} of unknown cause", self.class),
            cause => cause.fmt(to),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Cause::Unknown => to.write_str("unknown"),
            Cause::Syscall(Some(number)) => write!(to, "system call {number}"),
            Cause::Syscall(None) => to.write_str("system call that does not exist"),
            Cause::Syscall32(Some(number)) => write!(to, "32-bit system call {number}"),
            Cause::Syscall32(None) => to.write_str("32-bit system call that does not exist"),
            Cause::PageFault { write, fetch, protection } => {
                let how = if fetch {
                    "executing"
                } else if write {
                    "writing"
                } else {
                    "reading"
                };
                let why = if protection { "a protected page" } else { "a page that is not mapped in" };
                write!(to, "page fault {how} {why}")
            }
            Cause::Trap(0) => to.write_str("exception that the kernel fixed up"),
            Cause::Trap(signal) => write!(to, "exception that became signal {signal}"),
            Cause::Tick => to.write_str("timer tick"),
            Cause::Reschedule => to.write_str("reschedule IPI"),
            Cause::CallFunction => to.write_str("function call IPI"),
            Cause::IrqWork => to.write_str("irq_work"),
            Cause::Device(Some(irq)) => write!(to, "device interrupt {irq}"),
            Cause::Device(None) => to.write_str("device interrupt"),
            Cause::Vector(0) => to.write_str("interrupt of unknown vector"),
            Cause::Vector(vector) => write!(to, "interrupt of vector {vector}"),
            Cause::Switch => to.write_str("switched out"),
        }
    }
}
