//! Step 7: one slot of the guard for each strict container, written through mapped memory.
//!
//! A slot is written before its container starts and not while it runs. `live` is stored last and cleared
//! first, and the generation grows with each use: a thread of an earlier holder is nobody's.

use std::{
    io,
    sync::atomic::{Ordering, fence},
};

use serde::{Deserialize, Serialize};

use super::{abi, load::Pinned, rules::set_bit, shared::SharedArray};

/// 1 to 255; slot 0 is never given out, so that a zeroed thread belongs to nobody.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Slot(u8);

impl Slot {
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
    granted_cpus: SharedArray<[u64; N_WORDS]>,
}

const N_WORDS: usize = abi::QC_MAX_CPUS as usize / 64;

impl Slots {
    pub(super) fn map(pinned: &Pinned) -> io::Result<Slots> {
        let n_slots = abi::QC_MAX_SLOTS as usize;
        Ok(Slots {
            grants: SharedArray::map(&pinned.grants, n_slots)?,
            counts: SharedArray::map(&pinned.counts, n_slots)?,
            granted_cpus: SharedArray::map(&pinned.granted_cpus, 1)?,
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
        self.publish_granted_cpus();
    }

    pub fn close(&self, slot: Slot) {
        let grant = self.grants.get(slot.idx());
        self.grants.set(slot.idx(), abi::qc_grant { live: 0, ..grant });
        self.publish_granted_cpus();
    }

    pub fn is_live(&self, slot: Slot) -> bool {
        self.grants.get(slot.idx()).live != 0
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

    fn publish_granted_cpus(&self) {
        let mut granted = [0; N_WORDS];
        for slot in self.live() {
            let cpus = self.grants.get(slot.idx()).cpus;
            for bit in 0..abi::QC_MAX_CPUS {
                if cpus[bit as usize / 64] >> (bit % 64) & 1 == 1 {
                    set_bit(&mut granted, bit);
                }
            }
        }
        self.granted_cpus.set(0, granted);
    }
}
