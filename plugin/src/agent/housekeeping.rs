//! Keeps the agent itself off the cores that it grants: the first thing it does, before a second thread
//! exists, so that every later thread and child inherits it.

use nix::{
    errno::Errno,
    sched::{CpuSet as Mask, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};

use crate::cores::set::{CpuId, CpuSet};

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
    let allowed = sched_getaffinity(this).map_err(HousekeepingError::Read)?;
    let mut mask = Mask::new();
    let mut any = false;
    for cpu in 0..Mask::count() {
        let id = u32::try_from(cpu).ok().and_then(CpuId::new);
        if allowed.is_set(cpu).unwrap_or(false) && id.is_some_and(|id| !isolated.contains(id)) {
            mask.set(cpu).map_err(HousekeepingError::Move)?;
            any = true;
        }
    }
    if !any {
        return Err(HousekeepingError::NoHousekeepingCpu { isolated: isolated.clone() });
    }
    sched_setaffinity(this, &mask).map_err(HousekeepingError::Move)
}
