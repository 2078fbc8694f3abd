//! Keeps the agent itself off the cores that it grants: the first thing it does, before a second thread
//! exists, so that every later thread and child inherits it.

use nix::{errno::Errno, unistd::Pid};

use crate::cores::{affinity, set::CpuSet};

#[derive(Debug, thiserror::Error)]
pub enum HousekeepingError {
    #[error("read the agent's own CPU affinity")]
    Read(#[source] Errno),
    #[error(
        "the agent may only run on CPUs that it would grant ({isolated}): its own cpuset must hold a \
         housekeeping CPU"
    )]
    NoHousekeepingCpu { isolated: CpuSet },
    #[error("move the agent to the housekeeping CPUs")]
    Move(#[source] Errno),
    #[error("keep khugepaged from the agent's memory")]
    HugePages(#[source] Errno),
}

/// khugepaged that collapses small pages to a huge one interrupts every CPU of the machine
/// (mm/khugepaged.c, collapse_huge_page). A child inherits this also through execve(2).
pub fn without_huge_pages() -> Result<(), HousekeepingError> {
    nix::sys::prctl::set_thp_disable(true).map_err(HousekeepingError::HugePages)
}

pub fn stay_off(isolated: &CpuSet) -> Result<(), HousekeepingError> {
    let this = Pid::from_raw(0);
    let allowed = affinity::of(this).map_err(HousekeepingError::Read)?;
    let Some(housekeeping) = allowed.without(isolated) else {
        return Err(HousekeepingError::NoHousekeepingCpu { isolated: isolated.clone() });
    };
    affinity::restrict(this, &housekeeping).map_err(HousekeepingError::Move)
}
