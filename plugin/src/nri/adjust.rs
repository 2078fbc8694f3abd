//! Step 4: turns a grant into what NRI is asked to change.
//!
//! Called by the gate for CreateContainer; `verify` later checks that the runtime did it. Pure: no IO, no
//! clock. An `Err` here fails the container's creation, so it must be something the pod's owner can act on.

use quietcore_proto::nri::{
    Container, ContainerAdjustment, ContainerUpdate, KeyValue, LinuxContainerAdjustment,
    LinuxContainerUpdate, LinuxCpu, LinuxResources, Mount, OptionalInt64,
};

use crate::{
    arm::plan::SHIM_PATH,
    cores::{set::CpuSet, shared},
};

/// Allocate asks for a mount here that no runtime can make; removing it is what only the living agent does.
pub const TRIPWIRE: &str = "/proc/quietcore-agent-is-not-running";

/// Inside a strict container: which of its CPUs are which, one line for each.
pub const CPUS_PATH: &str = "/.quietcore/cpus";

/// NRI's mark for "remove the entry with this key" (nri/pkg/api, `MarkForRemoval`).
const REMOVE: &str = "-";

#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// Granted.
    pub cpus: &'a CpuSet,
    pub shared: Option<&'a CpuSet>,
    /// NUMA nodes of both; `None` where the machine does not tell.
    pub mems: Option<&'a str>,
    /// Another allocator sets the cpuset, to these CPUs: NRI refuses a second setter.
    pub by_runtime: bool,
    pub shim_on_node: &'a str,
    /// What becomes `CPUS_PATH`.
    pub cpus_on_node: &'a str,
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
    let mut mounts = vec![
        bind(SHIM_PATH, wanted.shim_on_node, &["ro", "nosuid", "nodev"]),
        bind(CPUS_PATH, wanted.cpus_on_node, &["ro", "nosuid", "nodev", "noexec"]),
    ];
    if container.mounts.iter().any(|mount| mount.destination == TRIPWIRE) {
        mounts.push(Mount { destination: format!("{REMOVE}{TRIPWIRE}"), ..Mount::default() });
    }
    let all = shared::with(wanted.cpus, wanted.shared);
    let cpu = strict_cpu((!wanted.by_runtime).then_some(&all), wanted.mems);
    Ok(ContainerAdjustment {
        args: shim.into_iter().chain(container.args.iter().cloned()).collect(),
        mounts,
        // For the program's information; nothing of quietcore reads it. What the pod says by these names is replaced.
        env: variables(wanted),
        linux: Some(LinuxContainerAdjustment {
            resources: Some(LinuxResources { cpu: Some(cpu), ..LinuxResources::default() }),
            ..LinuxContainerAdjustment::default()
        }),
        ..ContainerAdjustment::default()
    })
}

fn bind(to: &str, from: &str, options: &[&str]) -> Mount {
    Mount {
        destination: to.to_owned(),
        r#type: "bind".to_owned(),
        source: from.to_owned(),
        options: ["bind"].iter().chain(options).map(|&option| option.to_owned()).collect(),
    }
}

fn variables(wanted: &Wanted<'_>) -> Vec<KeyValue> {
    let variables = shared::variables(wanted.cpus, wanted.shared);
    variables.map(|(key, value)| KeyValue { key: key.to_owned(), value }).to_vec()
}

/// The answer to somebody else's update of a strict container (the kubelet's CPU manager, an in-place
/// resize): whatever else it changes, its CPUs, granted and shared, and the missing quota stay.
pub fn keep(
    container_id: &str,
    mut requested: LinuxResources,
    cpus: Option<&CpuSet>,
    mems: Option<&str>,
) -> ContainerUpdate {
    let strict = strict_cpu(cpus, mems);
    let cpu = requested.cpu.get_or_insert_default();
    if cpus.is_some() {
        cpu.cpus = strict.cpus;
        cpu.mems = strict.mems;
    }
    cpu.quota = strict.quota;
    ContainerUpdate {
        container_id: container_id.to_owned(),
        linux: Some(LinuxContainerUpdate { resources: Some(requested) }),
        ignore_failure: false,
    }
}

/// `None`: the cpuset is somebody else's to set.
fn strict_cpu(cpus: Option<&CpuSet>, mems: Option<&str>) -> LinuxCpu {
    LinuxCpu {
        cpus: cpus.map(CpuSet::to_string).unwrap_or_default(),
        mems: mems.filter(|_| cpus.is_some()).unwrap_or_default().to_owned(),
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
        adjusted_with(container, None)
    }

    fn adjusted_with(
        container: &Container,
        shared: Option<&str>,
    ) -> Result<ContainerAdjustment, AdjustRefusal> {
        let cpus: CpuSet = "1".parse().unwrap();
        let shared: Option<CpuSet> = shared.map(|list| list.parse().unwrap());
        let wanted = Wanted {
            cpus: &cpus,
            shared: shared.as_ref(),
            mems: Some("0"),
            by_runtime: false,
            shim_on_node: "/s",
            cpus_on_node: "/c",
            plan: "v2 cpus=1",
        };
        adjust(container, &wanted)
    }

    fn cpu(resources: Option<&LinuxResources>) -> &LinuxCpu {
        resources.unwrap().cpu.as_ref().unwrap()
    }

    #[test]
    fn the_shim_comes_first_and_the_command_is_unchanged() {
        let adjustment = adjusted(&container(&["/app", "", "--x"], &[])).unwrap();
        assert_eq!(adjustment.args, [SHIM_PATH, "v2 cpus=1", "--", "/app", "", "--x"]);
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
        assert_eq!(
            destinations(&[TRIPWIRE]),
            [SHIM_PATH, CPUS_PATH, "-/proc/quietcore-agent-is-not-running"]
        );
        assert_eq!(destinations(&["/data"]), [SHIM_PATH, CPUS_PATH]);
    }

    #[test]
    fn cores_are_set_and_the_quota_is_lifted() {
        let adjustment = adjusted(&container(&["/app"], &[])).unwrap();
        let cpu = cpu(adjustment.linux.as_ref().unwrap().resources.as_ref()).clone();
        assert_eq!((cpu.cpus.as_str(), cpu.mems.as_str(), cpu.quota.unwrap().value), ("1", "0", -1));
    }

    #[test]
    fn shared_cpus_are_in_the_cpuset_and_told_apart_in_the_environment() {
        for (shared, cpuset, told) in [(None, "1", ""), (Some("0,2"), "0-2", "0,2")] {
            let adjustment = adjusted_with(&container(&["/app"], &[]), shared).unwrap();
            assert_eq!(cpu(adjustment.linux.as_ref().unwrap().resources.as_ref()).cpus, cpuset);
            let env = adjustment.env.iter().map(|variable| (variable.key.as_str(), variable.value.as_str()));
            let expect = [("QUIETCORE_CPUS", "1"), ("QUIETCORE_SHARED_CPUS", told)];
            assert_eq!(env.collect::<Vec<_>>(), expect);
        }
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
        let update = keep("c", requested, Some(&cpus), None);
        assert_eq!(update.container_id, "c", "without it the runtime takes the answer for nobody's");
        let resources = update.linux.unwrap().resources.unwrap();
        assert_eq!((cpu(Some(&resources)).cpus.as_str(), resources.unified.len()), ("1", 1));
        assert_eq!(cpu(Some(&resources)).quota.unwrap().value, -1);
    }
}
