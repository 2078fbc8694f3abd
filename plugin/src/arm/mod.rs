//! Step 6: what arms a thread. The agent only says how; the shim and the guard do it.

pub mod plan;
