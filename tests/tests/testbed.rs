//! The testbed's own verbs, on one node. What other tests stand on is proved here, without the product.

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use quietcore_tests::agent;
use quietcore_tests::image::Image;
use quietcore_tests::kube::Namespace;
use quietcore_tests::node::Access;
use quietcore_tests::pod::Pod;
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

const IMAGE: &str = "localhost/testbed/greeter:dev";

fn load_greeter(testbed: &Testbed) {
    testbed.load_c_program(IMAGE, &["tests/programs/greeter.c"], &["-Wall", "-Wextra", "-Werror"]);
}

/// A running pod of the greeter.
fn greeter<'a>(namespace: &'a Namespace<'a>, name: &str, arguments: &[&str]) -> Pod<'a> {
    namespace.apply(&format!(
        r#"
        apiVersion: v1
        kind: Pod
        metadata: {{name: {name}, labels: {{app: greeter}}}}
        spec:
          containers:
            - {{name: main, image: {IMAGE}, imagePullPolicy: Never, args: {arguments:?}}}
        "#
    ));
    let pod = namespace.pod(name);
    pod.wait_ready();
    pod
}

#[test]
fn a_pod_of_an_image_made_here_runs_prints_and_takes_a_command() {
    let testbed = Testbed::from_env();
    testbed.node().wait_ready();
    load_greeter(&testbed);
    let namespace = testbed.namespace("pod");
    let pod = greeter(&namespace, "speaker", &["serve", "8080"]);
    pod.wait_log("main", "serving as speaker");
    assert_eq!(pod.exec("main", &["/greeter", "ask", "127.0.0.1", "8080"]), "speaker\n");
    assert_eq!(pod.try_exec("main", &["/greeter", "dance"]).status.code(), Some(2));
    assert_eq!(pod.node().run(&["readlink", &format!("/proc/{}/exe", pod.pid("main"))]), "/greeter\n");
    pod.delete();
    assert!(namespace.get_list("pods", &[]).is_empty());
}

#[test]
fn a_service_answers_from_both_of_its_pods() {
    let testbed = Testbed::from_env();
    load_greeter(&testbed);
    let namespace = testbed.namespace("service");
    let first = greeter(&namespace, "first", &["serve", "8080"]);
    greeter(&namespace, "second", &["serve", "8080"]);
    namespace.apply(
        r"
        apiVersion: v1
        kind: Service
        metadata: {name: greeters}
        spec: {selector: {app: greeter}, ports: [{port: 80, targetPort: 8080}]}
        ",
    );
    let service = namespace.get("service", "greeters");
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    let mut answers = BTreeSet::new();
    until("answers of both pods", Duration::from_secs(60), || {
        let answer = first.try_exec("main", &["/greeter", "ask", address, "80"]);
        answers.insert(String::from_utf8_lossy(&answer.stdout).trim().to_owned());
        let both = ["first", "second"].iter().all(|name| answers.contains(*name));
        Ok(if both { Seen::Done(()) } else { Seen::NotYet(format!("{answers:?}")) })
    });
}

#[test]
fn an_event_on_a_pod_is_seen_with_its_reason_and_note() {
    let testbed = Testbed::from_env();
    let namespace = testbed.namespace("event");
    namespace.apply(
        r"
        apiVersion: v1
        kind: Pod
        metadata: {name: nothing}
        spec:
          containers: [{name: main, image: 'localhost/testbed/absent:dev', imagePullPolicy: Never}]
        ",
    );
    let pod = namespace.pod("nothing");
    pod.wait_waiting("main", "ErrImageNeverPull");
    let event = pod.wait_event("ErrImageNeverPull");
    assert_eq!((event.kind.as_str(), event.regarding.as_str()), ("Warning", "Pod/nothing"));
    assert!(event.note.contains("localhost/testbed/absent:dev"), "{event}");
    assert!(pod.describe().contains("ErrImageNeverPull"));
}

#[test]
fn what_the_api_server_refuses_is_told_and_not_applied() {
    let testbed = Testbed::from_env();
    let namespace = testbed.namespace("refusal");
    let refusal =
        namespace.try_apply("{apiVersion: v1, kind: Pod, metadata: {name: empty}, spec: {containers: []}}");
    assert!(refusal.unwrap_err().contains("spec.containers"));
}

#[test]
fn a_pod_survives_a_restart_of_containerd_and_of_the_kubelet() {
    let testbed = Testbed::from_env();
    load_greeter(&testbed);
    let namespace = testbed.namespace("restart");
    let pod = greeter(&namespace, "survivor", &["serve", "8080"]);
    let before = (pod.pid("main"), pod.container_id("main"));
    for service in ["containerd", "kubelet"] {
        let main_process = || testbed.node().run(&["systemctl", "show", "--property=MainPID", service]);
        let stopped = main_process();
        testbed.node().restart(service);
        assert_ne!(main_process(), stopped, "{service}");
        assert_eq!((pod.pid("main"), pod.container_id("main")), before, "{service}");
        assert_eq!(pod.exec("main", &["/greeter", "ask", "127.0.0.1", "8080"]), "survivor\n");
    }
    assert_eq!(pod.restarts("main"), 0);
}

#[test]
fn the_api_server_goes_and_comes_back_while_a_pod_runs() {
    let testbed = Testbed::from_env();
    load_greeter(&testbed);
    let namespace = testbed.namespace("away");
    let pod = greeter(&namespace, "loner", &["serve", "8080"]);
    let pid = pod.pid("main");
    let stopped = testbed.stop_api_server();
    assert!(testbed.try_apply("{apiVersion: v1, kind: Namespace, metadata: {name: never}}").is_err());
    assert_eq!(stopped.node().run(&["readlink", &format!("/proc/{pid}/exe")]), "/greeter\n");
    stopped.start();
    assert_eq!(pod.exec("main", &["/greeter", "ask", "127.0.0.1", "8080"]), "loner\n");
}

/// Not the agent: a program that stands where it will stand.
fn stand_in_for_the_agent(testbed: &Testbed) {
    load_greeter(testbed);
    let (namespace, name) = (agent::NAMESPACE, agent::DAEMON_SET);
    testbed.apply(&format!(
        r#"
        apiVersion: v1
        kind: Namespace
        metadata: {{name: {namespace}}}
        ---
        apiVersion: apps/v1
        kind: DaemonSet
        metadata: {{name: {name}, namespace: {namespace}}}
        spec:
          selector: {{matchLabels: {{app.kubernetes.io/name: quietcore}}}}
          template:
            metadata: {{labels: {{app.kubernetes.io/name: quietcore}}}}
            spec:
              terminationGracePeriodSeconds: 1
              containers:
                - {{name: agent, image: {IMAGE}, imagePullPolicy: Never, args: [serve, "8080"]}}
        "#
    ));
    testbed.wait_agents();
}

#[test]
fn an_agent_can_be_killed_held_and_taken_away_and_comes_back() {
    let testbed = Testbed::from_env();
    stand_in_for_the_agent(&testbed);
    let node = testbed.node();
    let agent = node.agent();

    let (killed, restarts) = (agent.pid(), agent.restarts());
    agent.kill();
    until("the kubelet to have started it again", Duration::from_secs(60), || {
        let now = agent.restarts();
        Ok(if restarts < now { Seen::Done(()) } else { Seen::NotYet(now) })
    });
    agent.wait_ready();
    assert_ne!(agent.pid(), killed);
    assert!(agent.logs().contains("serving as"));

    let state = |pid: u32| node.sh(&format!("sed -n 's/^State:\t//p' /proc/{pid}/status"));
    let pid = agent.pid();
    let held = agent.hold();
    assert_eq!(state(pid), "T (stopped)\n");
    held.release();
    assert_eq!(state(pid), "S (sleeping)\n");

    let removed = testbed.remove_agents();
    assert!(testbed.get_list("pods", &["-n", agent::NAMESPACE]).is_empty());
    removed.restore();
    agent.wait_ready();
    testbed.run_kubectl(&["delete", "namespace", agent::NAMESPACE]);
}

#[test]
fn a_chart_is_installed_and_uninstalled() {
    let testbed = Testbed::from_env();
    let chart = tempfile::tempdir().unwrap();
    let templates = chart.path().join("templates");
    std::fs::create_dir(&templates).unwrap();
    std::fs::write(chart.path().join("Chart.yaml"), "{apiVersion: v2, name: little, version: 0.1.0}")
        .unwrap();
    let template =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: little}, data: {word: {{ .Values.word }}}}";
    std::fs::write(templates.join("map.yaml"), template).unwrap();
    let path = chart.path().to_str().unwrap();

    let mut release = testbed.helm_install("little", "little", path, &["word=hello"]);
    let maps =
        || testbed.get_list("configmaps", &["-n", "little", "--field-selector", "metadata.name=little"]);
    assert_eq!(maps()[0]["data"]["word"], "hello");
    release.uninstall().unwrap();
    assert!(maps().is_empty());
    testbed.run_kubectl(&["delete", "namespace", "little"]);
}

#[test]
fn a_cluster_of_somebody_else_gives_a_node_shell_through_a_privileged_pod() {
    let host_name = {
        let testbed = Testbed::from_env();
        let shell = Image::new("localhost/testbed/shell:dev").folder("/tmp", 0o1777);
        testbed
            .load_image(&shell.programs_of(Path::new("/"), &["/usr/bin/nsenter", "/usr/bin/sleep"]).unwrap());
        testbed.node().run(&["hostname"])
    };
    let testbed = Testbed::with_access(Access::Pod { image: "localhost/testbed/shell:dev".to_owned() });
    assert_eq!(testbed.node().run(&["hostname"]), host_name);
    assert!(testbed.node().journal("containerd").contains("containerd"));
    load_greeter(&testbed);
}

#[test]
fn a_cluster_of_somebody_else_without_a_node_shell_refuses_in_words() {
    let testbed = Testbed::with_access(Access::Refused);
    let refusal = testbed.node().try_run(&["true"]).unwrap_err().to_string();
    assert!(refusal.contains("QUIETCORE_NODE_SHELL_IMAGE"), "{refusal}");
}
