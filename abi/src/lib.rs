//! The prctl by which a program asks for strictness, for Rust programs; `include/quietcore.h` is the same for C.
//!
//! `no_std`, integers only. A test in `tests/header.rs` holds the two together.
#![no_std]

/// The number of the prctl; unassigned in mainline, so an unwatched program gets EINVAL.
pub const PR_TASK_ISOLATION: u32 = 48;
pub const ENABLE: u32 = 1 << 0;
/// arg3 holds one signal for each class; a 0 byte keeps the policy's action for that class.
pub const CLASSES: u32 = 1 << 1;
/// arg3 is a signal: raise it now, arm nothing. Only for the shim.
pub const CHALLENGE: u32 = 1 << 2;
/// Arm at the next exec. Only for the shim.
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
