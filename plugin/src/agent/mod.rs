//! Wiring: builds the steps, starts their tasks, stops them in reverse order.

pub mod disk;
pub mod housekeeping;
pub mod shim_file;
