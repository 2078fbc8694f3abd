//! Three nodes on one machine share its CPUs: exactly one of them publishes cores.

use std::time::Duration;

use quietcore_tests::agent::NAMESPACE;
use quietcore_tests::product::{ENFORCE, RESOURCE, Strict, VALUES, WORKLOAD, apply_policy};
use quietcore_tests::testbed::Testbed;
use quietcore_tests::wait::{Seen, until};

#[test]
fn of_nodes_that_share_a_machine_one_publishes_its_cores_and_the_others_say_which() {
    let testbed = Testbed::from_env();
    testbed.helm_install("quietcore", NAMESPACE, "charts/quietcore", &VALUES).keep();
    testbed.wait_cores(1);
    let nodes = testbed.nodes();
    assert_eq!(nodes.len(), 3);
    let publishers: Vec<_> = nodes.iter().filter(|node| 0 < node.allocatable(RESOURCE)).collect();
    let [publisher] = publishers.as_slice() else { panic!("{publishers:?} publish") };
    let words = format!("node {} publishes the cores of this machine", publisher.name());
    until("the others to stand by", Duration::from_secs(60), || {
        let objects = testbed.get_list("dataplanenodes", &[]);
        let messages = objects.iter().map(|object| object["status"]["conditions"][0]["message"].to_string());
        let standing_by = messages.filter(|message| message.contains(&words)).count();
        Ok(if standing_by == 2 { Seen::Done(()) } else { Seen::NotYet(standing_by) })
    });

    testbed.load_c_program(WORKLOAD, &["tests/workloads/workload.c"], &[]);
    let namespace = testbed.namespace("machine");
    apply_policy(&namespace, "p", ENFORCE);
    // the publisher may be the control plane
    let tolerations = "  tolerations: [{operator: Exists}]";
    let pod = Strict { container: tolerations, ..Strict::day("strict", "syscall") }.apply(&namespace);
    assert_eq!(pod.wait_exit_code("app"), 0);
    assert_eq!(pod.node().name(), publisher.name());
    pod.wait_event("KernelEntry");
}
