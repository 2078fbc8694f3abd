//! Step 3: which CPUs a container gets.

pub mod set;
