//! Step 3 on a cluster: what a grant changes on its node, who hears of it, and that all of it is given back.

use std::time::Duration;

use quietcore_tests::node::Node;
use quietcore_tests::pod::Pod;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};
use serde_json::Value;

const SOON: Duration = Duration::from_secs(60);
/// What the kubelet gave to a pod whose container never came is held for two minutes.
const RESTS: Duration = Duration::from_secs(180);

/// Settings of the machine, as one text.
fn settings(node: &Node<'_>) -> String {
    node.sh("head -n1 /proc/sys/vm/stat_interval /proc/sys/kernel/watchdog_cpumask /proc/irq/default_smp_affinity \
         /proc/irq/*/smp_affinity_list /sys/devices/virtual/workqueue/cpumask 2>/dev/null || true")
}

fn stat_interval(node: &Node<'_>) -> String {
    node.sh("cat /proc/sys/vm/stat_interval").trim().to_owned()
}

/// No core is granted, and what an earlier test's pod had is given back.
#[track_caller]
fn at_rest(node: &Node<'_>) -> String {
    until("the node to be at rest", RESTS, || {
        let interval = stat_interval(node);
        Ok(if interval == "120" { Seen::NotYet(interval) } else { Seen::Done(()) })
    });
    settings(node)
}

#[track_caller]
fn wait_settings(node: &Node<'_>, before: &str) {
    until("the settings to be as before", SOON, || {
        let now = settings(node);
        Ok(if now == before { Seen::Done(()) } else { Seen::NotYet(now) })
    });
}

fn running<'n>(namespace: &'n quietcore_tests::kube::Namespace<'n>) -> Pod<'n> {
    apply_policy(namespace, "p", ENFORCE);
    let pod = Strict { restart: "Never", ..Strict::day("granted", "each-second") }.apply(namespace);
    pod.wait_log("app", "violated=1 ");
    pod
}

#[test]
fn a_grant_is_seen_on_the_machine_in_the_node_object_and_by_its_owner_and_goes_without_a_trace() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let node = testbed.node();
    let before = at_rest(&node);
    let namespace = testbed.namespace("granted");
    let pod = running(&namespace);
    assert_eq!(stat_interval(&node), "120");
    let event = pod.wait_event("NotAsQuiet");
    assert!(event.note.contains("the tick goes on: CPU 1 is not in nohz_full"), "{event}");
    until("the node's object to tell", SOON, || {
        let status = testbed.get("dataplanenode", node.name())["status"].clone();
        let setting = |name: &str| -> Option<Value> {
            let settings = status["settings"].as_array()?;
            settings.iter().find(|setting| setting["setting"] == name).cloned()
        };
        let interval = setting("vm.stat_interval").unwrap_or_default();
        let told = interval["state"] == "Kept" && interval["before"] == "1" && interval["now"] == "120";
        let findings = status["findings"].as_array().cloned().unwrap_or_default();
        let ticks = findings.iter().any(|finding| finding["item"] == "nohz_full");
        Ok(if told && ticks && status["cores"][0]["state"] == "Granted" {
            Seen::Done(())
        } else {
            Seen::NotYet(status)
        })
    });
    pod.delete();
    wait_settings(&node, &before);
}

#[test]
fn what_somebody_changes_is_set_again_and_the_owner_hears_of_it() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let node = testbed.node();
    let before = at_rest(&node);
    let namespace = testbed.namespace("drift");
    let pod = running(&namespace);
    node.sh("echo 1 > /proc/sys/vm/stat_interval");
    let event = pod.wait_event("DriftRepaired");
    assert!(event.note.starts_with("somebody changed vm.stat_interval to \"1\""), "{event}");
    assert_eq!(stat_interval(&node), "120");
    pod.delete();
    wait_settings(&node, &before);
}

#[test]
fn what_a_pod_leaves_while_the_agent_is_away_the_next_agent_gives_back() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let node = testbed.node();
    let before = at_rest(&node);
    let namespace = testbed.namespace("away");
    let pod = running(&namespace);
    let agents = testbed.remove_agents();
    pod.delete();
    assert_eq!(stat_interval(&node), "120", "the agent's exit changes nothing");
    agents.restore();
    wait_settings(&node, &before);
}

#[test]
fn a_core_that_ticks_is_refused_where_the_policy_says_so() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("ticks");
    apply_policy(&namespace, "p", "{cores: {nohz: Required}}");
    let pod = Strict::day("ticks", "quiet").apply(&namespace);
    pod.wait_waiting("app", "CreateContainerError");
    let description = pod.describe();
    assert!(
        description.contains("boot the node with nohz_full=1 (quietcore node plan --isolate 1)"),
        "{description}"
    );
}
