//! What `quietcore check` finds wanting on this node, for its object: the same facts, looked at from time to time while no
//! core is granted. Nothing is measured, tried or changed.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quietcore_crd::node::{Finding, FindingState};
use tokio::{sync::watch, time::MissedTickBehavior};

use crate::{
    check::{
        self,
        finding::{self, State},
    },
    cores::{grants::Grants, set::CpuSet},
};

const LOOK_EVERY: Duration = Duration::from_secs(60);
/// The object's own bound.
const SHOWN: usize = 64;

/// `host_root`: where the host's /proc is; its first process sees all of its files.
pub(super) fn follow(
    host_root: &Path,
    isolated: CpuSet,
    grants: Arc<Grants>,
) -> watch::Receiver<Vec<Finding>> {
    let (sender, findings) = watch::channel(Vec::new());
    let root: PathBuf = host_root.join("proc/1/root");
    tokio::spawn(async move {
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            every.tick().await;
            // On older kernels the very read of some files interrupts every CPU (/proc/cpuinfo before 5.18).
            if grants.read(|ledger| ledger.held().next().is_some()) {
                continue;
            }
            let (root, isolated) = (root.clone(), isolated.clone());
            let looked = tokio::task::spawn_blocking(move || wanting(check::look(&root, &isolated)));
            let Ok(now) = looked.await else { return };
            sender.send_if_modified(|known| std::mem::replace(known, now.clone()) != now);
        }
    });
    findings
}

fn wanting(found: Vec<finding::Finding>) -> Vec<Finding> {
    let shown = found.into_iter().filter_map(|finding| {
        let state = match finding.state {
            State::Missing => FindingState::Missing,
            State::Unknown => FindingState::Unknown,
            State::Good | State::NotHere => return None,
        };
        let (item, found, remedy) = (finding.item.to_owned(), finding.found, finding.remedy);
        Some(Finding { item, state, found, remedy })
    });
    let mut shown: Vec<Finding> = shown.take(SHOWN).collect();
    shown.sort_by(|one, other| one.item.cmp(&other.item));
    shown.dedup_by(|one, other| one.item == other.item);
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::finding::{Group, Item};

    #[test]
    fn only_what_is_wanting_is_shown_each_once() {
        let item = |name| Item { group: Group::Scheduler, name, why: "" };
        let found = vec![
            item("tick").is(State::Missing, "no nohz_full", "quietcore node plan"),
            item("quota").is(State::Good, "none", ""),
            item("clock").is(State::Unknown, "no such file", "look"),
            item("nmi").not_here("none"),
            item("tick").is(State::Missing, "again", ""),
        ];
        let shown: Vec<String> = wanting(found)
            .into_iter()
            .map(|finding| format!("{} {:?} {}", finding.item, finding.state, finding.found))
            .collect();
        assert_eq!(shown, ["clock Unknown no such file", "tick Missing no nohz_full"]);
    }
}
