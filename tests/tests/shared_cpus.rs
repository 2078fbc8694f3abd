//! Steps 4, 5 and 7: a container with a CPU for its control threads, and processes that `kubectl exec` brings.

use quietcore_tests::kube::SOON;
use quietcore_tests::node::Node;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

/// Waits until the one process of these words may run on these CPUs only; its number on the node.
#[track_caller]
fn wait_cpus(node: &Node<'_>, words: &str, cpus: &str) -> String {
    until(&format!("{words:?} to be on CPUs {cpus}"), SOON, || {
        let pids = node.run(&["sh", "-c", &format!("pgrep -f -x '{words}' || true")]);
        let [pid] = pids.split_whitespace().collect::<Vec<_>>()[..] else { return Ok(Seen::NotYet(pids)) };
        let status = node.run(&["cat", &format!("/proc/{pid}/status")]);
        let found = status.lines().any(|line| line == format!("Cpus_allowed_list:\t{cpus}"));
        Ok(if found { Seen::Done(pid.to_owned()) } else { Seen::NotYet(status.clone()) })
    })
}

#[test]
fn control_threads_call_and_visitors_stay_beside_a_thread_that_hears_nothing() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("shared");
    let spec = ENFORCE
        .replace("{mode: Enforce,", "{mode: Enforce, cores: {sharedCpus: 1}, arm: {after: Continuous},");
    apply_policy(&namespace, "p", &spec);
    let env = "      env: [{name: QUIETCORE_CPUS, value: '0'}]";
    let pod = Strict { container: env, ..Strict::day("shares", "control") }.apply(&namespace);
    let log = pod.wait_log("app", "calls=300 signals=0");
    assert!(log.contains("control=0") && log.contains("dataplane=1"), "{log}");
    let node = pod.node();
    let file = node.run(&["cat", &format!("/proc/{}/root/.quietcore/cpus", pod.pid("app"))]);
    assert_eq!(file, "QUIETCORE_CPUS=1\nQUIETCORE_SHARED_CPUS=0\n");

    std::thread::scope(|scope| {
        let exec = scope.spawn(|| pod.try_exec("app", &["/workload", "restless"]));
        let visitor = wait_cpus(&node, "/workload restless", "0");
        node.run(&["kill", "-KILL", &visitor]);
        exec.join().expect("kubectl exec ends with its process");
    });
    assert!(pod.events().iter().all(|event| event.reason != "VisitorOnCore"), "{:?}", pod.events());
}

#[test]
fn without_a_shared_cpu_the_owner_hears_who_came_and_what_to_do() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("visited");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("visited", "sleep").apply(&namespace);
    pod.wait_log("app", "sleeping");
    pod.exec("app", &["/workload", "quiet"]);
    let event = pod.wait_event("VisitorOnCore");
    assert!(event.note.contains("(workload, a child of containerd-shim"), "{event}");
    assert!(event.note.contains("cores.sharedCpus: 1 in the policy"), "{event}");
}
