//! Step 4: turns a grant into what NRI is asked to change.
//!
//! Called by the gate for CreateContainer; `verify` later checks that the runtime did it. Pure: no IO, no
//! clock. An `Err` here fails the container's creation, so it must be something the pod's owner can act on.

use quietcore_proto::nri::{
    Container, ContainerAdjustment, ContainerUpdate, LinuxContainerAdjustment, LinuxContainerUpdate,
    LinuxCpu, LinuxResources, Mount, OptionalInt64,
};

use crate::{arm::plan::SHIM_PATH, cores::set::CpuSet};

/// Allocate asks for a mount here that no runtime can make; removing it is what only the living agent does.
pub const TRIPWIRE: &str = "/proc/quietcore-agent-is-not-running";

/// NRI's mark for "remove the entry with this key" (nri/pkg/api, `MarkForRemoval`).
const REMOVE: &str = "-";

#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    pub cpus: &'a CpuSet,
    /// NUMA nodes of `cpus`; `None` where the machine does not tell.
    pub mems: Option<&'a str>,
    pub shim_on_node: &'a str,
    pub plan: &'a str,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdjustRefusal {
    #[error("the container has no command: set `command` in the pod, or an entrypoint in its image")]
    NoCommand,
}

pub fn adjust(container: &Container, wanted: &Wanted<'_>) -> Result<ContainerAdjustment, AdjustRefusal> {
    if container.args.is_empty() {
        return Err(AdjustRefusal::NoCommand);
    }
    let shim = [SHIM_PATH, wanted.plan, "--"].map(str::to_owned);
    let mut mounts = vec![Mount {
        destination: SHIM_PATH.to_owned(),
        r#type: "bind".to_owned(),
        source: wanted.shim_on_node.to_owned(),
        options: ["bind", "ro", "nosuid", "nodev"].map(str::to_owned).to_vec(),
    }];
    if container.mounts.iter().any(|mount| mount.destination == TRIPWIRE) {
        mounts.push(Mount { destination: format!("{REMOVE}{TRIPWIRE}"), ..Mount::default() });
    }
    Ok(ContainerAdjustment {
        args: shim.into_iter().chain(container.args.iter().cloned()).collect(),
        mounts,
        linux: Some(LinuxContainerAdjustment {
            resources: Some(strict_resources(wanted.cpus, wanted.mems)),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    })
}

/// The answer to somebody else's update of a strict container (the kubelet's CPU manager, an in-place
/// resize): whatever else it changes, the cores and the missing quota stay.
pub fn keep(
    container_id: &str,
    mut requested: LinuxResources,
    cpus: &CpuSet,
    mems: Option<&str>,
) -> ContainerUpdate {
    let strict = strict_cpu(cpus, mems);
    let cpu = requested.cpu.get_or_insert_default();
    cpu.cpus = strict.cpus;
    cpu.mems = strict.mems;
    cpu.quota = strict.quota;
    ContainerUpdate {
        container_id: container_id.to_owned(),
        linux: Some(LinuxContainerUpdate { resources: Some(requested) }),
        ignore_failure: false,
    }
}

fn strict_resources(cpus: &CpuSet, mems: Option<&str>) -> LinuxResources {
    LinuxResources { cpu: Some(strict_cpu(cpus, mems)), ..LinuxResources::default() }
}

fn strict_cpu(cpus: &CpuSet, mems: Option<&str>) -> LinuxCpu {
    LinuxCpu {
        cpus: cpus.to_string(),
        mems: mems.unwrap_or_default().to_owned(),
        // A quota keeps the tick alive on a nohz_full core and throttles a polling thread (kernel/sched/core.c,
        // cfs_task_bw_constrained). -1 is "no limit" in the runtime specification.
        quota: Some(OptionalInt64 { value: -1 }),
        ..LinuxCpu::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(args: &[&str], mounts: &[&str]) -> Container {
        Container {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            mounts: mounts
                .iter()
                .map(|&to| Mount { destination: to.to_owned(), ..Mount::default() })
                .collect(),
            ..Container::default()
        }
    }

    fn adjusted(container: &Container) -> Result<ContainerAdjustment, AdjustRefusal> {
        let cpus: CpuSet = "1".parse().unwrap();
        adjust(container, &Wanted { cpus: &cpus, mems: Some("0"), shim_on_node: "/s", plan: "v1 cpus=1" })
    }

    fn cpu(resources: Option<&LinuxResources>) -> &LinuxCpu {
        resources.unwrap().cpu.as_ref().unwrap()
    }

    #[test]
    fn the_shim_comes_first_and_the_command_is_unchanged() {
        let adjustment = adjusted(&container(&["/app", "", "--x"], &[])).unwrap();
        assert_eq!(adjustment.args, [SHIM_PATH, "v1 cpus=1", "--", "/app", "", "--x"]);
    }

    #[test]
    fn a_container_without_a_command_is_refused() {
        assert_eq!(adjusted(&container(&[], &[])), Err(AdjustRefusal::NoCommand));
    }

    #[test]
    fn the_tripwire_is_removed_only_where_it_is() {
        let destinations = |mounts| -> Vec<String> {
            let adjustment = adjusted(&container(&["/app"], mounts)).unwrap();
            adjustment.mounts.into_iter().map(|mount| mount.destination).collect()
        };
        assert_eq!(destinations(&[TRIPWIRE]), [SHIM_PATH, "-/proc/quietcore-agent-is-not-running"]);
        assert_eq!(destinations(&["/data"]), [SHIM_PATH]);
    }

    #[test]
    fn cores_are_set_and_the_quota_is_lifted() {
        let adjustment = adjusted(&container(&["/app"], &[])).unwrap();
        let cpu = cpu(adjustment.linux.as_ref().unwrap().resources.as_ref()).clone();
        assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str(), cpu.quota.unwrap().value), ("1", "0", -1));
    }

    #[test]
    fn an_update_by_others_keeps_the_cores_and_passes_the_rest_on() {
        let cpus: CpuSet = "1".parse().unwrap();
        let mut requested = LinuxResources::default();
        requested.unified.insert("memory.high".to_owned(), "1".to_owned());
        requested.cpu = Some(LinuxCpu {
            cpus: "0-7".to_owned(),
            quota: Some(OptionalInt64 { value: 100 }),
            ..LinuxCpu::default()
        });
        let update = keep("c", requested, &cpus, None);
        let resources = update.linux.unwrap().resources.unwrap();
        assert_eq!((cpu(Some(&resources)).cpus.as_str(), resources.unified.len()), ("1", 1));
        assert_eq!(cpu(Some(&resources)).quota.unwrap().value, -1);
    }
}
