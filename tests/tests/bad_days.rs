//! What happens to strict pods when something of ours, or around us, is away, slow or changed.

use std::time::Duration;

use quietcore_tests::kube::Namespace;
use quietcore_tests::pod::Pod;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

const A_WHILE: Duration = Duration::from_secs(90);

/// A pod that breaks its promise once a second and prints how often it was told.
fn each_second<'n>(namespace: &'n Namespace<'n>, restart: &str) -> Pod<'n> {
    apply_policy(namespace, "p", ENFORCE);
    let pod = Strict { restart, ..Strict::day("each-second", "each-second") }.apply(namespace);
    pod.wait_log("app", "violated=2 ");
    pod
}

/// The last `violated=N signals=M` of what the running container printed.
fn told(log: &str) -> Option<(u64, u64)> {
    let line = log.lines().rev().find(|line| line.starts_with("violated="))?;
    let mut values =
        line.split_whitespace().map(|word| word.split_once('=').and_then(|(_, n)| n.parse().ok()));
    Some((values.next()??, values.next()??))
}

/// Each of its violations since then was told, and there were some.
#[track_caller]
fn every_violation_is_told(pod: &Pod<'_>) {
    let before = told(&pod.logs("app")).map_or(0, |(violated, _)| violated);
    pod.wait_log("app", &format!("violated={} ", before + 3));
    let (violated, signals) = told(&pod.logs("app")).unwrap_or_default();
    assert_eq!(violated, signals, "{}", pod.logs("app"));
}

fn wait_agent_log(testbed: &Testbed, text: &str) {
    until(&format!("{text:?} in the agent's log"), A_WHILE, || {
        let log = testbed.node().agent().logs();
        Ok(if log.contains(text) { Seen::Done(()) } else { Seen::NotYet("not yet") })
    });
}

#[test]
fn armed_threads_outlive_the_agent_and_the_next_one_adopts_them() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("killed-agent");
    let pod = each_second(&namespace, "Never");
    let agent = testbed.node().agent();
    let restarts = agent.restarts();
    agent.kill();
    every_violation_is_told(&pod);
    testbed.wait_agents();
    wait_agent_log(&testbed, "adopted=true");
    wait_agent_log(&testbed, "\"reason\":\"KernelEntry\"");
    every_violation_is_told(&pod);
    assert_eq!((pod.restarts("app"), agent.restarts()), (0, restarts + 1));
}

#[test]
fn an_agent_that_panics_ends_and_its_gates_hold() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("panic");
    let pod = each_second(&namespace, "Always");
    let agent = testbed.node().agent();
    let panicking = testbed.set_agent_variable("QUIETCORE_PANIC_AFTER", "10s");
    agent.wait_back_off();
    assert!(agent.previous_logs().contains("a panic that was asked for"), "{}", agent.previous_logs());
    every_violation_is_told(&pod);
    kill_container(&pod);
    restarts_only_with_the_agent(&pod, || panicking.unset());
}

#[test]
fn without_an_agent_strict_pods_wait_and_ordinary_ones_start() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("no-agent");
    apply_policy(&namespace, "p", ENFORCE);
    let removed = testbed.remove_agents();
    testbed.wait_cores(0);
    let strict = Strict::day("strict", "syscall").apply(&namespace);
    let ordinary = Strict { n_cores: 0, ..Strict::day("ordinary", "sleep") }.apply(&namespace);
    ordinary.wait_log("app", "sleeping");
    assert_eq!(strict.get()["status"]["phase"], "Pending");
    removed.restore();
    assert_eq!(strict.wait_exit_code("app"), 0);
    assert!(strict.logs("app").contains("signals=1"));
}

/// Kills the container's program on its node; the kubelet makes the container anew.
fn kill_container(pod: &Pod<'_>) {
    pod.node().run(&["kill", "-9", &pod.pid("app").to_string()]);
}

/// It may not run without us, and says why; with us it runs again by itself.
#[track_caller]
fn restarts_only_with_the_agent(pod: &Pod<'_>, bring_back: impl FnOnce()) {
    pod.wait_until("to be kept from starting", |pod| {
        pod.to_string().contains("quietcore-agent-is-not-running")
    });
    bring_back();
    pod.wait_until("to run again", |pod| {
        pod["status"]["containerStatuses"][0]["state"]["running"].is_object()
    });
    pod.wait_log("app", "violated=2 ");
    every_violation_is_told(pod);
}

#[test]
fn a_restarting_container_waits_for_the_agent_also_when_the_kubelet_restarted() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("restarting");
    let pod = each_second(&namespace, "Always");
    let removed = testbed.remove_agents();
    pod.node().restart("kubelet");
    kill_container(&pod);
    restarts_only_with_the_agent(&pod, || removed.restore());
}

#[test]
fn an_agent_that_is_too_slow_is_as_good_as_none() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("slow-agent");
    let pod = each_second(&namespace, "Always");
    let held = pod.node().agent().hold();
    kill_container(&pod);
    restarts_only_with_the_agent(&pod, || held.release());
}

#[test]
fn a_restarted_runtime_finds_the_agent_again_and_threads_stay_armed() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("containerd");
    let pod = each_second(&namespace, "Never");
    let connected = |log: &str| log.matches("connected to the container runtime").count();
    let node = pod.node();
    let before = connected(&node.agent().logs());
    node.restart("containerd");
    until("the agent to register again", A_WHILE, || {
        let now = connected(&node.agent().logs());
        Ok(if before < now { Seen::Done(()) } else { Seen::NotYet(now) })
    });
    every_violation_is_told(&pod);
    pod.delete();
    let next = Strict::day("next", "syscall").apply(&namespace);
    assert_eq!(next.wait_exit_code("app"), 0);
    assert!(next.wait_event("KernelEntry").note.contains("getppid(2)"), "{:?}", next.events());
}

#[test]
fn events_of_an_outage_of_the_api_server_arrive_later() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("outage");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("later", "later").apply(&namespace);
    pod.wait_log("app", "waiting");
    let (container, pid) = (pod.container_id("app"), pod.pid("app").to_string());
    let away = testbed.stop_api_server();
    away.node().run(&["kill", "-USR2", &pid]);
    until("the violation", A_WHILE, || {
        let log = away.node().try_run(&["crictl", "logs", &container])?;
        Ok(if log.contains("signals=1") { Seen::Done(()) } else { Seen::NotYet(log) })
    });
    away.start();
    assert!(pod.wait_event("KernelEntry").note.contains("getppid(2)"));
}

#[test]
fn a_running_container_keeps_the_policy_it_started_with_and_its_owner_is_told() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("edited");
    let pod = each_second(&namespace, "Never");
    apply_policy(&namespace, "p", &ENFORCE.replace("SIGUSR1", "SIGKILL"));
    let event = pod.wait_event("PolicyChanged");
    assert!(event.note.contains("was edited") && event.note.contains("until it is restarted"), "{event}");
    every_violation_is_told(&pod);
    namespace.delete("dataplanepolicy", "p");
    until("the Event of the deletion", A_WHILE, || {
        let notes: Vec<String> = pod.events().into_iter().map(|event| event.note).collect();
        let told = notes.iter().any(|note| note.contains("was deleted"));
        Ok(if told { Seen::Done(()) } else { Seen::NotYet(notes.join("; ")) })
    });
    assert_eq!(pod.restarts("app"), 0);
}
