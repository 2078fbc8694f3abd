//! Step 4: containerd and CRI-O, through NRI.
//!
//! ```text
//! socket ── frame ── ttrpc ── session ── dispatch ──► Handler (the agent's gate)
//!                                                     adjust: what we ask for    verify: did we get it?
//! ```

pub mod frame;
pub mod ttrpc;
pub mod version;
pub mod handler;
pub mod dispatch;
pub mod session;
pub mod adjust;
pub mod verify;
