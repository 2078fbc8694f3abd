//! Steps 2 to 4b where they meet: what the agent's gate answers for runtimes of every age, what becomes of cores from a
//! container's creation to its end, and what a (re)connect brings; with the real guard behind it. Needs root and a
//! bpffs, as the guard does.
#![allow(clippy::unwrap_used, reason = "a test that cannot set up its world fails")]

mod world;
mod answers;
mod cores;
mod synchronize;
