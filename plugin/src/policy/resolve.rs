//! Step 2: which policy a container of a pod is under, by the pod's annotations, and whether it is about that
//! container at all. Pure.
//!
//! What requests cores is strict, with or without a policy. What does not is strict only under a policy that
//! takes cores from the runtime; which one that is only the policy tells, so it is looked up for every container
//! that an annotation is about.

use std::collections::HashMap;

use super::effective::Effective;

const PREFIX: &str = "policy.quietcore.io/";
const POD: &str = "policy.quietcore.io/pod";
const CONTAINER: &str = "policy.quietcore.io/container.";

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// Not ours: no cores, and no annotation.
    Untouched,
    /// The policy has to be found, and asked (`Named::cores`).
    Policy(Named),
    /// Cores without a policy: the node's default.
    NodeDefault,
}

/// A policy of the pod's namespace that an annotation names for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub policy: String,
    annotation: String,
    container: String,
    has_cores: bool,
}

/// Who chose the CPUs of a container under a policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CoresOf {
    Devices,
    Runtime,
    /// It has none, and its pod's policy is about those that do: not ours.
    Nobody,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveRefusal {
    #[error(
        "annotation {annotation} puts container {container} under a policy, but it requests no cores: add \
         resources.limits[\"quietcore.io/core\"] to it, or remove the annotation"
    )]
    NoCores { annotation: String, container: String },
    #[error(
        "annotation {annotation} puts container {container} under a policy that takes cores from the runtime \
         (cores.from: Runtime), but it requests quietcore.io/core: remove the request, or set cores.from: Devices"
    )]
    TwoSources { annotation: String, container: String },
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
    let ours = annotations.keys().filter(|key| key.starts_with(PREFIX));
    if let Some(unknown) = ours.filter(|key| *key != POD && !key.starts_with(CONTAINER)).min() {
        return Err(ResolveRefusal::Unknown(unknown.clone()));
    }
    for key in [own.as_str(), POD] {
        if let Some(name) = annotations.get(key) {
            let policy = name.trim().to_owned();
            if policy.is_empty() {
                return Err(ResolveRefusal::Empty(key.to_owned()));
            }
            let (annotation, container) = (key.to_owned(), container.to_owned());
            return Ok(Choice::Policy(Named { policy, annotation, container, has_cores }));
        }
    }
    Ok(if has_cores { Choice::NodeDefault } else { Choice::Untouched })
}

impl Named {
    /// `policy` is the one that is named. Under one that takes cores from the runtime, for a whole pod, each of
    /// its containers must have got some: nothing else tells those that were meant from those that were not.
    pub fn cores(&self, policy: &Effective) -> Result<CoresOf, ResolveRefusal> {
        let (annotation, container) = (self.annotation.clone(), self.container.clone());
        match (self.has_cores, policy.cores.from_runtime) {
            (true, false) => Ok(CoresOf::Devices),
            (false, true) => Ok(CoresOf::Runtime),
            (true, true) => Err(ResolveRefusal::TwoSources { annotation, container }),
            (false, false) if annotation == POD => Ok(CoresOf::Nobody),
            (false, false) => Err(ResolveRefusal::NoCores { annotation, container }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{accept::node_default, effective::CoresWanted};

    const OWN: &str = "policy.quietcore.io/container.app";

    /// `expect`: the policy's name, "" for the node's default, "-" for untouched, or words of a refusal.
    #[track_caller]
    fn check(annotations: &[(&str, &str)], has_cores: bool, expect: Result<&str, &str>) {
        let annotations =
            annotations.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let found = resolve(&annotations, "app", has_cores).map_err(|refusal| refusal.to_string());
        let name = found.as_ref().map(|choice| match choice {
            Choice::Untouched => "-",
            Choice::NodeDefault => "",
            Choice::Policy(named) => &named.policy,
        });
        match expect {
            Ok(expected) => assert_eq!(name, Ok(expected)),
            Err(words) => assert!(name.is_err_and(|refusal| refusal.contains(words)), "{found:?}"),
        }
    }

    #[track_caller]
    fn check_cores(annotation: &str, has_cores: bool, from_runtime: bool, expect: Result<CoresOf, &str>) {
        let cores = CoresWanted { from_runtime, ..CoresWanted::default() };
        let policy = Effective { cores, ..node_default() };
        let annotations = [(annotation.to_owned(), "p".to_owned())].into();
        let Ok(Choice::Policy(named)) = resolve(&annotations, "app", has_cores) else { panic!("no policy") };
        let found = named.cores(&policy).map_err(|refusal| refusal.to_string());
        match expect {
            Ok(cores) => assert_eq!(found, Ok(cores)),
            Err(words) => assert!(found.as_ref().is_err_and(|found| found.contains(words)), "{found:?}"),
        }
    }

    #[test]
    fn a_container_that_nothing_is_said_of_is_untouched() {
        check(&[], false, Ok("-"));
        check(&[("policy.quietcore.io/container.other", "p")], false, Ok("-"));
    }

    #[test]
    fn the_containers_own_annotation_wins() {
        for has_cores in [true, false] {
            check(&[(POD, "p")], has_cores, Ok("p"));
            check(&[(POD, "p"), (OWN, "q")], has_cores, Ok("q"));
        }
        check(&[], true, Ok(""));
    }

    #[test]
    fn typos_do_not_turn_into_the_default_policy_or_into_none() {
        for has_cores in [true, false] {
            check(
                &[("policy.quietcore.io/pods", "p")],
                has_cores,
                Err("policy.quietcore.io/pods is unknown"),
            );
            check(&[(POD, " ")], has_cores, Err("is empty"));
        }
    }

    #[test]
    fn without_cores_a_policy_of_devices_is_about_others_unless_it_names_the_container() {
        check_cores(POD, false, false, Ok(CoresOf::Nobody));
        check_cores(OWN, false, false, Err("requests no cores"));
        check_cores(OWN, true, false, Ok(CoresOf::Devices));
    }

    #[test]
    fn a_policy_that_takes_cores_from_the_runtime_is_about_every_container_it_is_named_for() {
        check_cores(POD, false, true, Ok(CoresOf::Runtime));
        check_cores(OWN, false, true, Ok(CoresOf::Runtime));
        check_cores(POD, true, true, Err("requests quietcore.io/core"));
    }
}
