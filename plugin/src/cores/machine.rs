//! Step 3: which of several nodes on one machine publishes its cores.
//!
//! Nodes in containers (kind) share one kernel and one set of CPUs. They see it by the kernel's boot id, and
//! settle it by a Lease of that name: its first holder keeps it, until its Node object is gone. On a machine
//! of its own a node simply finds no other. Remembered on disk, so that a restart needs no API server; looked
//! up again when there is one, because another node may have taken over meanwhile.

use std::{
    convert::Infallible,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::Node,
    },
    apimachinery::pkg::apis::meta::v1::OwnerReference,
};
use kube::{
    Api, Client, Resource as _,
    api::{DeleteParams, PostParams},
};
use serde::{Deserialize, Serialize};

use crate::agent::disk;

const RETRY_AFTER: Duration = Duration::from_secs(10);
/// Only a Node that was deleted loses its claim, so this is for that case alone: three requests each time.
const CONFIRM_AFTER: Duration = Duration::from_secs(600);

#[derive(Debug, thiserror::Error)]
pub enum MachineError {
    #[error("talk to the API server")]
    Api(#[from] kube::Error),
    #[error("the cluster has no node {0}: is --node-name right?")]
    NoNode(String),
    #[error("another node changed the machine's Lease at the same time")]
    Contended,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Publish,
    StandBy { holder: String },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    boot_id: String,
    holder: String,
}

impl Remembered {
    /// `None`: the machine was booted since, and everybody claims it anew.
    fn role(&self, boot_id: &str, node: &str) -> Option<Role> {
        (self.boot_id == boot_id).then(|| role_of(&self.holder, node))
    }
}

fn role_of(holder: &str, node: &str) -> Role {
    if holder == node { Role::Publish } else { Role::StandBy { holder: holder.to_owned() } }
}

/// `holder`: who the Lease names, and whether the node that took it still exists. `None`: take it.
fn decide(node: &str, holder: Option<(&str, bool)>) -> Option<Role> {
    match holder {
        Some((holder, true)) => Some(role_of(holder, node)),
        Some((_, false)) | None => None,
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
    /// `tell` hears of the first role and of each change. Nothing is published before.
    pub async fn keep(self, tell: impl FnMut(&Role)) -> Infallible {
        match boot_id() {
            Ok(boot_id) => self.keep_for(&boot_id, tell).await,
            Err(error) => {
                // Without it no two nodes can be told to share a kernel; a kernel with procfs always has it.
                tracing::error!(step = 3, %error, "no boot id; publishing no cores");
                std::future::pending().await
            }
        }
    }

    async fn keep_for(self, boot_id: &str, mut tell: impl FnMut(&Role)) -> Infallible {
        let mut known = remembered(&self.file);
        let mut told = known.as_ref().and_then(|known| known.role(boot_id, &self.node));
        told.iter().for_each(&mut tell);
        loop {
            match self.settle(boot_id, &mut known).await {
                Ok(role) => {
                    let wait = if role == Role::Publish { CONFIRM_AFTER } else { RETRY_AFTER };
                    if told.as_ref() != Some(&role) {
                        tracing::info!(step = 3, ?role, "the machine's cores");
                        tell(&role);
                        told = Some(role);
                    }
                    tokio::time::sleep(wait).await;
                }
                Err(error) => {
                    tracing::warn!(
                        step = 3,
                        error = &error as &dyn std::error::Error,
                        ?told,
                        "cannot confirm whose the machine's cores are"
                    );
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
        }
    }

    async fn settle(&self, boot_id: &str, known: &mut Option<Remembered>) -> Result<Role, MachineError> {
        let role = self.claim(boot_id).await?;
        let holder = match &role {
            Role::Publish => &self.node,
            Role::StandBy { holder } => holder,
        };
        let now = Remembered { boot_id: boot_id.to_owned(), holder: holder.clone() };
        if known.as_ref() != Some(&now) {
            if let Some(earlier) = known.as_ref().filter(|known| known.boot_id != boot_id) {
                self.give_up(&earlier.boot_id).await?;
            }
            match disk::write_json(&self.file, &now) {
                Ok(()) => *known = Some(now),
                Err(error) => {
                    tracing::warn!(step = 3, %error, "the machine's claim is not remembered on disk");
                }
            }
        }
        Ok(role)
    }

    async fn claim(&self, boot_id: &str) -> Result<Role, MachineError> {
        let found = self.leases().get_opt(&lease_name(boot_id)).await?;
        let own_uid =
            self.uid_of(&self.node).await?.ok_or_else(|| MachineError::NoNode(self.node.clone()))?;
        let holder = found.as_ref().and_then(|lease| lease.spec.as_ref()?.holder_identity.clone());
        let holder = match (&holder, &found) {
            (Some(holder), Some(lease)) => {
                let uid =
                    if *holder == self.node { Some(own_uid.clone()) } else { self.uid_of(holder).await? };
                Some((holder.as_str(), uid.is_some_and(|uid| is_owner(lease, &uid))))
            }
            _ => None,
        };
        if let Some(role) = decide(&self.node, holder) {
            return Ok(role);
        }
        let written = self.write(&lease_name(boot_id), own_uid, found).await;
        match written {
            Ok(_) => Ok(Role::Publish),
            Err(kube::Error::Api(status)) if status.code == 409 => Err(MachineError::Contended),
            Err(error) => Err(error.into()),
        }
    }

    /// Of several writers one succeeds: the name is one, and so is the resourceVersion of what was found.
    async fn write(&self, name: &str, own_uid: String, found: Option<Lease>) -> kube::Result<Lease> {
        let is_new = found.is_none();
        let mut lease = found.unwrap_or_default();
        lease.metadata.name = Some(name.to_owned());
        // The API server deletes the Lease with the Node: a cluster whose nodes come and go does not collect them.
        lease.metadata.owner_references = Some(vec![OwnerReference {
            api_version: Node::api_version(&()).into_owned(),
            kind: Node::kind(&()).into_owned(),
            name: self.node.clone(),
            uid: own_uid,
            ..OwnerReference::default()
        }]);
        lease.spec = Some(LeaseSpec { holder_identity: Some(self.node.clone()), ..LeaseSpec::default() });
        let params = PostParams::default();
        match is_new {
            true => self.leases().create(&params, &lease).await,
            false => self.leases().replace(name, &params, &lease).await,
        }
    }

    /// The claim of an earlier boot, if it was ours.
    async fn give_up(&self, boot_id: &str) -> Result<(), MachineError> {
        let name = lease_name(boot_id);
        let Some(lease) = self.leases().get_opt(&name).await? else { return Ok(()) };
        if lease.spec.and_then(|spec| spec.holder_identity).as_ref() != Some(&self.node) {
            return Ok(());
        }
        match self.leases().delete(&name, &DeleteParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            deleted => Ok(deleted.map(|_| ())?),
        }
    }

    async fn uid_of(&self, node: &str) -> kube::Result<Option<String>> {
        let node = Api::<Node>::all(self.client.clone()).get_metadata_opt(node).await?;
        Ok(node.and_then(|node| node.metadata.uid))
    }

    fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

fn lease_name(boot_id: &str) -> String {
    format!("quietcore-machine-{boot_id}")
}

/// A Node that was deleted and made again is another: its Lease is about to be deleted after the first. A
/// Lease without an owner was made by hand, and goes by the name alone.
fn is_owner(lease: &Lease, node_uid: &str) -> bool {
    let mut owners = lease.metadata.owner_references.iter().flatten().peekable();
    owners.peek().is_none() || owners.any(|owner| owner.uid == node_uid)
}

fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn remembered(file: &Path) -> Option<Remembered> {
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

#[cfg(test)]
mod tests;
