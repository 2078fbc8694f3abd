//! Three nodes on one machine: the network between them.

use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};
use std::time::Duration;

const IMAGE: &str = "localhost/testbed/greeter:dev";

#[test]
fn pods_on_three_nodes_reach_each_other() {
    let testbed = Testbed::from_env();
    testbed.load_c_program(IMAGE, &["tests/programs/greeter.c"], &[]);
    let namespace = testbed.namespace("reach");
    let nodes: Vec<String> = testbed.nodes().iter().map(|node| node.name().to_owned()).collect();
    assert_eq!(nodes.len(), 3, "{nodes:?}");
    for node in &nodes {
        namespace.apply(&format!(
            r#"
            apiVersion: v1
            kind: Pod
            metadata: {{name: on-{node}}}
            spec:
              nodeName: {node}
              tolerations: [{{operator: Exists}}]
              containers:
                - {{name: main, image: {IMAGE}, imagePullPolicy: Never, args: [serve, "8080"]}}
            "#
        ));
    }
    let pods: Vec<_> = nodes.iter().map(|node| namespace.pod(&format!("on-{node}"))).collect();
    for pod in &pods {
        pod.wait_ready();
    }
    for asker in &pods {
        for asked in &pods {
            let address = asked.address();
            let what = format!("{} to hear {} at {address}", asker.name(), asked.name());
            until(&what, Duration::from_secs(30), || {
                let answer = asker.try_exec("main", &["/greeter", "ask", &address, "8080"]);
                let answer = String::from_utf8_lossy(&answer.stdout).trim().to_owned();
                Ok(if answer == asked.name() { Seen::Done(()) } else { Seen::NotYet(answer) })
            });
        }
    }
}

#[test]
fn each_node_has_a_bpffs_of_its_own() {
    let testbed = Testbed::from_env();
    let nodes = testbed.nodes();
    for node in &nodes {
        node.run(&["mkdir", &format!("/sys/fs/bpf/{}", node.name())]);
    }
    for node in &nodes {
        assert_eq!(node.sh("find /sys/fs/bpf -mindepth 1 -type d"), format!("/sys/fs/bpf/{}\n", node.name()));
        node.run(&["rmdir", &format!("/sys/fs/bpf/{}", node.name())]);
    }
}
