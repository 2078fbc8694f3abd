//! Step 6: what arms a thread: the shim and the guard as the plan says, or, once it has settled, the agent.

pub mod plan;
pub mod settle;
