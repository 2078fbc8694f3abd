//! Pods that try to get more than they were granted, and programs that meet their signal badly.

use quietcore_tests::kube::Namespace;
use quietcore_tests::pod::Pod;
use quietcore_tests::product::{ENFORCE, Strict, apply_policy};
use quietcore_tests::testbed::Testbed;

fn installed(name: &str, check: impl FnOnce(&Namespace<'_>)) {
    installed_under(ENFORCE, name, check);
}

fn installed_under(spec: &str, name: &str, check: impl FnOnce(&Namespace<'_>)) {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace(name);
    apply_policy(&namespace, "p", spec);
    check(&namespace);
}

/// Armed until the program says otherwise: what is armed and should not be would be told again and again.
const CONTINUOUS: &str = "{mode: Enforce, arm: {after: Continuous}, entries: {syscall: {action: Signal, \
                          signal: SIGUSR1, except: [clone]}, exception: {action: Ignore}, interrupt: {action: Count}}}";

/// What an honest pod would have got.
#[track_caller]
fn gains_nothing(pod: &Pod<'_>) {
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert!(pod.logs("app").contains("signals=1 last=10"), "{}", pod.logs("app"));
}

#[test]
fn variables_that_look_like_ours_decide_nothing() {
    installed("variables", |namespace| {
        let env = "      env: [{name: QUIETCORE_PLAN, value: none}, {name: QUIETCORE_CPUS, value: 0-1}]";
        let pod = Strict { container: env, ..Strict::day("variables", "environment") }.apply(namespace);
        gains_nothing(&pod);
        assert!(pod.logs("app").contains("cpus=1\n"), "{}", pod.logs("app"));
    });
}

#[test]
fn a_folder_in_the_place_of_the_shim_is_covered_by_it() {
    installed("own-shim", |namespace| {
        let mounts = "      volumeMounts: [{name: own, mountPath: /.quietcore}]\n  volumes: [{name: own, emptyDir: {}}]";
        let pod = Strict { container: mounts, ..Strict::day("own-shim", "syscall") }.apply(namespace);
        gains_nothing(&pod);
    });
}

#[test]
fn a_file_of_the_image_in_the_place_of_the_shim_is_covered_by_it() {
    let testbed = Testbed::from_env();
    testbed.install_product();
    let namespace = testbed.namespace("image-shim");
    apply_policy(&namespace, "p", ENFORCE);
    let image = "localhost/own-shim:dev";
    testbed.load_c_program_with(image, &["tests/workloads/workload.c"], &[], |image, program| {
        image.file(program, "/.quietcore/shim")
    });
    gains_nothing(&Strict { image, ..Strict::day("image-shim", "syscall") }.apply(&namespace));
}

#[test]
fn a_token_that_the_pod_names_itself_is_no_token() {
    installed("own-token", |namespace| {
        let annotations =
            "{policy.quietcore.io/pod: p, grant.quietcore.io/token: deadbeefdeadbeefdeadbeefdeadbeef}";
        gains_nothing(&Strict { annotations, ..Strict::day("own-token", "syscall") }.apply(namespace));
    });
}

#[test]
fn a_shim_that_the_pod_calls_itself_is_no_shim() {
    installed("own-argv", |namespace| {
        let plan = "v2 cpus=1 shared=none provider=none arm=exec locked=no";
        let command = format!("      command: [/.quietcore/shim, {plan:?}, --, /workload]");
        let pod = Strict { container: &command, ..Strict::day("own-argv", "syscall") }.apply(namespace);
        assert_eq!(pod.wait_exit_code("app"), 125);
        assert!(pod.logs("app").contains("the alarm did not go off"), "{}", pod.logs("app"));
    });
}

#[test]
fn a_blocked_signal_stays_pending_and_the_event_says_so() {
    installed("blocked", |namespace| {
        let pod = Strict::day("blocked", "blocked").apply(namespace);
        assert_eq!(pod.wait_exit_code("app"), 0);
        assert!(pod.logs("app").contains("pending=1"), "{}", pod.logs("app"));
        assert!(pod.wait_event("KernelEntry").note.contains("pending"), "{:?}", pod.events());
    });
}

#[test]
fn the_first_process_that_would_hear_nothing_is_killed() {
    installed("init", |namespace| {
        let pod = Strict::day("init", "default").apply(namespace);
        assert_eq!(pod.wait_exit_code("app"), 128 + 9);
        assert!(!pod.logs("app").contains("still here"), "{}", pod.logs("app"));
        assert!(
            pod.wait_event("KernelEntry").note.contains("SIGKILL sent instead of SIGUSR1"),
            "{:?}",
            pod.events()
        );
    });
}

#[test]
fn a_child_is_watched_and_not_armed() {
    installed_under(CONTINUOUS, "fork", |namespace| {
        let pod = Strict::day("fork", "fork").apply(namespace);
        assert_eq!(pod.wait_exit_code("app"), 0);
        assert!(pod.logs("app").contains("child_signals=0"), "{}", pod.logs("app"));
    });
}

#[test]
fn an_exec_while_armed_is_told_and_the_new_image_runs_unarmed() {
    installed_under(CONTINUOUS, "exec", |namespace| {
        let pod = Strict::day("exec", "exec").apply(namespace);
        assert_eq!(pod.wait_exit_code("app"), 0);
        assert!(pod.logs("app").contains("after-exec=fine"), "{}", pod.logs("app"));
        assert!(pod.wait_event("KernelEntry").note.contains("execve(2)"), "{:?}", pod.events());
        let told = pod.events().into_iter().filter(|event| event.reason == "KernelEntry").count();
        assert_eq!(told, 1, "{:?}", pod.events());
    });
}

#[test]
fn a_pod_that_is_killed_while_armed_leaves_its_core_to_the_next() {
    installed("killed", |namespace| {
        let pod = Strict::day("spin", "spin").apply(namespace);
        pod.wait_log("app", "arming");
        pod.delete();
        gains_nothing(&Strict::day("next", "syscall").apply(namespace));
    });
}

#[test]
fn a_thread_whose_affinity_is_changed_under_it_is_disarmed_and_told() {
    installed("affinity", |namespace| {
        let pod = Strict::day("spin", "spin").apply(namespace);
        pod.wait_log("app", "arming");
        let pid = pod.pid("app");
        // what another component that sets cpusets would do; the controller is where the machine has it
        pod.node().sh(&format!(
            "path=$(grep -E ':cpuset:|^0::' /proc/{pid}/cgroup | head -1 | cut -d: -f3); \
             for root in /sys/fs/cgroup/cpuset /sys/fs/cgroup; do \
               if [ -e $root$path/cpuset.cpus ]; then echo 0-1 > $root$path/cpuset.cpus; exit; fi; done; exit 1"
        ));
        let event = pod.wait_event("LeftCore");
        assert!(event.note.contains("disarmed"), "{event}");
    });
}
