//! How the nodes stand to this hook's request, and what it does next. Pure.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use quietcore_crd::DataplaneNode;

use super::ReleaseError;

/// The two questions. The second is asked when all nodes have answered the first by Clear: until then each of them can
/// serve again as if nothing had been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Cordon,
    Release,
}

/// Of one node. The request is known by its end, a time in microseconds: no other hook's is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stand {
    /// It came meanwhile, or somebody took the request back.
    NotAsked,
    AskedByAnother,
    /// No answer to what is asked now: an earlier one's is not ours.
    Silent,
    /// As namespace/pod/container.
    Strict(Vec<String>),
    /// Nothing strict runs, and nothing strict starts.
    Clear,
    Released,
}

pub(super) fn stand(node: &DataplaneNode, until: &MicroTime) -> Stand {
    match &node.spec.until {
        None => return Stand::NotAsked,
        Some(asked) if asked != until => return Stand::AskedByAnother,
        Some(_) => {}
    }
    let Some(status) = &node.status else { return Stand::Silent };
    let answer = status.conditions.iter().find(|condition| condition.type_ == "Released");
    let of_now = |observed: Option<i64>| observed.is_some() && observed == node.metadata.generation;
    match answer.filter(|answer| of_now(answer.observed_generation)) {
        None => Stand::Silent,
        Some(answer) if answer.status == "True" => Stand::Released,
        Some(_) if status.strict_containers.is_empty() => Stand::Clear,
        Some(_) => Stand::Strict(status.strict_containers.clone()),
    }
}

/// A strict container, and the node that named it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub node: String,
    /// namespace/pod/container
    pub container: String,
}

#[derive(Debug)]
pub(super) enum Next {
    Ask(Vec<String>),
    /// For the answer of these.
    Wait(Vec<String>),
    /// All nodes have stopped giving cores away; these have not ended.
    Evict(Vec<Named>),
    Done,
}

/// `drain`: strict pods are evicted, else they are in the way.
pub(super) fn next(stands: &[(String, Stand)], step: Step, drain: bool) -> Result<Next, ReleaseError> {
    let who = |is: fn(&Stand) -> bool| -> Vec<String> {
        stands.iter().filter(|(_, stand)| is(stand)).map(|(node, _)| node.clone()).collect()
    };
    if let Some(node) = who(|stand| *stand == Stand::AskedByAnother).into_iter().next() {
        return Err(ReleaseError::Another { node });
    }
    let named = stands.iter().flat_map(|(node, stand)| {
        match stand {
            Stand::Strict(containers) => containers.as_slice(),
            _ => &[],
        }
        .iter()
        .map(|container| Named { node: node.clone(), container: container.clone() })
    });
    let named: Vec<Named> = named.collect();
    if !named.is_empty() && (!drain || step == Step::Release) {
        return Err(ReleaseError::StrictPods(words(&named)));
    }
    let not_asked = who(|stand| *stand == Stand::NotAsked);
    if !not_asked.is_empty() {
        return Ok(Next::Ask(not_asked));
    }
    let waited_for = match step {
        Step::Cordon => who(|stand| *stand == Stand::Silent),
        Step::Release => who(|stand| *stand != Stand::Released),
    };
    Ok(match (waited_for.as_slice(), named.as_slice()) {
        ([], []) => Next::Done,
        ([], _) => Next::Evict(named),
        _ => Next::Wait(waited_for),
    })
}

/// By node: `a/p/c, b/q/d on node n; ...`
fn words(named: &[Named]) -> String {
    let nodes = named.chunk_by(|one, other| one.node == other.node);
    let words = nodes.filter_map(|on_node| {
        let containers: Vec<&str> = on_node.iter().map(|named| named.container.as_str()).collect();
        Some(format!("{} on node {}", containers.join(", "), on_node.first()?.node))
    });
    words.collect::<Vec<_>>().join("; ")
}

/// What each node's kernel did not give back, a line each.
pub(super) fn not_restored(nodes: &[DataplaneNode]) -> Vec<String> {
    let left = nodes.iter().flat_map(|node| {
        let lines = node.status.iter().flat_map(|status| &status.not_restored);
        lines.map(|line| {
            format!(
                "node {}: not as it was before: {line}",
                node.metadata.name.as_deref().unwrap_or_default()
            )
        })
    });
    left.collect()
}

#[cfg(test)]
mod tests;
