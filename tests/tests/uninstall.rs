//! What `helm uninstall` and a stopping agent leave of us on a node. Last of all, because it takes the product away.

use std::time::Duration;

use quietcore_tests::agent::NAMESPACE;
use quietcore_tests::product::{ENFORCE, Strict, VALUES, apply_policy};
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

    pod.delete();
    release.uninstall().expect("nothing strict runs");
    assert_eq!(node.sh("ls /sys/fs/bpf | grep -c quietcore || true").trim(), "0");
    assert!(testbed.get_list("dataplanenodes", &[]).is_empty());
    until("the cores to be gone", Duration::from_secs(60), || {
        let n_cores = node.allocatable("quietcore.io/core");
        Ok(if n_cores == 0 { Seen::Done(()) } else { Seen::NotYet(n_cores) })
    });
}
