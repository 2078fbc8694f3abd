//! The prctl by which a thread asks that its kernel entries be violations, for Rust programs;
//! `include/quietcore.h` is the same for C, and its man page: what is a violation, what is returned when.
//!
//! `no_std`, without dependencies, and nothing here allocates: all of it may be called in a signal handler. Of
//! other architectures than x86-64 and aarch64 there are the numbers alone.
//!
//! ```no_run
//! use quietcore_abi::{Signals, arm, disarm};
//!
//! # fn poll_the_ring() -> bool { true }
//! # let usr1 = 10;
//! // After a handler was installed, and all memory was mapped in: mlockall(2).
//! arm(Signals { syscall: usr1, exception: usr1, interrupt: 0 })?;
//! while poll_the_ring() {}
//! disarm()?;
//! # Ok::<(), quietcore_abi::Error>(())
//! ```
//!
//! The handler stores the number that the signal carries; what it says is read when the thread is disarmed:
//!
//! ```
//! use std::ffi::{c_int, c_void};
//! use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
//! use quietcore_abi::{Cause, Class, Violation, value};
//!
//! static TOLD: AtomicU32 = AtomicU32::new(0);
//!
//! extern "C" fn on_violation(_signal: c_int, info: *const c_void, _context: *const c_void) {
//!     // SAFETY: the kernel gives a handler that was installed with SA_SIGINFO a whole siginfo_t.
//!     TOLD.store(unsafe { value(info) }, Relaxed);
//! }
//!
//! # TOLD.store(0xd101_0001, Relaxed);
//! if let Some(violation) = Violation::from_value(TOLD.load(Relaxed)) {
//!     assert_eq!((violation.class, violation.cause), (Class::Syscall, Cause::Syscall(Some(1))));
//!     assert_eq!(violation.to_string(), "system call 1");
//! }
//! ```
#![no_std]

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod arm;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod sys;
mod violation;

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use arm::{Error, Signals, arm, disarm};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub use sys::value;
pub use violation::{Cause, Class, Violation};

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
