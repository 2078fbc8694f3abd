//! The lab: a machine in qemu whose kernel has what this machine's may lack: NO_HZ_FULL, isolated CPUs, BPF LSM.
//! One boot, one command, its output and its status. An emulator: count there, never measure time.

pub mod boot;
pub mod kernel;
pub mod machine;
pub mod node;
pub mod root;
pub mod suite;
