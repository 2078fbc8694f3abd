//! Step 3: which of several nodes on one machine publishes its cores.
//!
//! Nodes in containers (kind) share one kernel and one set of CPUs. They see it by the kernel's boot id, and
//! settle it by a Lease of that name: its first holder keeps it, until its Node object is gone. On a machine
//! of its own a node simply finds no other. Remembered on disk, so that a restart needs no API server.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::api::{
    coordination::v1::{Lease, LeaseSpec},
    core::v1::Node,
};
use kube::{Api, Client, api::PostParams};
use serde::{Deserialize, Serialize};

use crate::agent::disk;

const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    boot_id: String,
    holder: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Decision {
    Ours,
    Claim,
    TakeOver,
    StandBy { holder: String },
}

/// `holder`: who the Lease names, and whether that node still exists.
fn decide(node: &str, holder: Option<(&str, bool)>) -> Decision {
    match holder {
        None => Decision::Claim,
        Some((holder, _)) if holder == node => Decision::Ours,
        Some((_, false)) => Decision::TakeOver,
        Some((holder, true)) => Decision::StandBy { holder: holder.to_owned() },
    }
}

#[expect(missing_debug_implementations, reason = "kube::Client has none")]
pub struct Machine {
    pub client: Client,
    pub namespace: String,
    pub node: String,
    pub file: PathBuf,
}

impl Machine {
    /// Returns when this node may publish its cores; `stand_by` hears of the node that does instead.
    pub async fn wait_until_ours(&self, stand_by: impl Fn(&str)) {
        let boot_id = match boot_id() {
            Ok(boot_id) => boot_id,
            Err(error) => {
                // Without it no two nodes can be told to share a kernel; a kernel with procfs always has it.
                tracing::error!(%error, "no boot id; publishing no cores");
                return std::future::pending().await;
            }
        };
        if remembered(&self.file).is_some_and(|known| known.boot_id == boot_id && known.holder == self.node) {
            return;
        }
        loop {
            match self.try_claim(&boot_id).await {
                Ok(Decision::StandBy { holder }) => stand_by(&holder),
                Ok(Decision::Ours) => {
                    let known = Remembered { boot_id, holder: self.node.clone() };
                    if let Err(error) = disk::write_json(&self.file, &known) {
                        tracing::warn!(%error, "the machine's claim is not remembered on disk");
                    }
                    return;
                }
                Ok(Decision::Claim | Decision::TakeOver) => continue,
                Err(error) => tracing::warn!(%error, "cannot claim the machine's cores yet"),
            }
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
        }
    }

    async fn try_claim(&self, boot_id: &str) -> kube::Result<Decision> {
        let leases = Api::<Lease>::namespaced(self.client.clone(), &self.namespace);
        let name = format!("quietcore-machine-{boot_id}");
        let found = leases.get_opt(&name).await?;
        let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        let holder = match &holder {
            Some(holder) => Some((holder.as_str(), self.exists(holder).await?)),
            None => None,
        };
        let decision = decide(&self.node, holder);
        let written = match (&decision, found) {
            (Decision::Claim | Decision::TakeOver, Some(mut lease)) => {
                // Its resourceVersion makes a second taker fail.
                lease.spec.get_or_insert_default().holder_identity = Some(self.node.clone());
                leases.replace(&name, &PostParams::default(), &lease).await
            }
            (Decision::Claim | Decision::TakeOver, None) => {
                let spec = LeaseSpec { holder_identity: Some(self.node.clone()), ..LeaseSpec::default() };
                let mut lease = Lease { spec: Some(spec), ..Lease::default() };
                lease.metadata.name = Some(name);
                leases.create(&PostParams::default(), &lease).await
            }
            _ => return Ok(decision),
        };
        match written {
            Ok(_) => Ok(Decision::Ours),
            // Somebody was faster: look who.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(Decision::Claim),
            Err(error) => Err(error),
        }
    }

    async fn exists(&self, node: &str) -> kube::Result<bool> {
        Ok(Api::<Node>::all(self.client.clone()).get_metadata_opt(node).await?.is_some())
    }
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn remembered(file: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_holder_keeps_the_machine_until_its_node_is_gone() {
        assert_eq!(decide("a", None), Decision::Claim);
        assert_eq!(decide("a", Some(("a", true))), Decision::Ours);
        assert_eq!(decide("a", Some(("b", true))), Decision::StandBy { holder: "b".into() });
        assert_eq!(decide("a", Some(("b", false))), Decision::TakeOver);
    }
}
