//! Step 5, the decisions of the shim: pure, no system calls. `main.rs` does what they say.
#![cfg_attr(not(test), no_std)]

pub mod plan;
pub mod filter;
pub mod path;
pub mod failure;
