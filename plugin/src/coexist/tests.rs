use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use quietcore_proto::nri::{Container, Mount, PodSandbox};

use super::*;
use crate::{
    coexist::cpu_manager::tests::state,
    cores::ledger::Holder,
    nri::validate::{Plugin, Validated},
};

const NONE: &str = r#"{"policyName":"none","defaultCpuSet":"","checksum":1353318690}"#;

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn render(found: &[Conflict]) -> String {
    found.iter().map(|Conflict { who, what, remedy }| format!("{who}\n    {what}\n    {remedy}\n")).collect()
}

/// CPUs 2-7 are published.
#[track_caller]
fn check_kubelet(text: &str, allocatable: Option<&str>, from_runtime: &[(&str, &str)], expect: Expect) {
    let allocatable = allocatable.map(set);
    let from_runtime: Vec<_> =
        from_runtime.iter().map(|(uid, name)| ((*uid).to_owned(), (*name).to_owned())).collect();
    let facts = Facts {
        published: Some(&set("2-7")),
        cpu_manager: &CpuManager::State(state(text)),
        allocatable: allocatable.as_ref(),
        from_runtime: &from_runtime,
        peers: &Peers::default(),
    };
    expect.assert_eq(&render(&conflicts(&facts)));
}

#[test]
fn a_kubelet_that_sets_no_cpus_is_no_conflict() {
    check_kubelet(NONE, None, &[], expect![""]);
}

#[test]
fn a_strict_reservation_is_no_conflict() {
    check_kubelet(
        r#"{"policyName":"static","defaultCpuSet":"8-15","entries":{"u":{"app":"16-19"}},"checksum":1}"#,
        Some("8-19"),
        &[],
        expect![""],
    );
}

#[test]
fn the_missing_setting_of_the_kubelet_is_named_exactly() {
    let open = r#"{"policyName":"static","defaultCpuSet":"0-15","checksum":1}"#;
    check_kubelet(
        open,
        Some("8-15"),
        &[],
        expect![[r#"
        kubelet
            the shared pool of its static CPU manager policy contains the published CPUs 2-7
            in its configuration set cpuManagerPolicyOptions strict-cpu-reservation: "true", then drain the node, delete /var/lib/kubelet/cpu_manager_state and restart the kubelet
    "#]],
    );
    check_kubelet(
        open,
        Some("6-15"),
        &[],
        expect![[r#"
        kubelet
            the shared pool of its static CPU manager policy contains the published CPUs 2-7
            in its configuration add 6-7 to reservedSystemCPUs and set cpuManagerPolicyOptions strict-cpu-reservation: "true", then drain the node, delete /var/lib/kubelet/cpu_manager_state and restart the kubelet
    "#]],
    );
    check_kubelet(
        open,
        None,
        &[],
        expect![[r#"
        kubelet
            the shared pool of its static CPU manager policy contains the published CPUs 2-7
            in its configuration let reservedSystemCPUs contain 2-7 and set cpuManagerPolicyOptions strict-cpu-reservation: "true", then drain the node, delete /var/lib/kubelet/cpu_manager_state and restart the kubelet
    "#]],
    );
}

#[test]
fn exclusive_cpus_are_a_conflict_unless_a_policy_takes_them_from_the_runtime() {
    let given = r#"{"policyName":"static","defaultCpuSet":"0-1","entries":{"u":{"app":"2-3"},"v":{"app":"8-9"}},"checksum":1}"#;
    check_kubelet(
        given,
        None,
        &[],
        expect![[r#"
        kubelet
            its CPU manager gave the published CPUs 2-3 to container app of pod u
            in its configuration let reservedSystemCPUs contain 2-3, then drain the node, delete /var/lib/kubelet/cpu_manager_state and restart the kubelet
    "#]],
    );
    check_kubelet(given, None, &[("u", "app")], expect![""]);
}

#[test]
fn a_policy_that_nobody_knows_and_a_file_that_cannot_be_read_are_told() {
    check_kubelet(
        r#"{"policyName":"dynamic","defaultCpuSet":"0-15","checksum":1}"#,
        None,
        &[],
        expect![[r#"
        kubelet
            its CPU manager policy dynamic is unknown to quietcore
            set cpuManagerPolicy to none or static
    "#]],
    );
    let cpu_manager = CpuManager::Unreadable("read /f: Permission denied".to_owned());
    let peers = Peers::default();
    let published = set("2-7");
    let facts = Facts {
        published: Some(&published),
        cpu_manager: &cpu_manager,
        allocatable: None,
        from_runtime: &[],
        peers: &peers,
    };
    assert!(render(&conflicts(&facts)).contains("Permission denied"));
    assert_eq!(conflicts(&Facts { published: None, ..facts }), []);
}

#[test]
fn a_message_names_the_first_and_counts_the_rest() {
    let [who, what, remedy] = ["who", "what", "remedy"].map(str::to_owned);
    let conflicts = vec![Conflict { who, what, remedy }; 10];
    assert_eq!(message(&conflicts[..2]), "who: what; remedy\nwho: what; remedy");
    assert_eq!(message(&conflicts).lines().last(), Some("and 2 more"));
    assert_eq!(message(&[]), "");
}

fn pod(name: &str, labels: &[(&str, &str)]) -> PodSandbox {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    PodSandbox { name: name.to_owned(), namespace: "n".to_owned(), labels, ..PodSandbox::default() }
}

fn container(id: &str, mounts: &[&str]) -> Container {
    let mount = |&source: &&str| Mount { source: source.to_owned(), ..Mount::default() };
    let [id, name] = [id, "app"].map(str::to_owned);
    Container { id, name, mounts: mounts.iter().map(mount).collect(), ..Container::default() }
}

fn plugin(index: &str, name: &str) -> Plugin {
    Plugin { index: index.to_owned(), name: name.to_owned() }
}

fn validated(consulted: &[Plugin], owner: Option<&Plugin>) -> Validated {
    let owners = owner.map(|owner| ("c".to_owned(), owner.clone()));
    Validated { consulted: consulted.to_vec(), cpuset_owners: BTreeMap::from_iter(owners) }
}

#[track_caller]
fn check(peers: &Peers, cpu_manager: &str, expect: Expect) {
    let facts = Facts {
        published: Some(&set("2-7")),
        cpu_manager: &CpuManager::State(state(cpu_manager)),
        allocatable: None,
        from_runtime: &[],
        peers,
    };
    expect.assert_eq(&render(&conflicts(&facts)));
}

fn seen(pods: &[(&PodSandbox, &Container)]) -> Peers {
    let mut peers = Peers::default();
    peers.synchronized(pods.iter().copied());
    peers
}

#[test]
fn each_known_plugin_is_named_by_its_pod_before_it_did_anything() {
    let nri = container("c", &["/var/run/nri"]);
    let name = "app.kubernetes.io/name";
    let balloons = pod("balloons-x", &[(name, "nri-resource-policy-balloons")]);
    check(
        &seen(&[(&balloons, &nri)]),
        NONE,
        expect![[r#"
        nri-resource-policy-balloons
            it runs on this node, as pod n/balloons-x, and sets containers' cpusets
            in its BalloonsPolicy set availableResources.cpu: "exclude-cpuset:2-7", and annotate strict pods with cpu.preserve.resource-policy.nri.io/container.NAME: "true" and memory.preserve.resource-policy.nri.io/container.NAME: "true"
    "#]],
    );
    let topology = pod("ta-x", &[(name, "nri-resource-policy-topology-aware")]);
    check(
        &seen(&[(&topology, &nri)]),
        NONE,
        expect![[r#"
        nri-resource-policy-topology-aware
            it runs on this node, as pod n/ta-x, and sets containers' cpusets
            in its TopologyAwarePolicy set availableResources.cpu: "exclude-cpuset:2-7", and annotate strict pods with cpu.preserve.resource-policy.nri.io/container.NAME: "true" and memory.preserve.resource-policy.nri.io/container.NAME: "true"
    "#]],
    );
    let dra = pod("dracpu-x", &[("app", "dracpu")]);
    check(
        &seen(&[(&dra, &nri)]),
        NONE,
        expect![[r#"
        dra-driver-cpu
            it runs on this node, as pod n/dracpu-x, and sets containers' cpusets
            keep it off this node, or let strict pods claim their CPUs from it under policies with cores.from: Runtime; its driverConfig.reservedCPUs: "2-7" (--reserved-cpus) keeps its claims off these CPUs, but it sets the cpuset of strict containers all the same
    "#]],
    );
    let koordlet = pod("koordlet-x", &[("koord-app", "koordlet")]);
    check(
        &seen(&[(&koordlet, &container("c", &["/sys/fs/cgroup/"]))]),
        NONE,
        expect![[r#"
        koordlet
            it runs on this node, as pod n/koordlet-x, and sets containers' cpusets
            start it with -feature-gates=CPUSetAllocator=false, set cpuSuppressPolicy: cfsQuota in resource-threshold-config of ConfigMap slo-controller-config, and annotate the Node with node.koordinator.sh/reservation: '{"reservedCPUs":"2-7"}'
    "#]],
    );
    let pooler = pod("cpu-setter-x", &[("cpu-pooler", "cpu-setter")]);
    let checkpoint = container("c", &["/var/lib/kubelet/device-plugins/kubelet_internal_checkpoint"]);
    check(
        &seen(&[(&pooler, &checkpoint)]),
        NONE,
        expect![[r#"
        CPU-Pooler
            it runs on this node, as pod n/cpu-setter-x, and sets containers' cpusets
            leave 2-7 out of its pools in ConfigMap cpu-pooler-configmap
    "#]],
    );
}

#[test]
fn a_label_alone_makes_nobody_a_plugin() {
    let liar = pod("liar", &[("app.kubernetes.io/name", "dra-driver-cpu")]);
    check(&seen(&[(&liar, &container("c", &["/var/run/nri-is-not-this", "/tmp"]))]), NONE, expect![""]);
}

#[test]
fn a_plugin_that_comes_and_goes_is_a_conflict_while_it_is_there() {
    let dra = pod("dracpu-x", &[("app", "dracpu")]);
    let mut peers = seen(&[]);
    peers.created(&dra, &container("c", &["/run/nri/nri.sock"]));
    assert_eq!(peers.pods().count(), 1);
    peers.ended("c");
    peers.ended("c");
    check(&peers, NONE, expect![""]);
}

#[test]
fn a_plugin_that_set_an_ordinary_containers_cpus_is_named_once_and_by_its_nri_name() {
    let balloons = plugin("90", "resource-manager");
    let ours = plugin("90", "quietcore");
    let all = [balloons.clone(), ours.clone()];
    let name = pod("balloons-x", &[("app.kubernetes.io/name", "nri-resource-policy-balloons")]);
    let mut peers = seen(&[(&name, &container("c", &["/var/run/nri"]))]);
    peers.validated(validated(&all, Some(&balloons)));
    check(
        &peers,
        NONE,
        expect![[r#"
        NRI plugin 90-resource-manager (nri-resource-policy-balloons or nri-resource-policy-topology-aware)
            it sets containers' cpusets, and the runtime refuses a strict container that two plugins set
            in its BalloonsPolicy set availableResources.cpu: "exclude-cpuset:2-7", and annotate strict pods with cpu.preserve.resource-policy.nri.io/container.NAME: "true" and memory.preserve.resource-policy.nri.io/container.NAME: "true"
    "#]],
    );
    peers.validated(validated(std::slice::from_ref(&ours), None));
    assert_eq!(peers.cpuset_owners().count(), 0);
    peers.validated(validated(std::slice::from_ref(&ours), Some(&ours)));
    assert_eq!(peers.cpuset_owners().count(), 0);
}

#[test]
fn a_plugin_that_sets_no_cpuset_any_more_is_forgotten() {
    let pinner = plugin("10", "pinner");
    let connected = std::slice::from_ref(&pinner);
    let mut peers = seen(&[]);
    for owner in [Some(&pinner), None, Some(&pinner)] {
        peers.validated(validated(connected, owner));
        assert_eq!(peers.cpuset_owners().count(), 1);
    }
    (0..49).for_each(|_| peers.validated(validated(connected, None)));
    assert_eq!(peers.cpuset_owners().count(), 1);
    peers.validated(validated(connected, None));
    assert_eq!(peers.cpuset_owners().count(), 0);
}

#[test]
fn a_plugin_that_nobody_knows_is_named_too() {
    let other = plugin("42", "pinner");
    let mut peers = seen(&[]);
    peers.validated(validated(std::slice::from_ref(&other), Some(&other)));
    check(
        &peers,
        NONE,
        expect![[r#"
        NRI plugin 42-pinner
            it sets containers' cpusets, and the runtime refuses a strict container that two plugins set
            keep it off this node, or let it leave strict containers and CPUs 2-7 alone
    "#]],
    );
}

#[test]
fn a_second_agent_of_ours_is_seen_on_the_socket_and_by_its_pod() {
    let mut peers = seen(&[]);
    peers.validated(validated(&[plugin("90", "quietcore")], None));
    check(&peers, NONE, expect![""]);
    peers.validated(validated(&[plugin("90", "quietcore"), plugin("90", "quietcore")], None));
    check(
        &peers,
        NONE,
        expect![[r#"
        quietcore
            2 agents are connected to this node's container runtime
            keep one of both installations off this node
    "#]],
    );
    let label = [("app.kubernetes.io/name", "quietcore")];
    let (one, other) = (pod("quietcore-a", &label), pod("quietcore-b", &label));
    let (first, second) = (container("c", &["/var/run/nri"]), container("d", &["/var/run/nri"]));
    assert_eq!(seen(&[(&one, &first)]).n_agents(), 1);
    assert_eq!(seen(&[(&one, &first), (&other, &second)]).n_agents(), 2);
}

#[test]
fn whoever_wants_a_strict_container_elsewhere_is_told_of_unless_it_is_the_static_policy_as_usual() {
    let mut peers = seen(&[]);
    let ours = set("2");
    let [namespace, pod, pod_uid, container] = ["n", "p", "uid", "app"].map(str::to_owned);
    let holder = Holder { namespace, pod, pod_uid, container };
    peers.asked("c", &holder, "0-1", &ours);
    check(
        &peers,
        NONE,
        expect![[r#"
        another NRI plugin, the kubelet, or a client of the runtime's CRI
            container n/p/app was to run on CPUs 0-1 instead of its own
            let nothing but quietcore set the cpuset of strict containers: look for other NRI plugins, node agents and cpuManagerPolicy on this node
    "#]],
    );
    let reserved = r#"{"policyName":"static","defaultCpuSet":"0-1","checksum":1}"#;
    check(&peers, reserved, expect![""]);
    for nothing in ["", "none", "2"] {
        peers.asked("d", &holder, nothing, &ours);
    }
    assert_eq!(peers.overrides().count(), 1);
    peers.asked("c", &holder, "2", &ours);
    assert_eq!(peers.overrides().count(), 0);
}
