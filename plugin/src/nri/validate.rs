//! Step 4: what a runtime tells of a container's adjustment once every plugin was asked (NRI 0.10): who was,
//! and whose the cpuset is. Pure.
//!
//! Only to look. A validator's error or silence fails the creation of the container, anybody's, so the session
//! answers yes by itself before it reads the message; what is in it is read later, or never. While the agent
//! is frozen, the runtime gives up on it at the container it creates just then: that creation fails once,
//! where without a validator it would go on without us, and the kubelet tries again.

use std::{collections::BTreeMap, fmt};

use quietcore_proto::nri::{Field, ValidateContainerAdjustmentRequest};

/// Of `proto::nri::Plugin`.
pub const METHOD: &str = "ValidateContainerAdjustment";

/// As it is called in other plugins' error messages: "90-quietcore".
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Plugin {
    pub index: String,
    pub name: String,
}

impl fmt::Display for Plugin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.index, self.name)
    }
}

impl Plugin {
    /// An index is two digits (containerd/nri pkg/api, `CheckPluginIndex`); a name may hold dashes.
    fn of(full_name: &str) -> Plugin {
        let (index, name) = full_name.split_once('-').unwrap_or(("", full_name));
        Plugin { index: index.to_owned(), name: name.to_owned() }
    }
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Validated {
    /// All plugins that are connected, in the order they were asked.
    pub consulted: Vec<Plugin>,
    /// By container id: of the one being created, and of others that somebody updated with it.
    pub cpuset_owners: BTreeMap<String, Plugin>,
}

impl From<ValidateContainerAdjustmentRequest> for Validated {
    fn from(request: ValidateContainerAdjustmentRequest) -> Validated {
        let plugins = request.plugins.into_iter();
        let consulted = plugins.map(|plugin| Plugin { index: plugin.index, name: plugin.name }).collect();
        let owners = request.owners.unwrap_or_default().owners.into_iter();
        let of_cpuset = owners.filter_map(|(container_id, fields)| {
            let owner = fields.simple.get(&(Field::CpuSetCpUs as i32))?;
            Some((container_id, Plugin::of(owner)))
        });
        Validated { consulted, cpuset_owners: of_cpuset.collect() }
    }
}

#[cfg(test)]
mod tests {
    use quietcore_proto::nri::{FieldOwners, OwningPlugins, PluginInstance};

    use super::*;

    #[test]
    fn owners_of_cpusets_are_told_and_those_of_other_fields_are_not() {
        let owners = |field: Field, plugin: &str| FieldOwners {
            simple: [(field as i32, plugin.to_owned())].into(),
            ..FieldOwners::default()
        };
        let owners = OwningPlugins {
            owners: [
                ("c".to_owned(), owners(Field::CpuSetCpUs, "90-resource-manager")),
                ("d".to_owned(), owners(Field::Args, "10-other")),
            ]
            .into(),
        };
        let plugin = PluginInstance { name: "resource-manager".into(), index: "90".into() };
        let request = ValidateContainerAdjustmentRequest {
            owners: Some(owners),
            plugins: vec![plugin],
            ..ValidateContainerAdjustmentRequest::default()
        };
        let Validated { consulted, cpuset_owners } = request.into();
        assert_eq!(consulted.iter().map(ToString::to_string).collect::<Vec<_>>(), ["90-resource-manager"]);
        assert_eq!(cpuset_owners, [("c".to_owned(), consulted[0].clone())].into());
    }

    #[test]
    fn a_name_may_hold_dashes() {
        assert_eq!(Plugin::of("10-my-plugin").name, "my-plugin");
        assert_eq!(Plugin::of("odd").to_string(), "-odd");
    }
}
