//! `quietcore exec`: one command on a quiet core, without a cluster: like strace, for kernel entries.
//!
//! ```text
//!  args ─► Effective + CPU ─► private guard ─► child: affinity, SIGSTOP ─ watched ─ SIGCONT ─► shim ─► CMD
//!                                   └ records ─► tally (counts, stretches) ─► summary     (watched.rs)
//!                                           └──► print (symbols, one line each)
//! ```
//!
//! The same engine as the agent's: steps 5 to 8. Nothing of it outlives the command.

pub mod args;
pub mod child;
pub mod cpu;
mod print;
pub mod privileges;
pub mod run;
pub mod shield;
pub mod summary;
pub mod tally;
pub mod wait;
mod watched;
