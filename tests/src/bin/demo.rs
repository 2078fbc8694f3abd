//! `make demo`: the life of one strict pod, told in a screen. Runs in a cluster that `testbed run` made.
#![expect(clippy::print_stdout, reason = "it tells a story")]

use std::time::Duration;

use quietcore_tests::{
    kube::Namespace,
    testbed::{Testbed, clone_file},
    wait::{Seen, until},
};

const CHART: [&str; 2] = ["image.tag=dev", "isolatedCpus=1"];

fn main() {
    let testbed = Testbed::from_env();
    heading("1. helm install: the agent offers CPU 1 of this node as quietcore.io/core");
    let mut release = testbed.helm_install("quietcore", "quietcore-system", "charts/quietcore", &CHART);
    wait_until_offered(&testbed);
    show(&testbed.run_kubectl(&["get", "dataplanenodes"]));

    let namespace = testbed.namespace("demo");
    heading("2. kubectl apply: a policy (a system call on the core means SIGUSR1), and a pod that names it");
    namespace.apply(&clone_file("examples/policy.yaml"));
    show(&namespace.run_kubectl(&["get", "dataplanepolicies"]));
    testbed.load_c_program("localhost/poll-loop:dev", &["examples/poll-loop/poll-loop.c"], &[]);
    namespace.apply(&clone_file("examples/pod.yaml"));
    let pod = namespace.pod("poll-loop");
    pod.wait_phase("Succeeded");
    show(&namespace.run_kubectl(&["get", "pods"]));

    heading(
        "3. The pod polled on its core, armed itself by prctl, and broke its promise by one getppid(2).\n   It got its signal before its next instruction; this is what it printed:",
    );
    show(&pod.logs("app"));

    heading("4. And its owner got an Event:");
    let event = pod.wait_event("KernelEntry");
    show(&format!("{} {}: {}", event.kind, event.reason, event.note));
    honest_pod(&namespace);
    release.uninstall().unwrap_or_else(|why| panic!("{why}"));
    heading(
        "6. helm uninstall gave the node back. To play with it yourself: make up, then examples/README.md",
    );
}

/// The kubelet tells the API server of new resources with its next status, which may take ten seconds.
fn wait_until_offered(testbed: &Testbed) {
    until("the node to offer its core", Duration::from_secs(60), || {
        Ok(match testbed.node().allocatable("quietcore.io/core") {
            0 => Seen::NotYet("quietcore.io/core: 0"),
            _ => Seen::Done(()),
        })
    });
}

/// The counter-proof: the same program that keeps its promise hears nothing.
fn honest_pod(namespace: &Namespace<'_>) {
    heading("5. The same pod, keeping its promise, hears nothing:");
    namespace.delete("pod", "poll-loop");
    namespace
        .apply(&clone_file("examples/pod.yaml").replace("args: [syscall, \"1\"]", "args: [none, \"1\"]"));
    let pod = namespace.pod("poll-loop");
    pod.wait_phase("Succeeded");
    show(&pod.logs("app"));
}

fn heading(text: &str) {
    println!("\n{text}");
}

fn show(text: &str) {
    text.lines().for_each(|line| println!("     {line}"));
}
