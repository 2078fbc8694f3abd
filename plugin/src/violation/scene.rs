//! Step 8: what had to be looked up to put a happening into words: symbols, names, what this kernel can. Pure.

use std::collections::HashMap;

use crate::violation::{
    blame::{Blame, CameOn, Sender},
    symbolize::place::Place,
};

#[derive(Debug, Clone)]
pub struct Scene {
    pub place: Place,
    /// The nearest first.
    pub callers: Vec<Place>,
    /// Of the kernel, by address.
    pub functions: HashMap<u64, String>,
    /// "pod UID", by the cgroup's number.
    pub cgroups: HashMap<u64, String>,
    pub ticks: Ticks,
}

/// Why a core has a tick at all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticks {
    /// CONFIG_NO_HZ_FULL is not set.
    OnEveryCpu,
    /// The core is not in nohz_full.
    OnThisCpu,
    /// It stops, unless something depends on it.
    WhenNeeded,
}

impl Scene {
    pub fn at(place: Place) -> Scene {
        let (functions, cgroups) = (HashMap::new(), HashMap::new());
        Scene { place, callers: Vec::new(), functions, cgroups, ticks: Ticks::OnEveryCpu }
    }

    pub fn function(&self, address: Option<u64>) -> Option<String> {
        let address = address?;
        Some(self.functions.get(&address).cloned().unwrap_or_else(|| format!("{address:#x}")))
    }
}

impl Ticks {
    /// `nohz_full` is the file /sys/devices/system/cpu/nohz_full; a kernel without the option has none.
    pub fn of(nohz_full: Option<&str>, cpu: u32) -> Ticks {
        let Some(nohz_full) = nohz_full else { return Ticks::OnEveryCpu };
        // "(null)" where the boot parameter is missing.
        let cpus: Option<crate::cores::set::CpuSet> = nohz_full.trim().parse().ok();
        match cpus.is_some_and(|cpus| cpus.iter().any(|listed| listed.number() == cpu)) {
            true => Ticks::WhenNeeded,
            false => Ticks::OnThisCpu,
        }
    }
}

/// Addresses in the kernel that the words will name.
pub(crate) fn functions(blame: &Blame) -> impl Iterator<Item = u64> + use<> {
    let of_sender = blame.sender.as_ref().and_then(|sender: &Sender| sender.function);
    let of_worker = blame.came.as_ref().and_then(|came: &CameOn| came.function);
    of_sender.into_iter().chain(of_worker).chain(blame.timers.clone())
}

/// Cgroups that the words will name.
pub(super) fn cgroups(blame: &Blame) -> impl Iterator<Item = u64> + use<> {
    let of_sender = blame.sender.as_ref().and_then(|sender| sender.task.cgroup);
    let came = blame.came.as_ref().and_then(|came| came.task.cgroup);
    of_sender.into_iter().chain(came)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whether_a_core_can_stop_its_tick_is_told_by_one_file() {
        assert_eq!(Ticks::of(None, 1), Ticks::OnEveryCpu);
        assert_eq!(Ticks::of(Some("(null)\n"), 1), Ticks::OnThisCpu);
        assert_eq!(Ticks::of(Some("2-3\n"), 1), Ticks::OnThisCpu);
        assert_eq!(Ticks::of(Some("1-3\n"), 1), Ticks::WhenNeeded);
    }
}
