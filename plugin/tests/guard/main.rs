//! Steps 5 to 7 on this machine's kernel: the real shim, the real guard, and a program that behaves or does
//! not. Needs root, a bpffs and CPU 1; `make integration` runs it.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "all of this is a test, also what is not inside a #[test]"
)]

mod stand;
mod workload;
mod counts;
mod oracle;
mod signals;
mod arming;
mod leaving;
mod agent;
