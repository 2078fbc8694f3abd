//! Step 3: which CPUs a container gets.
//!
//! The kubelet picks devices (`device_plugin`), the ledger remembers which token stands for which CPUs and who
//! holds them, and step 4 asks it by the token in the container's annotations.

pub mod set;
pub mod mask;
pub mod affinity;
pub mod token;
pub mod topology;
pub mod shared;
pub mod device;
pub mod occupants;
pub mod health;
pub mod allocator;
pub mod ledger;
pub mod store;
pub mod grants;
pub mod device_plugin;
pub mod kubelet;
pub mod pod_resources;
pub mod replay;
pub mod stale;
pub mod reconcile;
pub mod machine;
