//! CFS bandwidth limits: a thread under one keeps the tick of its core, nohz_full or not
//! (kernel/sched/core.c, cfs_task_bw_constrained).

use super::tree::Tree;
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::CpuSet,
};

pub const CGROUPS: &str = "sys/fs/cgroup";
/// By the systemd driver of the kubelet, and by the cgroupfs driver.
pub const KUBEPODS: [&str; 2] = ["kubepods.slice", "kubepods"];
/// QoS class / pod / container.
const DEPTH: usize = 3;

pub const QUOTA: Item = Item {
    group: Group::Scheduler,
    name: "CFS quota",
    why: "the kernel keeps the tick of a core whose thread is under a CPU limit, also in nohz_full",
};

#[derive(Debug, Default)]
pub struct Facts {
    /// Cgroups of the cores alone that have a limit.
    pub limited: Vec<String>,
    /// Is there a hierarchy of pods?
    pub has_pods: bool,
}

pub fn read(tree: &Tree, cores: &CpuSet) -> Facts {
    let mut facts = Facts::default();
    let hierarchy = if tree.exists(&format!("{CGROUPS}/cpu/cpu.cfs_quota_us")) { "cpu/" } else { "" };
    for pods in KUBEPODS {
        facts.has_pods |= tree.exists(&format!("{CGROUPS}/{hierarchy}{pods}"));
        walk(tree, cores, hierarchy, pods, DEPTH, &mut facts.limited);
    }
    facts
}

fn walk(tree: &Tree, cores: &CpuSet, hierarchy: &str, path: &str, depth: usize, limited: &mut Vec<String>) {
    if is_limited(tree, hierarchy, path) && is_on(tree, cores, path) {
        limited.push(format!("/{path}"));
    }
    if depth == 0 {
        return;
    }
    for name in tree.folders(&format!("{CGROUPS}/{hierarchy}{path}")) {
        walk(tree, cores, hierarchy, &format!("{path}/{name}"), depth - 1, limited);
    }
}

fn is_limited(tree: &Tree, hierarchy: &str, path: &str) -> bool {
    let own = format!("{CGROUPS}/{hierarchy}{path}");
    let by_v2 = tree.text(&format!("{own}/cpu.max")).is_some_and(|max| !max.starts_with("max"));
    let by_v1 = tree.said(&format!("{own}/cpu.cfs_quota_us")).number().is_some_and(|quota| 0 < quota);
    by_v2 || by_v1
}

/// Under v1 the cpuset controller has a hierarchy of its own.
fn is_on(tree: &Tree, cores: &CpuSet, path: &str) -> bool {
    let files = [format!("{CGROUPS}/{path}/cpuset.cpus"), format!("{CGROUPS}/cpuset/{path}/cpuset.cpus")];
    files.iter().filter_map(|file| tree.set(file)).any(|cpus| cpus.without(cores).is_none())
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let remedy = "remove the containers' CPU limit, or let the kubelet do so for exclusive CPUs (feature gate \
                  DisableCPUQuotaWithExclusiveCPUs, Kubernetes 1.33)";
    let finding = match (facts.limited.is_empty(), facts.has_pods) {
        (false, _) => QUOTA.is(State::Missing, format!("limited: {}", super::few(&facts.limited)), remedy),
        (true, true) => QUOTA.is(State::Good, "no cgroup of pods on these cores alone has a limit", remedy),
        (true, false) => QUOTA.not_here("no pods' cgroups"),
    };
    vec![finding]
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::check::facts::testing::{files, lines};

    #[track_caller]
    fn check(tree: &[(&str, &str)], expect: Expect) {
        let (_root, tree) = files(tree);
        expect.assert_eq(&lines(&judge(&read(&tree, &"1-3".parse().unwrap()))));
    }

    #[test]
    fn a_limit_of_a_container_on_the_cores_is_told_by_its_cgroup_v2_and_v1() {
        let pod = "sys/fs/cgroup/kubepods.slice/kubepods-pod1.slice";
        let on = |cpus: &'static str| {
            [(format!("{pod}/c1/cpuset.cpus"), cpus), (format!("{pod}/c1/cpu.max"), "200000 100000")]
        };
        let of = |files: &[(String, &'static str)], expect: Expect| {
            let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (&**path, *text)).collect();
            check(&files, expect);
        };
        of(
            &on("2"),
            expect![[r#"
            CFS quota: missing: limited: /kubepods.slice/kubepods-pod1.slice/c1 -> remove the containers' CPU limit, or let the kubelet do so for exclusive CPUs (feature gate DisableCPUQuotaWithExclusiveCPUs, Kubernetes 1.33)
        "#]],
        );
        of(
            &on("0-2"),
            expect![[r#"
            CFS quota: good: no cgroup of pods on these cores alone has a limit -> remove the containers' CPU limit, or let the kubelet do so for exclusive CPUs (feature gate DisableCPUQuotaWithExclusiveCPUs, Kubernetes 1.33)
        "#]],
        );
        check(
            &[
                ("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1"),
                ("sys/fs/cgroup/cpu/kubepods/pod1/c1/cpu.cfs_quota_us", "100000"),
                ("sys/fs/cgroup/cpuset/kubepods/pod1/c1/cpuset.cpus", "1-3"),
            ],
            expect![[r#"
                CFS quota: missing: limited: /kubepods/pod1/c1 -> remove the containers' CPU limit, or let the kubelet do so for exclusive CPUs (feature gate DisableCPUQuotaWithExclusiveCPUs, Kubernetes 1.33)
            "#]],
        );
        check(
            &[],
            expect![[r#"
            CFS quota: not here: no pods' cgroups -> nothing needs to change
        "#]],
        );
    }
}
