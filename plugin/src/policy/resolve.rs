//! Step 2: which policy a container of a pod is under, by the pod's annotations. Pure.

use std::collections::HashMap;

const PREFIX: &str = "policy.quietcore.io/";
const POD: &str = "policy.quietcore.io/pod";
const CONTAINER: &str = "policy.quietcore.io/container.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Not ours: no cores, and no annotation that names this container.
    Untouched,
    /// The policy of this name, in the pod's namespace.
    Policy(String),
    /// Cores without a policy: the node's default.
    NodeDefault,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveRefusal {
    #[error(
        "annotation {annotation} puts container {container} under a policy, but it requests no cores: add \
         resources.limits[\"quietcore.io/core\"] to it, or remove the annotation"
    )]
    NoCores { annotation: String, container: String },
    #[error("annotation {0} is empty: it must name a DataplanePolicy in the pod's namespace")]
    Empty(String),
    #[error("annotation {0} is unknown: use policy.quietcore.io/pod or policy.quietcore.io/container.NAME")]
    Unknown(String),
}

pub fn resolve(
    annotations: &HashMap<String, String>,
    container: &str,
    has_cores: bool,
) -> Result<Choice, ResolveRefusal> {
    let own = format!("{CONTAINER}{container}");
    if !has_cores {
        return match annotations.contains_key(&own) {
            true => Err(ResolveRefusal::NoCores { annotation: own, container: container.to_owned() }),
            false => Ok(Choice::Untouched),
        };
    }
    let ours = annotations.keys().filter(|key| key.starts_with(PREFIX));
    if let Some(unknown) = ours.filter(|key| *key != POD && !key.starts_with(CONTAINER)).min() {
        return Err(ResolveRefusal::Unknown(unknown.clone()));
    }
    for key in [own.as_str(), POD] {
        if let Some(name) = annotations.get(key) {
            return match name.trim() {
                "" => Err(ResolveRefusal::Empty(key.to_owned())),
                name => Ok(Choice::Policy(name.to_owned())),
            };
        }
    }
    Ok(Choice::NodeDefault)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(annotations: &[(&str, &str)], has_cores: bool, expect: Result<Choice, &str>) {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let found = resolve(&annotations, "app", has_cores).map_err(|refusal| refusal.to_string());
        match expect {
            Ok(choice) => assert_eq!(found, Ok(choice)),
            Err(words) => assert!(found.as_ref().is_err_and(|found| found.contains(words)), "{found:?}"),
        }
    }

    #[test]
    fn a_container_without_cores_is_untouched_unless_it_is_named() {
        check(&[], false, Ok(Choice::Untouched));
        check(&[(POD, "p")], false, Ok(Choice::Untouched));
        check(&[("policy.quietcore.io/container.other", "p")], false, Ok(Choice::Untouched));
        check(&[("policy.quietcore.io/container.app", "p")], false, Err("requests no cores"));
    }

    #[test]
    fn the_containers_own_annotation_wins() {
        check(&[(POD, "p")], true, Ok(Choice::Policy("p".into())));
        check(
            &[(POD, "p"), ("policy.quietcore.io/container.app", "q")],
            true,
            Ok(Choice::Policy("q".into())),
        );
        check(&[], true, Ok(Choice::NodeDefault));
    }

    #[test]
    fn typos_do_not_turn_into_the_default_policy() {
        check(&[("policy.quietcore.io/pods", "p")], true, Err("policy.quietcore.io/pods is unknown"));
        check(&[(POD, " ")], true, Err("is empty"));
        check(&[("policy.quietcore.io/pods", "p")], false, Ok(Choice::Untouched));
    }
}
