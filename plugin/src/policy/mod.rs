//! Step 2: from annotations and policies to the `Effective` policy of one container.

pub mod accept;
pub mod dir;
pub mod effective;
pub mod resolve;
pub mod signals;
pub mod store;
pub mod syscalls;
pub mod watch;
