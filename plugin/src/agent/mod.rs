//! Wiring: builds the steps, starts their tasks, stops them in reverse order.

pub mod run;
mod start;
pub mod housekeeping;
pub mod shim_file;
pub mod cpus_file;
pub mod disk;
pub mod gate;
mod synchronize;
mod timed;
pub mod containers;
pub mod ends;
pub mod health;
pub mod quieting;
pub mod records;
mod strictness;
pub mod visitors;
pub mod changes;
pub mod node_object;
mod node_quiet;
mod findings;
mod wish;
pub mod release;
pub mod resume;
pub mod http;
