//! Who else gives out CPUs on this node, and whether the kernel can make partitions of them.

use serde::Deserialize;

use super::{
    Asked, few,
    processes::Processes,
    tree::{Said, Tree},
};
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::CpuSet,
};

pub const CPU_MANAGER_STATE: &str = "var/lib/kubelet/cpu_manager_state";
/// Of the hierarchy's root (cgroup v2).
pub const CONTROLLERS: &str = "sys/fs/cgroup/cgroup.controllers";
/// Started by the runtime itself.
pub const NRI_PLUGINS: &str = "opt/nri/plugins";

pub const CGROUP: Item = Item {
    group: Group::Kubernetes,
    name: "cgroup version",
    why: "cpuset partitions isolate cores without a reboot under v2",
};
pub const CPU_MANAGER: Item = Item {
    group: Group::Kubernetes,
    name: "kubelet's CPU manager",
    why: "policy static gives the same CPUs to other pods, unless they are reserved there",
};
pub const OTHERS: Item = Item {
    group: Group::Kubernetes,
    name: "other CPU allocators",
    why: "an NRI plugin that sets cpusets as well takes cores away, or makes pods fail that both want to place",
};

#[derive(Debug)]
pub struct Facts {
    pub controllers: Option<String>,
    pub cpu_manager: Said,
    pub plugins: Vec<String>,
}

pub fn read(tree: &Tree, processes: &Processes) -> Facts {
    let running = ["nri-", "koordlet", "dracpu"].into_iter().flat_map(|name| processes.named(name));
    let running = running.map(|process| format!("{} (pid {})", process.comm, process.pid));
    let installed = tree.names(NRI_PLUGINS).into_iter().filter(|name| !name.contains("quietcore"));
    Facts {
        controllers: tree.text(CONTROLLERS),
        cpu_manager: tree.said(CPU_MANAGER_STATE),
        plugins: running.chain(installed.map(|name| format!("/{NRI_PLUGINS}/{name}"))).collect(),
    }
}

pub fn judge(facts: &Facts, asked: &Asked) -> Vec<Finding> {
    vec![cgroup(facts), cpu_manager(facts, asked), others(facts)]
}

fn cgroup(facts: &Facts) -> Finding {
    let remedy = "boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all";
    match facts.controllers.as_deref() {
        None => CGROUP.is(State::NotHere, "v1", remedy),
        Some(controllers) => match controllers.split_ascii_whitespace().any(|name| name == "cpuset") {
            true => CGROUP.is(State::Good, "v2", remedy),
            false => CGROUP.is(State::NotHere, "v2, and the cpuset controller is not in it", remedy),
        },
    }
}

/// pkg/kubelet/cm/cpumanager/state/checkpoint.go
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Checkpoint {
    policy_name: String,
    #[serde(default)]
    default_cpu_set: String,
}

fn cpu_manager(facts: &Facts, asked: &Asked) -> Finding {
    let cores = &asked.cores;
    let remedy = format!(
        "kubelet: reservedSystemCPUs: \"{cores}\" with policy option strict-cpu-reservation, or policies with \
         cores.from: Runtime"
    );
    let text = match &facts.cpu_manager {
        Said::Text(text) => text,
        Said::Absent => return CPU_MANAGER.not_here("no kubelet here"),
        Said::Refused(why) => return CPU_MANAGER.is(State::Unknown, why.clone(), remedy),
    };
    let Ok(Checkpoint { policy_name, default_cpu_set }) = serde_json::from_str(text) else {
        return CPU_MANAGER.is(State::Unknown, "its state is not one that this version knows", remedy);
    };
    let shared: Option<CpuSet> = default_cpu_set.parse().ok();
    match shared.and_then(|shared| asked.hit(&shared)) {
        Some(cpus) if policy_name == "static" => {
            CPU_MANAGER.is(State::Missing, format!("static, may give CPU {cpus} to other pods"), remedy)
        }
        _ => CPU_MANAGER.is(State::Good, policy_name, remedy),
    }
}

fn others(facts: &Facts) -> Finding {
    let remedy = "remove it from this node, or leave the cores to it (policies with cores.from: Runtime)";
    match facts.plugins.is_empty() {
        true => OTHERS.is(State::Good, "none known", remedy),
        false => OTHERS.is(State::Missing, few(&facts.plugins), remedy),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::check::facts::testing::{asked, files, lines};

    #[track_caller]
    fn check(tree: &[(&str, &str)], expect: Expect) {
        let (_root, tree) = files(tree);
        expect.assert_eq(&lines(&judge(&read(&tree, &Processes::read(&tree)), &asked())));
    }

    #[test]
    fn who_gives_out_the_same_cpus_is_named() {
        check(
            &[
                (CONTROLLERS, "cpuset cpu io memory pids\n"),
                (CPU_MANAGER_STATE, r#"{"policyName":"static","defaultCpuSet":"0,2-3","checksum":1}"#),
                ("proc/812/comm", "nri-resource-po\n"),
                ("opt/nri/plugins/10-balloons", ""),
                ("opt/nri/plugins/10-quietcore", ""),
            ],
            expect![[r#"
                cgroup version: good: v2 -> boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all
                kubelet's CPU manager: missing: static, may give CPU 2-3 to other pods -> kubelet: reservedSystemCPUs: "1-3" with policy option strict-cpu-reservation, or policies with cores.from: Runtime
                other CPU allocators: missing: nri-resource-po (pid 812), /opt/nri/plugins/10-balloons -> remove it from this node, or leave the cores to it (policies with cores.from: Runtime)
            "#]],
        );
    }

    #[test]
    fn reserved_cores_are_nobody_elses() {
        check(
            &[(CPU_MANAGER_STATE, r#"{"policyName":"static","defaultCpuSet":"0"}"#)],
            expect![[r#"
            cgroup version: not here: v1 -> boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all
            kubelet's CPU manager: good: static -> kubelet: reservedSystemCPUs: "1-3" with policy option strict-cpu-reservation, or policies with cores.from: Runtime
            other CPU allocators: good: none known -> remove it from this node, or leave the cores to it (policies with cores.from: Runtime)
        "#]],
        );
        check(
            &[(CPU_MANAGER_STATE, "not json"), (CONTROLLERS, "cpu\n")],
            expect![[r#"
            cgroup version: not here: v2, and the cpuset controller is not in it -> boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all
            kubelet's CPU manager: unknown: its state is not one that this version knows -> kubelet: reservedSystemCPUs: "1-3" with policy option strict-cpu-reservation, or policies with cores.from: Runtime
            other CPU allocators: good: none known -> remove it from this node, or leave the cores to it (policies with cores.from: Runtime)
        "#]],
        );
        check(
            &[],
            expect![[r#"
            cgroup version: not here: v1 -> boot with systemd.unified_cgroup_hierarchy=1 cgroup_no_v1=all
            kubelet's CPU manager: not here: no kubelet here -> nothing needs to change
            other CPU allocators: good: none known -> remove it from this node, or leave the cores to it (policies with cores.from: Runtime)
        "#]],
        );
    }
}
