//! Step 7: one slot of the guard for each strict container, written through mapped memory.
//!
//! A slot is written before its container starts and not while it runs. `live` is stored last and cleared
//! first, and the generation grows with each use: a thread of an earlier holder is nobody's.

use std::{
    io,
    mem::offset_of,
    sync::atomic::{Ordering, fence},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{abi, maps::Maps, rules::set_bit, shared::SharedArray};
use crate::cores::set::MAX_CPUS;

/// 1 to 255; slot 0 is never given out, so that a zeroed thread belongs to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u8);

impl Slot {
    /// For the guard's test of itself, before any container; closed again when it is over.
    pub(super) const SELF_TEST: Slot = Slot(0);

    pub fn new(number: u8) -> Option<Slot> {
        (number != 0).then_some(Slot(number))
    }

    pub fn all() -> impl Iterator<Item = Slot> {
        (1..=u8::MAX).map(Slot)
    }

    pub fn number(self) -> u8 {
        self.0
    }

    fn idx(self) -> usize {
        usize::from(self.0)
    }
}

#[derive(Debug)]
pub struct Slots {
    grants: SharedArray<abi::qc_grant>,
    counts: SharedArray<abi::qc_counts>,
    cpus: SharedArray<abi::qc_cpus>,
}

impl Slots {
    pub(super) fn map(maps: &Maps) -> io::Result<Slots> {
        let n_slots = abi::QC_MAX_SLOTS as usize;
        Ok(Slots {
            grants: SharedArray::map(&maps.grants, n_slots)?,
            counts: SharedArray::map(&maps.counts, n_slots)?,
            cpus: SharedArray::map(&maps.cpus, 1)?,
        })
    }

    /// `rules` come from `rules::rules`. The slot must be free.
    pub fn open(&self, slot: Slot, rules: abi::qc_grant) {
        let before = self.grants.get(slot.idx());
        self.counts.set(slot.idx(), abi::qc_counts::default());
        let closed = abi::qc_grant { live: 0, generation: before.generation.wrapping_add(1), ..rules };
        self.grants.set(slot.idx(), closed);
        fence(Ordering::Release);
        self.grants.set(slot.idx(), abi::qc_grant { live: 1, ..closed });
        self.publish_cpus();
    }

    pub fn close(&self, slot: Slot) {
        let grant = self.grants.get(slot.idx());
        self.grants.set(slot.idx(), abi::qc_grant { live: 0, ..grant });
        self.publish_cpus();
    }

    pub fn is_live(&self, slot: Slot) -> bool {
        self.grants.load_byte(slot.idx(), offset_of!(abi::qc_grant, live)) != 0
    }

    pub fn generation(&self, slot: Slot) -> u32 {
        self.grants.get(slot.idx()).generation
    }

    pub fn live(&self) -> impl Iterator<Item = Slot> + '_ {
        Slot::all().filter(|slot| slot.idx() < self.grants.len() && self.is_live(*slot))
    }

    /// What the slot's threads did so far.
    pub fn counts(&self, slot: Slot) -> abi::qc_counts {
        self.counts.get(slot.idx())
    }

    /// Does any container wait to settle? Most nodes have none, and then nobody's seat need be looked at.
    pub fn any_settles(&self) -> bool {
        self.live().any(|slot| self.grants.load_byte(slot.idx(), offset_of!(abi::qc_grant, seats)) != 0)
    }

    /// As it was opened.
    pub fn rules(&self, slot: Slot) -> abi::qc_grant {
        self.grants.get(slot.idx())
    }

    /// By the agent's own store, which no entry of the thread tells the guard of: its `enforceFor` runs from now
    /// on, if it does not run already. `now` is CLOCK_BOOTTIME.
    pub fn armed_from_outside(&self, slot: Slot, now: Duration) {
        let now = u64::try_from(now.as_nanos()).unwrap_or(u64::MAX);
        self.counts.fill_word(slot.idx(), offset_of!(abi::qc_counts, first_armed_ns), now);
    }

    /// Its owner was told that its `enforceFor` is over. Kept here, because it outlives the agent.
    pub fn told_ended(&self, slot: Slot) {
        self.grants.store_byte(slot.idx(), offset_of!(abi::qc_grant, told_ended), 1);
    }

    fn publish_cpus(&self) {
        let all = Slot::all().chain([Slot::SELF_TEST]).filter(|slot| self.is_live(*slot));
        let live = all.map(|slot| (slot, self.grants.get(slot.idx()).cpus));
        self.cpus.set(0, cpus_of(live));
    }
}

fn cpus_of(live: impl Iterator<Item = (Slot, [u64; N_WORDS])>) -> abi::qc_cpus {
    let mut all = abi::qc_cpus::default();
    for (slot, cpus) in live {
        for cpu in (0..abi::QC_MAX_CPUS).filter(|cpu| cpus[*cpu as usize / 64] >> (cpu % 64) & 1 == 1) {
            set_bit(&mut all.granted, cpu);
            all.slots[cpu as usize] = slot.number();
        }
    }
    all
}

const N_WORDS: usize = abi::QC_MAX_CPUS as usize / 64;
const _: () = assert!(abi::QC_MAX_CPUS == MAX_CPUS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_granted_cpu_leads_to_its_slot() {
        let mask = |cpu: usize| {
            let mut mask = [0; N_WORDS];
            mask[cpu / 64] |= 1 << (cpu % 64);
            mask
        };
        let live = [(Slot(3), mask(1)), (Slot(9), mask(8191))];
        let cpus = cpus_of(live.into_iter());
        assert_eq!((cpus.granted[0], cpus.granted[127]), (2, 1 << 63));
        assert_eq!((cpus.slots[1], cpus.slots[8191], cpus.slots[0]), (3, 9, 0));
    }
}
