//! Steps 2 to 9 where cores are quiet and the kernel answers exactly: real kubelet, containerd and agent on a nohz_full
//! kernel. Runs in the lab.

mod node;
mod others;
mod process;
mod quiet;
mod withdrawn;

use node::Node;
use process::{Process, exec, signal, start_exec};

#[test]
fn a_strict_pod_gets_its_signal_and_its_owner_the_cause() {
    let node = Node::get();
    let pod = node.pod("breaks", "all", "syscall");
    assert_eq!(pod.wait_exit_code(), 0);
    assert!(pod.log().contains("signals=1 last=10"), "{}", pod.log());
    let told = pod.wait_told("its system call", |note| note.starts_with("syscall getppid(2) at "));
    let cpu = told["cpu"].as_u64();
    assert!(cpu.is_some_and(|cpu| (1..4).contains(&cpu)), "{told}");
    let log = node.agent_log();
    assert!(log.contains("detector=\"Edge\"") && log.contains("provider=\"Lsm\""), "{log}");
}

#[test]
fn a_pod_that_is_quiet_hears_nothing_not_even_a_tick() {
    let node = Node::get();
    let pod = node.pod("quiet", "all", "quiet");
    assert_eq!(pod.wait_exit_code(), 0);
    assert!(pod.log().contains("signals=0"), "{}", pod.log());
    assert!(node.told(&pod).is_empty(), "{:?}", node.told(&pod));
}

#[test]
fn a_strict_pod_is_left_alone_while_another_comes_and_goes() {
    let node = Node::get();
    let spinner = node.pod("alone", "all", "spin");
    spinner.wait_log("arming");
    // The core may have had to come to rest first.
    let told = || {
        let told = node.told(&spinner).into_iter();
        told.filter(|line| line["reason"] != "ArmRefused").collect::<Vec<_>>()
    };
    let passing = node.pod("passing", "all", "syscall");
    assert_eq!(passing.wait_exit_code(), 0);
    passing.wait_told("its system call", |note| note.starts_with("syscall getppid(2) at "));
    assert!(told().is_empty(), "{:?}", told());
    // It was armed, and the guard was awake: a signal interrupts it.
    signal(&spinner.wait_container_id(), "SIGUSR1");
    spinner.wait_told("who kicked it", |note| note.starts_with("interrupt reschedule IPI from "));
}

#[test]
fn a_process_that_somebody_execs_into_the_container_is_named_as_one() {
    let node = Node::get();
    let pod = node.pod("visited", "report", "spin");
    let container = pod.wait_container_id();
    pod.wait_log("arming");
    exec(&container, &["/workload", "quiet"]);
    pod.wait_told("its visitor", |note| note.contains("started in this container by exec or a probe"));
    let told = pod.wait_told("the way out", |note| note.contains("cores.sharedCpus: 1 in the policy"));
    assert_eq!(told["reason"], "VisitorOnCore");
}

#[test]
fn with_a_shared_cpu_control_threads_call_and_visitors_stay_off_the_core() {
    let node = Node::get();
    let pod = node.pod("shares", "shared", "control");
    pod.wait_log("calls=300 signals=0");
    let log = pod.log();
    assert!(log.contains("control=0") && log.contains("dataplane=1"), "{log}");
    if quiet::isolated_by_boot() {
        assert!(node.told(&pod).is_empty(), "{:?}", node.told(&pod));
    } else {
        // whom the scheduler may put there, it does
        let told = pod.wait_told("what it lacks", |note| note.contains("cannot be a partition"));
        assert_eq!(told["reason"], "NotAsQuiet");
    }

    let program = Process::wait(&["/workload", "control"]);
    let file = program.read("root/.quietcore/cpus");
    let [granted, shared] = file.lines().collect::<Vec<_>>()[..] else { panic!("{file}") };
    let core = granted.strip_prefix("QUIETCORE_CPUS=").and_then(|core| core.parse::<u32>().ok());
    assert!(core.is_some_and(|core| (1..4).contains(&core)), "{file}");
    assert_eq!(shared, "QUIETCORE_SHARED_CPUS=0");
    let environment = program.read("environ");
    // in the runtime's order
    let mut said: Vec<_> =
        environment.split('\0').filter(|variable| variable.starts_with("QUIETCORE_")).collect();
    said.sort_unstable();
    assert_eq!(said, [granted, shared]);

    let mut exec = start_exec(&pod.wait_container_id(), &["/workload", "restless"]);
    let visitor = Process::wait(&["/workload", "restless"]);
    visitor.wait_cpus("0");
    let first_moments = node.told(&pod).len();
    visitor.wait_run(50);
    if quiet::isolated_by_boot() {
        assert_eq!(node.told(&pod).len(), first_moments, "{:?}", node.told(&pod));
    }
    visitor.set_cpus("0-3");
    let told = pod.wait_told("that it left", |note| note.contains("left the shared CPUs 0"));
    assert_eq!(told["reason"], "VisitorOnCore");
    visitor.wait_cpus("0");
    drop(pod);
    exec.wait().expect("ctr ends with its process");
}

#[test]
fn the_kubelet_lists_a_core_under_its_pods_name_as_long_as_the_pod_is_there() {
    let node = Node::get();
    let pod = node.pod("listed", "all", "spin");
    let held = "default/listed-lab/app core-";
    node.wait_held("the pod", |held_now| held_now.contains(held));
    drop(pod);
    node.wait_held("the pod's end", |held_now| !held_now.contains(held));
}

#[test]
fn a_pod_without_its_policy_is_refused_in_words() {
    let pod = Node::get().pod("lost", "nowhere", "syscall");
    let refusal = pod.wait_refusal();
    assert!(refusal.contains("nowhere"), "{refusal}");
}
