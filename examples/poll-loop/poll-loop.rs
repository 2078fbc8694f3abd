// SPDX-License-Identifier: Apache-2.0
//! poll-loop.c in Rust: it polls, arms itself by the crate quietcore-abi, has a handler for each class, and prints
//! what it was told. Build: cargo build --package quietcore-abi --example poll-loop
//!
//!     poll-loop [syscall|exception|none] [SECONDS]    break the promise in that way, after polling that long
#![expect(unsafe_code, reason = "a signal handler, and what the kernel gives it")]
#![expect(clippy::print_stdout, reason = "it tells its story")]

use std::{
    env,
    error::Error,
    ffi::{c_int, c_void},
    hint,
    sync::atomic::{AtomicI32, AtomicU8, AtomicU32, Ordering::Relaxed},
};

use nix::{
    libc::siginfo_t,
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::getppid,
};
use quietcore_abi::{Error::NotReady, Signals, Violation, arm, disarm, value};

static TOLD: AtomicI32 = AtomicI32::new(0);
static TOLD_VALUE: AtomicU32 = AtomicU32::new(0);

/// Runs before the thread's next instruction. It stores, and leaves the rest to when the thread is disarmed.
extern "C" fn on_entry(signal: c_int, info: *mut siginfo_t, _context: *mut c_void) {
    // SAFETY: installed with SA_SIGINFO, so the kernel gives it a siginfo_t.
    TOLD_VALUE.store(unsafe { value(info.cast_const().cast()) }, Relaxed);
    TOLD.store(signal, Relaxed);
}

fn handle(signal: Signal) -> nix::Result<()> {
    let action = SigAction::new(SigHandler::SigAction(on_entry), SaFlags::empty(), SigSet::empty());
    // SAFETY: on_entry is async-signal-safe: it stores to atomics. nix adds SA_SIGINFO for such a handler.
    unsafe { sigaction(signal, &action) }.map(drop)
}

/// Its middle is a page that nothing else lies on, and that is not mapped in before the first store to it.
static UNTOUCHED: [AtomicU8; 4 << 12] = [const { AtomicU8::new(0) }; 4 << 12];

/// What a forwarding loop does all day; here nothing ever arrives.
#[inline(never)]
fn fwd_loop(how: &str, polls: u64) {
    for _ in 0..polls {
        if TOLD.load(Relaxed) != 0 {
            break;
        }
        hint::spin_loop();
    }
    match how {
        // as a library hides one
        "syscall" => drop(getppid()),
        "exception" => UNTOUCHED[2 << 12].store(1, Relaxed),
        _ => {}
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let how = env::args().nth(1).unwrap_or_else(|| "syscall".into());
    let seconds: u64 = env::args().nth(2).map_or(Ok(1), |seconds| seconds.parse())?;
    let (syscall, exception) = (Signal::SIGUSR1, Signal::SIGUSR2);
    handle(syscall)?;
    handle(exception)?;
    fwd_loop("syscall", 1000); // every page of code it needs is there now
    println!("arming");
    let number = |signal: Signal| u8::try_from(signal as i32);
    let signals = Signals { syscall: number(syscall)?, exception: number(exception)?, interrupt: 0 };
    // NotReady: the core is not quiet yet.
    while let Err(error) = arm(signals) {
        if error != NotReady {
            return Err(error.into());
        }
    }
    fwd_loop(&how, seconds * 20_000_000);
    disarm()?;
    let told = TOLD.load(Relaxed);
    // Before Linux 6.13 the signal's number is all that is known.
    match (told, Violation::from_value(TOLD_VALUE.load(Relaxed))) {
        (0, _) => println!("no entry"),
        (_, Some(Violation { class, cause })) => println!("{class}: {cause}: this thread entered the kernel"),
        (told, None) => println!("{}: this thread entered the kernel", Signal::try_from(told)?),
    }
    Ok(())
}
