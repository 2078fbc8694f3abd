//! Steps 5 to 7 on this machine's kernel: the real shim, the real guard, and a program that behaves or does
//! not. Needs root, a bpffs and CPU 1; `make integration` runs it here, with the Tracepoint detector, and `make lab`
//! on a kernel where CPU 1 is in nohz_full, with the Edge detector.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test, also what is not inside a #[test]"
)]

use std::path::Path;

use crate::stand::programs::{entries, poll_loop_c, poll_loop_rust, tiny, workload};

mod stand;
mod workload;
mod counts;
mod oracle;
mod signals;
mod values;
mod examples;
mod arming;
mod leaving;
mod hostile;
mod published;
mod settled;
mod shared;
mod expiry;
mod budget;
mod freeze;
mod complexity;
mod agent;
mod blame;
#[cfg(feature = "lab")]
mod lab;
#[cfg(feature = "lab")]
mod check;
#[cfg(feature = "lab")]
mod quiet;

/// Where a compiler is; the lab gets them from there.
#[test]
fn its_programs_are_built() {
    for program in
        [workload(), entries(), tiny(), poll_loop_c(), poll_loop_rust(), env!("CARGO_BIN_EXE_quietcore")]
    {
        assert!(Path::new(program).exists());
        println!("program {program}");
    }
}
