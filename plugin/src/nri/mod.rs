//! Step 4: containerd and CRI-O, through NRI.
//!
//! ```text
//! socket ── mux (frame, ttrpc) ── session ── worker ── dispatch ──► Handler (the agent's gate)
//!                                    │                              adjust: what we ask for
//!                                    └─ no answer in time: a no     verify: did we get it?
//! ```

pub mod session;
pub mod frame;
pub mod ttrpc;
pub mod mux;
pub mod version;
pub mod handler;
pub mod dispatch;
pub mod worker;
pub mod adjust;
pub mod verify;
pub mod validate;
