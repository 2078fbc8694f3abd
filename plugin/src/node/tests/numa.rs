use super::{
    super::{facts, kubelet::CpuManager, plan},
    Machine,
};

fn two_nodes() -> Machine {
    let machine = Machine::new();
    machine.put("sys/devices/system/node/node0/cpulist", "0-1\n");
    machine.put("sys/devices/system/node/node1/cpulist", "2-3\n");
    machine
}

fn of(machine: &Machine, isolate: &str) -> plan::Plan {
    let facts = facts::read(machine.root(), &isolate.parse().unwrap()).unwrap();
    plan::make(&facts, CpuManager::None, None)
}

#[test]
fn a_node_without_a_housekeeping_cpu_is_named_and_the_plan_is_made_all_the_same() {
    let machine = two_nodes();
    assert_eq!(of(&machine, "1,3").advice, [""; 0]);
    let plan = of(&machine, "2-3");
    assert!(plan.advice.iter().all(|advice| advice.starts_with("NUMA node 1 keeps no housekeeping CPU")));
    assert_eq!((plan.advice.len(), plan.kernel.len()), (1, 3));
    assert_eq!(of(&Machine::new(), "1-3").advice, [""; 0], "a kernel without NUMA");
}

#[test]
fn the_kubelet_aligns_only_where_there_is_something_to_align() {
    assert_eq!(of(&two_nodes(), "3").kubelet.topology_manager_policy, Some("best-effort"));
    let json = serde_json::to_value(of(&Machine::new(), "3")).unwrap();
    assert_eq!(json["kubelet"].get("topologyManagerPolicy"), None);
}
