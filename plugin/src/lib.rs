//! quietcore's node agent, in the order of a pod's way from its annotation to the Event on it.
//!
//! ```text
//!  1 schema ── crd/ (the API server refuses what is malformed)
//!  2 policy ── annotations + policies ─────────► Effective
//!  3 cores ─── device ids + ledger ────────────► Grant
//!  4 nri ───── CreateContainer ────────────────► shim as argv[0], cpuset, mounts
//!  4b  └────── StartContainer ─────────────────► what we asked for? then watch the pid
//!  5 shim ──── shim/ (inside the container: checks, prctl, exec)
//!  6 arm ───── Effective + Grant ──────────────► the guard's slot and the shim's plan
//!  7 guard ─── kernel entry ───────────────────► Record
//!  8 violation  Record ────────────────────────► symbolized, rate-limited Violation
//!  9 report ── Violation ──────────────────────► Event, metric, log
//! ```
//!
//! `agent` wires the steps together and is the only place that knows them all; `exec` does so for one command
//! without a cluster, `check` says what a machine offers, and `node` what to boot it with.

pub mod args;
pub mod policy;
pub mod cores;
pub mod quiet;
pub mod coexist;
pub mod nri;
pub mod arm;
pub mod guard;
pub mod violation;
pub mod report;
pub mod metrics;
pub mod agent;
pub mod exec;
pub mod check;
pub mod node;
