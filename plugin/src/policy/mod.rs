//! Step 2: from annotations and policies to the `Effective` policy of one container.

pub mod effective;
pub mod resolve;
pub mod accept;
pub mod signals;
pub mod syscalls;
pub mod memory;
pub mod store;
pub mod watch;
pub mod status;
pub mod dir;
