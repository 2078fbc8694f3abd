//! Steps 6 to 9: strictness that begins and ends by time, and a process that stands still until it is resumed.

use std::time::Duration;

use quietcore_tests::kube::Event;
use quietcore_tests::pod::Pod;
use quietcore_tests::product::{Strict, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

const A_WHILE: Duration = Duration::from_secs(60);
/// What the agent gives a thread to settle, and some time for the Event.
const PATIENCE: Duration = Duration::from_secs(60 + 30);

fn wait_agent_log(testbed: &Testbed, text: &str) {
    until(&format!("{text:?} in the agent's log"), A_WHILE, || {
        let log = testbed.node().agent().logs();
        Ok(if log.contains(text) { Seen::Done(()) } else { Seen::NotYet("not yet") })
    });
}

/// The letter of the first process's state, and nothing runs in the container to find it out.
fn state(pod: &Pod<'_>) -> String {
    let stat = pod.node().run(&["cat", &format!("/proc/{}/stat", pod.pid("app"))]);
    stat.rsplit(") ").next().and_then(|rest| rest.split(' ').next()).unwrap_or_default().to_owned()
}

#[track_caller]
fn wait_state(pod: &Pod<'_>, letter: &str) {
    until(&format!("state {letter}"), A_WHILE, || {
        let state = state(pod);
        Ok(if state == letter { Seen::Done(()) } else { Seen::NotYet(state) })
    });
}

#[test]
fn a_program_that_knows_nothing_of_it_is_armed_once_it_is_quiet() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("settled");
    let spec = "{mode: Enforce, arm: {at: Settled, settleFor: 300ms}, \
                entries: {exception: {action: Count}, interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("unprepared", "unprepared").apply(&namespace);
    pod.wait_log("app", "polling");
    wait_agent_log(&testbed, "it has settled step=6 pod=\"unprepared\"");
    let told = |event: &Event| event.reporter == "quietcore.io/agent" && event.reason != "NotAsQuiet";
    assert!(!pod.events().iter().any(told), "{:?}", pod.events());
    pod.node().run(&["kill", "-USR2", &pod.pid("app").to_string()]);
    pod.wait_log("app", "wrote");
    let event = pod.wait_event("KernelEntry");
    assert!(event.note.starts_with("syscall write(2) at ") && event.note.contains("tid 1"), "{event}");
}

#[test]
fn where_it_was_killed_is_known_though_it_never_armed_itself() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("killed");
    let spec = "{mode: Enforce, arm: {at: Settled, settleFor: 300ms}, entries: {syscall: {action: Signal, signal: \
                SIGKILL}, exception: {action: Count}, interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("killed", "unprepared").apply(&namespace);
    wait_agent_log(&testbed, "it has settled step=6 pod=\"killed\"");
    pod.node().run(&["kill", "-USR2", &pod.pid("app").to_string()]);
    assert_eq!(pod.wait_exit_code("app"), 128 + 9);
    let event = pod.wait_event("KernelEntry");
    assert!(event.note.starts_with("syscall write(2) at ") && event.note.contains("write+0x"), "{event}");
}

#[test]
fn a_program_that_is_never_quiet_is_not_armed_and_its_owner_hears_why() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("restless");
    let spec = "{mode: Enforce, arm: {at: Settled, settleFor: 300ms}, entries: {syscall: {action: Signal, signal: \
                SIGKILL}, exception: {action: Count}, interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("restless", "restless").apply(&namespace);
    pod.wait_log("app", "calling");
    let event = until("event NotSettled", PATIENCE, || {
        let event = pod.events().into_iter().find(|event| event.reason == "NotSettled");
        Ok(event.map_or_else(|| Seen::NotYet("not yet"), Seen::Done))
    });
    assert!(event.note.starts_with("thread 1 of container app is not armed: it kept entering"), "{event}");
    assert!(event.note.contains("by class syscall for 60 s, never 300ms without"), "{event}");
    assert_eq!((state(&pod).as_str(), pod.restarts("app")), ("R", 0));
}

#[test]
fn the_end_of_enforce_for_is_told_also_where_nobody_broke_a_promise() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("enforce-for");
    let spec = "{mode: Enforce, enforceFor: 3s, entries: {syscall: {action: Signal, signal: SIGKILL}, exception: \
                {action: Count}, interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("spin", "spin").apply(&namespace);
    pod.wait_log("app", "arming");
    let event = pod.wait_event("EnforcementEnded");
    assert!(event.note.starts_with("enforceFor is over: 3s have passed"), "{event}");
    assert_eq!((event.kind.as_str(), event.count), ("Normal", 1));
    assert!(pod.events().iter().all(|event| event.reason != "KernelEntry"), "{:?}", pod.events());
}

#[test]
fn a_frozen_process_stands_still_until_it_is_resumed() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("freeze");
    let spec = "{mode: Enforce, entries: {syscall: {action: Freeze}, exception: {action: Count}, \
                interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("freeze", "each-second").apply(&namespace);
    let event = pod.wait_event("KernelEntry");
    assert!(event.note.starts_with("syscall getppid(2) at syscall+0x"), "{event}");
    assert!(event.note.contains("process frozen") && event.note.contains("quietcore resume"), "{event}");
    assert_eq!(event.action, "Freeze");
    wait_state(&pod, "T");
    assert!(!pod.logs("app").contains("violated="), "{}", pod.logs("app"));

    let agent = pod.node().agent();
    let other = agent.try_quietcore(&["resume", "nobody"]).unwrap_err().to_string();
    assert!(other.contains("no process of pod nobody is frozen on this node; frozen: "), "{other}");
    let resumed = agent.try_quietcore(&["resume", &format!("{}/freeze", namespace.name())]).unwrap();
    assert!(
        resumed.contains("(workload) of pod ") && resumed.contains("container app, goes on"),
        "{resumed}"
    );
    pod.wait_log("app", "violated=1 signals=0");
}
