//! `quietcore release --all-nodes`: what the chart's pre-delete hook runs. Asks every node's agent to let go,
//! and says by name which could not.

use std::time::Duration;

use kube::{
    Api, Client, ResourceExt as _,
    api::{DeleteParams, ListParams, Patch, PatchParams},
};
use quietcore_crd::DataplaneNode;
use tokio::time::{Instant, sleep};

use crate::args::ReleaseArgs;

const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    #[error("talk to the API server")]
    Api(#[from] kube::Error),
    #[error("strict pods still run: {0}; delete them, then uninstall again")]
    StrictPods(String),
    #[error("no answer within {within:?} from the agents of: {nodes}; is their DaemonSet running?")]
    Silent { within: Duration, nodes: String },
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Released,
    StrictPods(String),
    None,
}

fn answer(node: &DataplaneNode) -> Answer {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    match conditions.into_iter().find(|condition| condition.type_ == "Released") {
        Some(released) if released.status == "True" => Answer::Released,
        Some(refused) => Answer::StrictPods(format!("{} on node {}", refused.message, node.name_any())),
        None => Answer::None,
    }
}

pub async fn run(args: ReleaseArgs) -> Result<(), ReleaseError> {
    let ReleaseArgs { all_nodes: _, timeout } = args;
    let api = Api::<DataplaneNode>::all(Client::try_default().await?);
    ask_all(&api, true).await?;
    match wait(&api, timeout).await {
        Ok(()) => {
            // The next installation finds the nodes as if it were the first.
            for node in api.list(&ListParams::default()).await? {
                api.delete(&node.name_any(), &DeleteParams::default()).await?;
            }
            Ok(())
        }
        Err(error) => {
            ask_all(&api, false).await?;
            Err(error)
        }
    }
}

async fn ask_all(api: &Api<DataplaneNode>, release: bool) -> Result<(), ReleaseError> {
    for node in api.list(&ListParams::default()).await? {
        let patch = serde_json::json!({"spec": {"release": release}});
        api.patch(&node.name_any(), &PatchParams::default(), &Patch::Merge(patch)).await?;
    }
    Ok(())
}

async fn wait(api: &Api<DataplaneNode>, timeout: Duration) -> Result<(), ReleaseError> {
    let deadline = Instant::now() + timeout;
    loop {
        let nodes = api.list(&ListParams::default()).await?;
        let answers: Vec<(String, Answer)> =
            nodes.iter().map(|node| (node.name_any(), answer(node))).collect();
        let strict: Vec<&str> = answers
            .iter()
            .filter_map(|(_, answer)| match answer {
                Answer::StrictPods(pods) => Some(pods.as_str()),
                _ => None,
            })
            .collect();
        if !strict.is_empty() {
            return Err(ReleaseError::StrictPods(strict.join("; ")));
        }
        let silent: Vec<&str> = answers
            .iter()
            .filter(|(_, answer)| *answer == Answer::None)
            .map(|(name, _)| name.as_str())
            .collect();
        if silent.is_empty() {
            return Ok(());
        }
        if deadline < Instant::now() {
            return Err(ReleaseError::Silent { within: timeout, nodes: silent.join(", ") });
        }
        sleep(LOOK_EVERY).await;
    }
}
