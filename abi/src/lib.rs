//! The prctl by which a thread asks that its kernel entries be violations, for Rust programs;
//! `include/quietcore.h` is the same for C, and has the whole description: what is a violation, what is
//! returned when.
//!
//! `no_std`, integers only: the call itself is the program's, by whatever crate it has for system calls.
//! Tests in `tests/` hold the two together.
//!
//! ```
//! use quietcore_abi::{CLASSES, ENABLE, PR_TASK_ISOLATION, signals};
//!
//! // prctl(option, arg2, arg3, 0, 0): a system call brings SIGUSR1 (10), an exception SIGUSR2 (12),
//! // an interrupt what the policy says. prctl(option, 0, 0, 0, 0) disarms.
//! let (option, arg2, arg3) = (PR_TASK_ISOLATION, ENABLE | CLASSES, signals(10, 12, 0));
//! assert_eq!((option, arg2, arg3), (48, 0b11, 0x0c0a));
//! ```
#![no_std]

/// The number of the prctl; unassigned in mainline, so an unwatched program gets EINVAL.
pub const PR_TASK_ISOLATION: u32 = 48;
/// Arms the calling thread, from the call's return on. All bits 0: disarms it.
pub const ENABLE: u32 = 1 << 0;
/// arg3 holds one signal for each class ([`signals`]); a 0 byte keeps the policy's action for that class.
/// Without it arg3 is 0, and [`set_sig`] chooses.
pub const CLASSES: u32 = 1 << 1;
/// arg3 is a signal: raise it now, arm nothing. Only for the shim; EPERM after its exec.
pub const CHALLENGE: u32 = 1 << 2;
/// Arm at the next exec. Only for the shim; EPERM after its exec.
pub const ON_EXEC: u32 = 1 << 3;

/// v16: one signal for all classes; 0 is SIGKILL.
#[must_use]
pub const fn set_sig(signal: u8) -> u32 {
    ((signal & 0x7f) as u32) << 8
}

/// arg3 with [`CLASSES`].
#[must_use]
pub const fn signals(syscall: u8, exception: u8, interrupt: u8) -> u64 {
    syscall as u64 | (exception as u64) << 8 | (interrupt as u64) << 16
}

/// Signals that are EINVAL for every class: they stop the process or are ignored by default (signal(7)), so
/// that nobody would notice a violation. CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG, WINCH of x86-64.
pub const BAD_SIGNALS: [u8; 8] = [17, 18, 19, 20, 21, 22, 23, 28];
