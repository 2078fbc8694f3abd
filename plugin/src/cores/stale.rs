//! Step 3: which allocations of the ledger nobody holds any more. Pure: time and the kubelet's view come in.
//!
//! Allocate's answer is given again for the life of the pod, so forgetting one too early refuses a pod for
//! good, while forgetting it late costs a line in a file. So an allocation is let go only when the runtime (no
//! claim), the kubelet's list of pods and its checkpoint of devices all know nothing of it, twice, a minute
//! apart: an Allocate that was just answered is in none of them yet.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    ledger::{Allocation, Holder},
    pod_resources::View,
    set::CpuSet,
    token::Token,
};

const AGREE_FOR: Duration = Duration::from_secs(60);

/// What the kubelet says, by both of its voices, at about one time.
#[derive(Debug, Clone, Copy)]
pub struct Kubelet<'a> {
    pub view: &'a View,
    /// The answers that it keeps (`replay`).
    pub replays: &'a BTreeSet<Token>,
}

/// Remembers since when nobody has known an allocation.
#[derive(Debug, Default)]
pub struct Unheld(BTreeMap<Token, Duration>);

impl Unheld {
    /// Those that are stale now. `now` is since any fixed moment. `cpus_of` tells the CPUs of device ids.
    /// To be asked while the ledger cannot change, with what the kubelet said shortly before.
    pub fn look<'a>(
        &mut self,
        now: Duration,
        allocations: impl Iterator<Item = (&'a Token, &'a Allocation)>,
        kubelet: Kubelet<'_>,
        cpus_of: impl Fn(&[String]) -> Option<CpuSet>,
    ) -> Vec<Token> {
        let unheld = allocations.filter(|(token, allocation)| {
            let holder = allocation.holder.as_ref();
            allocation.claim.is_none()
                && !kubelet.replays.contains(*token)
                && !holder.is_some_and(|holder| holds(kubelet.view, holder, &allocation.cpus, &cpus_of))
        });
        let since =
            unheld.map(|(token, _)| (token.clone(), self.0.get(token).copied().unwrap_or(now))).collect();
        self.0 = since;
        let stale = self.0.iter().filter(|(_, since)| AGREE_FOR <= now.saturating_sub(**since));
        stale.map(|(token, _)| token.clone()).collect()
    }
}

/// A pod made anew under the same name counts as the old one, unless the kubelet tells other cores of this
/// very container: of init containers it tells nothing.
fn holds(view: &View, holder: &Holder, cpus: &CpuSet, cpus_of: impl Fn(&[String]) -> Option<CpuSet>) -> bool {
    match view.of(&holder.namespace, &holder.pod, &holder.container) {
        Some(known) if !known.devices.is_empty() => {
            cpus_of(&known.devices).is_none_or(|listed| listed.overlaps(cpus))
        }
        _ => view.knows_pod(&holder.namespace, &holder.pod),
    }
}

#[cfg(test)]
mod tests;
