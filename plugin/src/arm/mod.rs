//! Step 6: what arms a thread: the shim's plan and the slot of the guard.
