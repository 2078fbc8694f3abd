//! Step 5, the decisions of the shim: pure, no system calls. `main.rs` does what they say.
#![cfg_attr(not(test), no_std)]
#![expect(clippy::result_large_err, reason = "a failure is made once, and there is no allocator to box it")]

pub mod plan;
pub mod filter;
pub mod path;
pub mod failure;
