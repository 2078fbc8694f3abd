//! Step 4: containerd and CRI-O, through NRI.

pub mod adjust;
pub mod verify;
