//! Step 4: containerd and CRI-O, through NRI.
//!
//! ```text
//! socket ── frame ── ttrpc ── session ── dispatch ──► Handler (the agent's gate)
//!                                                     adjust: what we ask for    verify: did we get it?
//! ```

pub mod adjust;
pub mod dispatch;
pub mod frame;
pub mod handler;
pub mod session;
pub mod ttrpc;
pub mod verify;
pub mod version;
