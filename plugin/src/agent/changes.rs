//! Tells the owners of running pods when their policy is no longer what they started with.

use std::sync::Arc;

use super::containers::Containers;
use crate::{
    policy::{memory::Change, watch::OnChange},
    report::{Reason, Reporter, Subject},
};

#[expect(missing_debug_implementations, reason = "the reporter has none")]
pub struct TellOwners {
    pub containers: Arc<Containers>,
    pub reporter: Reporter,
}

impl OnChange for TellOwners {
    fn changed(&self, namespace: &str, name: &str, change: Change) {
        let what = match change {
            Change::Edited => "was edited",
            Change::Deleted => "was deleted",
        };
        for (_, info) in self.containers.running() {
            let its_own = info
                .policy
                .as_ref()
                .is_some_and(|policy| policy.namespace == namespace && policy.name == name);
            if its_own {
                let note = format!(
                    "DataplanePolicy {name} {what}; container {} keeps what it started with until it is restarted",
                    info.container
                );
                self.reporter.event(Subject::Container(Arc::clone(&info)), Reason::PolicyChanged, note);
            }
        }
    }
}
