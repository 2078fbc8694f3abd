//! Step 3: the ledger beside what the runtime says there is. Pure, as the ledger is.

use std::collections::BTreeSet;

use super::{Grant, Ledger, Stranger};
use crate::guard::slots::Slot;

impl Ledger {
    /// After a (re)connect: what the runtime does not have any more is released, and returned. `strict` are
    /// those of the live containers that hold cores by their looks; the ones nobody claimed keep theirs.
    pub fn reconcile(&mut self, live_container_ids: &[String], strict: Vec<Stranger>) -> Vec<Grant> {
        let ids: Vec<String> = self.grants().map(|grant| grant.claim.container_id).collect();
        let gone = ids.iter().filter(|id| !live_container_ids.contains(id));
        let released = gone.filter_map(|id| self.release(id)).collect();
        self.strangers = strict;
        self.strangers.retain(|stranger| !ids.contains(&stranger.container_id));
        self.is_reconciled = true;
        released
    }

    /// Before, nothing is known to be over.
    pub fn is_reconciled(&self) -> bool {
        self.is_reconciled
    }

    /// Live strict containers that no claim is about.
    pub fn strangers(&self) -> impl Iterator<Item = &Stranger> {
        self.strangers.iter()
    }

    /// Is there nobody whom the guard watches (under these slots) and the runtime may yet have to tell of?
    pub fn knows_all(&self, mut watched: impl Iterator<Item = Slot>) -> bool {
        self.is_reconciled || watched.all(|slot| self.grants().any(|grant| grant.claim.slot == slot))
    }

    /// Of these, which the guard watches, those that nobody needs any more. While there are strangers each may be one's.
    pub fn unused_slots(&mut self, live: impl Iterator<Item = Slot>) -> Vec<Slot> {
        let claimed: BTreeSet<Slot> = self.grants().map(|grant| grant.claim.slot).collect();
        let others = live.filter(|slot| !claimed.contains(slot));
        if self.strangers.is_empty() {
            self.others_slots.clear();
            return others.collect();
        }
        self.others_slots = others.collect();
        Vec::new()
    }
}
