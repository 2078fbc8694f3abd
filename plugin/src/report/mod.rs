//! Step 9: tells the pod's owner, in an Event, a line of the log and a metric.
//!
//! ```text
//!  record ─ Reporter (limit: new, again, too many) ─► worker (symbolize, describe) ─► log
//!                         └── again: count ──────────────► Queue ◄── Draft ──┘
//!                                                            └► sender ─► API server
//! ```
//!
//! Nothing else writes Events. `event` and `queue` are pure; `sender` alone speaks to the API server.

use std::sync::Arc;

use crate::policy::effective::PolicyRef;

pub mod event;
pub mod log;
pub mod queue;
pub mod reporter;
pub mod sender;
#[cfg(test)]
mod tests;
mod worker;

pub use quietcore_crd::reason::Reason;
pub use reporter::{Config, Destination, Reporter};

/// Whom an Event is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Container(Arc<ContainerInfo>),
    Node,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerInfo {
    pub namespace: Arc<str>,
    pub pod: Arc<str>,
    pub pod_uid: Arc<str>,
    /// The container's name in the pod's spec.
    pub container: Arc<str>,
    /// The runtime's id: tells a restarted container from the one before.
    pub container_id: Arc<str>,
    /// `None`: the node's default policy.
    pub policy: Option<PolicyRef>,
}
