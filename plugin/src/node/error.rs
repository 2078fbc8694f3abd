//! What can go wrong, in words that tell what to do.

use std::{
    io,
    path::{Path, PathBuf},
};

use crate::{
    coexist::alone::AloneError,
    cores::{set::CpuSet, store::StoreError, topology::TopologyError},
    guard::{frozen::FrozenError, load::GuardError},
    quiet::journal::JournalError,
};

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error(
        "--isolate {isolate}: CPU 0 boots the machine and keeps its time, the kernel forces it out of nohz_full: \
         leave out its core"
    )]
    BootCpu { isolate: CpuSet },
    #[error(
        "--isolate {isolate}: CPU {left_out} shares a core with CPU {cpu} and would disturb it: give whole cores"
    )]
    HalfACore { isolate: CpuSet, cpu: u32, left_out: CpuSet },
    #[error("--system {system}: CPU {others} is not among the housekeeping CPUs {housekeeping}")]
    NotHousekeeping { system: CpuSet, others: CpuSet, housekeeping: CpuSet },
    #[error("read {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "write {path}: make its folder writable, or set the parameters with the tool of this system's image"
    )]
    Write { path: PathBuf, source: io::Error },
    #[error(
        "{path} sets {value}, which quietcore would set to {wanted}: remove it there, or plan with its CPUs"
    )]
    SetOtherwise { path: PathBuf, value: String, wanted: String },
    #[error("{path} was changed since quietcore wrote it: look at it, delete it, and run this again")]
    ChangedSince { path: PathBuf },
    #[error(
        "no boot loader that quietcore knows (GRUB with /etc/default/grub.d, grubby, systemd-boot with \
         kernel-install): {hint}"
    )]
    UnknownLoader { hint: String },
    #[error(
        "kernel-install has no kernel to add: no /lib/modules/RELEASE has its image beside it or in /boot"
    )]
    NoKernel,
    #[error("start {program}")]
    Start { program: String, source: io::Error },
    #[error("{command} failed ({status}), it said:\n{output}")]
    Tool { command: String, status: String, output: String },
    #[error(
        "{command} succeeded, but {menu} does not have {parameters}: does a later file in /etc/default/grub.d set \
         GRUB_CMDLINE_LINUX without keeping what it was?"
    )]
    NotInMenu { command: String, menu: PathBuf, parameters: String },
    #[error("{0} is gone: install it again, so that the boot entries can be written")]
    ToolGone(&'static str),
    #[error(
        "{path} is damaged ({damage}): move it away, look for quietcore's parameters in the boot loader's \
         configuration, and run `quietcore node apply` again"
    )]
    DamagedState { path: PathBuf, damage: String },
    #[error("{path} is of version {found}, this quietcore knows {known}: use the newer quietcore")]
    NewerState { path: PathBuf, found: u32, known: u32 },
    #[error(
        "the boot loader was {before} when {path} was written and is {now} today: run `quietcore node restore` first"
    )]
    OtherLoader { path: PathBuf, before: &'static str, now: &'static str },
    #[error("not applied, everything is as before")]
    Undone { source: Box<NodeError> },
    #[error("not applied, and it could not be undone ({undo}): repair that and run `quietcore node restore`")]
    HalfDone { undo: String, source: Box<NodeError> },
    #[error("not restored yet: repair this and run `quietcore node restore` again")]
    NotRestored { source: Box<NodeError> },
    #[error(
        "quietcore's agent (process {pid}) serves this node: ask it to release it (spec.release of its DataplaneNode), or \
         take its DaemonSet off this node first"
    )]
    AgentServes { pid: String },
    #[error("strict containers still run: {0}; delete their pods, then release the node again")]
    StrictContainers(String),
    #[error(transparent)]
    Alone(#[from] AloneError),
    #[error(transparent)]
    Ledger(#[from] StoreError),
    #[error(transparent)]
    Journal(#[from] JournalError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Watched(#[from] FrozenError),
    #[error("tell the outcome")]
    Print(#[source] io::Error),
}

impl NodeError {
    pub(super) fn read(path: &Path) -> impl FnOnce(io::Error) -> NodeError {
        let path = path.to_owned();
        |source| NodeError::Read { path, source }
    }

    pub(super) fn write(path: &Path) -> impl FnOnce(io::Error) -> NodeError {
        let path = path.to_owned();
        |source| NodeError::Write { path, source }
    }
}
