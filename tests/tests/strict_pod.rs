//! Steps 1 to 9: what a strict pod gets when nothing is wrong but the program.

use quietcore_tests::kube::Event;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy};
use quietcore_tests::testbed::{Testbed, clone_file};

#[test]
fn the_examples_tell_the_whole_story() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    testbed.load_c_program("localhost/poll-loop:dev", &["examples/poll-loop/poll-loop.c"], &[]);
    let namespace = testbed.namespace("examples");
    namespace.apply(&clone_file("examples/policy.yaml"));
    namespace.apply(&clone_file("examples/pod.yaml"));
    let pod = namespace.pod("poll-loop");
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("SIGUSR1 (syscall) at 0x"), "{}", pod.logs("app"));
    let event = pod.wait_event("KernelEntry");
    assert!(event.note.starts_with("syscall getppid(2) at fwd_loop+0x"), "{event}");
    assert!(event.note.contains("(poll-loop, tid 1, cpu 1): SIGUSR1 sent"), "{event}");
    assert_eq!(event.reporter, "quietcore.io/agent");
    assert!(event.related.as_deref().is_some_and(|related| related.contains("poll-loop")), "{event:?}");
    assert!(pod.describe().contains("SIGUSR1 sent"));
}

#[test]
fn a_page_fault_is_named_with_its_address() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("exception");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("fault", "exception").apply(&namespace);
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("signals=1 last=12"), "{}", pod.logs("app"));
    let event = pod.wait_event("KernelEntry");
    assert!(event.note.contains("page fault writing 0x") && event.note.contains("SIGUSR2 sent"), "{event}");
    assert!(event.note.contains("at break_exception+0x"), "{event}");
}

#[test]
fn a_pod_that_keeps_its_promise_hears_nothing() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("quiet");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict::day("quiet", "quiet").apply(&namespace);
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("signals=0"), "{}", pod.logs("app"));
    // What its core lacks on this machine is told; of entries there is nothing to tell.
    let told = |event: &Event| event.reporter == "quietcore.io/agent" && event.reason != "NotAsQuiet";
    assert!(!pod.events().iter().any(told), "{:?}", pod.events());
}

#[test]
fn audit_tells_and_signals_nothing() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("audit");
    apply_policy(&namespace, "p", &ENFORCE.replace("Enforce", "Audit"));
    let pod = Strict::day("audit", "syscall").apply(&namespace);
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("signals=0"), "{}", pod.logs("app"));
    assert!(pod.wait_event("KernelEntry").note.contains("Audit"), "{:?}", pod.events());
}

#[test]
fn cores_without_a_policy_are_watched_under_the_nodes_default() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("default-policy");
    let pod = Strict { annotations: "{}", ..Strict::day("plain", "syscall") }.apply(&namespace);
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("signals=0"), "{}", pod.logs("app"));
    pod.wait_event("KernelEntry");
}

#[test]
fn a_program_that_knows_nothing_of_it_is_armed_at_its_exec() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("at-exec");
    let spec = "{mode: Enforce, arm: {at: Exec}, entries: {syscall: {action: Signal, signal: SIGKILL}, interrupt: {action: Count}}}";
    apply_policy(&namespace, "p", spec);
    let pod = Strict::day("at-exec", "sleep").apply(&namespace);
    // Its first system call was the violation.
    assert_eq!(pod.wait_exit_code("app"), 128 + 9);
    assert!(pod.wait_event("KernelEntry").note.contains("SIGKILL sent"), "{:?}", pod.events());
}

#[test]
fn a_container_without_cores_is_untouched() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("ordinary");
    apply_policy(&namespace, "p", ENFORCE);
    let pod = Strict { n_cores: 0, ..Strict::day("ordinary", "sleep") }.apply(&namespace);
    pod.wait_log("app", "sleeping");
    let node = pod.node();
    let pid = pod.pid("app");
    assert!(node.run(&["cat", &format!("/proc/{pid}/cmdline")]).starts_with("/workload"));
    let status = node.run(&["grep", "Cpus_allowed_list", &format!("/proc/{pid}/status")]);
    assert!(status.trim().ends_with("0-1"), "{status}");
}
