//! What `helm uninstall` and a stopping agent leave of us on a node. Last of all, because it takes the product away.

use std::time::Duration;

use quietcore_tests::agent::NAMESPACE;
use quietcore_tests::kube::Namespace;
use quietcore_tests::node::Node;
use quietcore_tests::product::{ENFORCE, RESOURCE, Strict, VALUES, WORKLOAD, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

#[test]
fn an_agent_that_is_told_to_stop_changes_nothing_for_strict_pods() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("upgrade");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("each-second", "each-second").apply(&namespace);
    pod.wait_log("app", "violated=2 ");
    let agent = testbed.node().agent().wait_ready();
    testbed.run_kubectl(&["delete", "pod", &agent, "-n", NAMESPACE, "--wait"]);
    testbed.wait_agents();
    pod.wait_log("app", "violated=6 signals=6");
    assert_eq!(pod.restarts("app"), 0);
}

/// As the hook leaves a node when it is killed in between.
#[test]
fn a_release_whose_asker_died_ends_by_itself_and_the_node_serves_again() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let node = testbed.node();
    for release in [false, true] {
        let until = node.sh("date -u -d '20 seconds' +%Y-%m-%dT%H:%M:%S.000000Z");
        let patch =
            format!(r#"{{"spec": {{"cordon": true, "release": {release}, "until": "{}"}}}}"#, until.trim());
        testbed.run_kubectl(&["patch", "dataplanenode", node.name(), "--type=merge", "-p", &patch]);
        let status = if release { "True" } else { "False" };
        testbed.run_kubectl(&[
            "wait",
            "dataplanenode",
            node.name(),
            &format!("--for=condition=Released={status}"),
            "--timeout=15s",
        ]);
        testbed.wait_cores(0);
        assert_eq!(is_pinned(&node), !release);
        testbed.wait_cores(1);
        assert!(is_pinned(&node));
    }
}

#[test]
fn uninstalling_names_the_pods_in_its_way_and_then_leaves_the_node_as_it_was() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let mut release = testbed.helm_install("quietcore", NAMESPACE, "charts/quietcore", &VALUES);
    let namespace = testbed.namespace("uninstall");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("spin", "spin").apply(&namespace);
    pod.wait_log("app", "arming");
    let node = testbed.node();
    assert!(
        node.sh("ls /sys/fs/bpf/quietcore").contains('-') || !node.sh("ls /sys/fs/bpf/quietcore").is_empty()
    );

    release.uninstall().expect_err("a strict pod runs");
    let said = testbed.run_kubectl(&["logs", "-n", NAMESPACE, "job/quietcore-release"]);
    assert!(said.contains(&format!("{}/spin/app", namespace.name())), "{said}");
    assert!(said.contains("delete them, then uninstall again"), "{said}");
    assert_eq!(pod.restarts("app"), 0);

    // Each answer is of this request: the refusal before says nothing of what runs now.
    release.uninstall().expect_err("the strict pod still runs");
    until("the node to serve again", Duration::from_secs(60), || {
        let n_cores = node.allocatable(RESOURCE);
        Ok(if n_cores == 1 { Seen::Done(()) } else { Seen::NotYet(n_cores) })
    });
    pod.delete();
    release.uninstall().expect("nothing strict runs");
    assert_eq!(node.sh("ls /sys/fs/bpf | grep -c quietcore || true").trim(), "0");
    assert!(testbed.get_list("dataplanenodes", &[]).is_empty());
    until("the cores to be gone", Duration::from_secs(60), || {
        let n_cores = node.allocatable("quietcore.io/core");
        Ok(if n_cores == 0 { Seen::Done(()) } else { Seen::NotYet(n_cores) })
    });
}

/// What the first grant changes for the whole node, and what keeps its core quiet.
fn settings(node: &Node<'_>) -> String {
    let files = "/proc/sys/vm/stat_interval /proc/irq/default_smp_affinity /proc/sys/kernel/timer_migration \
                 /proc/sys/kernel/watchdog_cpumask /sys/devices/virtual/workqueue/cpumask";
    node.sh(&format!("for file in {files}; do echo \"$file $(cat $file 2>&1)\"; done"))
}

fn is_pinned(node: &Node<'_>) -> bool {
    node.sh("ls /sys/fs/bpf | grep -c quietcore || true").trim() != "0"
}

/// As a Deployment, which makes an evicted pod anew, and with a budget that forbids the eviction.
fn deploy(namespace: &Namespace<'_>) {
    namespace.apply(&format!(
        r#"
apiVersion: apps/v1
kind: Deployment
metadata: {{name: spin}}
spec:
  selector: {{matchLabels: {{app: spin}}}}
  template:
    metadata: {{labels: {{app: spin}}, annotations: {{policy.quietcore.io/pod: p}}}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
        - name: app
          image: {WORKLOAD}
          imagePullPolicy: Never
          args: [spin]
          resources: {{limits: {{{RESOURCE}: 1}}}}
          securityContext: {{allowPrivilegeEscalation: false, runAsNonRoot: true, runAsUser: 65534}}
---
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata: {{name: spin}}
spec: {{maxUnavailable: 0, selector: {{matchLabels: {{app: spin}}}}}}
"#
    ));
}

fn is_running(pod: &serde_json::Value) -> bool {
    pod["status"]["phase"] == "Running"
}

#[test]
fn uninstalling_with_drain_respects_budgets_evicts_strict_pods_and_keeps_them_off_until_the_node_is_as_it_was()
 {
    let testbed = Testbed::from_env();
    let node = testbed.node();
    let before = settings(&node);
    let drain = [&VALUES[..], &["uninstall.mode=Drain", "uninstall.timeout=20s"]].concat();
    let mut release = testbed.helm_install("quietcore", NAMESPACE, "charts/quietcore", &drain);
    testbed.wait_cores(1);
    testbed.load_c_program(WORKLOAD, &["tests/workloads/workload.c"], &[]);
    let namespace = testbed.namespace("drain");
    apply_policy(&namespace, "p", ENFORCE);
    deploy(&namespace);
    let first = until("the Deployment's pod", Duration::from_secs(60), || {
        let pods = namespace.get_list("pods", &["-l", "app=spin"]);
        let running = pods.iter().find(|pod| is_running(pod)).cloned();
        Ok(running.map_or_else(|| Seen::NotYet(pods.len()), Seen::Done))
    });
    assert_ne!(settings(&node), before, "a granted core is made quiet");
    let name = first["metadata"]["name"].as_str().expect("a pod has a name");

    release.uninstall().expect_err("its budget forbids to evict it");
    let said = testbed.run_kubectl(&["logs", "-n", NAMESPACE, "job/quietcore-release"]);
    assert!(said.contains(name) && said.contains("disruption budget"), "{said}");
    assert!(is_running(&namespace.pod(name).get()) && is_pinned(&node));
    testbed.wait_cores(1);

    namespace.delete("poddisruptionbudget", "spin");
    release.uninstall().expect("the pod is evicted");
    assert!(testbed.get_list("dataplanenodes", &[]).is_empty());
    assert_eq!(settings(&node), before);
    assert!(!is_pinned(&node));
    let pods = namespace.get_list("pods", &["-l", "app=spin"]);
    let phases: Vec<_> = pods.iter().map(|pod| (&pod["metadata"]["name"], &pod["status"]["phase"])).collect();
    // One that waits for a core, and none that was let in and failed.
    assert!(phases.iter().all(|(other, phase)| *other != name && *phase == "Pending"), "{phases:?}");
    assert_eq!(phases.len(), 1, "{phases:?}");
}
