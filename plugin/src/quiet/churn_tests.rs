//! Pods that come and go by the dozen, with a kubelet that gives a core away before the runtime has said that its
//! former container is gone: no core is shared, none is lost, and at the end the node is as it was.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    catalogue::{self, Demand},
    keeper::Keeper,
    tree::Tree,
};
use crate::{
    cores::{
        ledger::{Holder, Ledger, LedgerRefusal},
        set::{CpuId, CpuSet},
        token::Token,
    },
    policy::accept::node_default,
};

const CORES: u32 = 4;

/// What a pod of the kubelet's is about.
#[derive(Debug, Clone)]
struct Pod {
    token: Token,
    holder: Holder,
    core: u32,
    /// Instances of its container that the runtime has not called gone.
    containers: Vec<String>,
    deleted: bool,
}

struct Node {
    tree: Tree,
    keeper: Keeper<Tree, Tree>,
    ledger: Ledger,
    pods: Vec<Pod>,
    n_pods: u32,
    n_containers: u32,
}

impl Node {
    fn new() -> Node {
        let tree = Tree::of(&[
            ("/proc/irq/default_smp_affinity", "1f"),
            ("/proc/irq/9/smp_affinity_list", "0-4"),
            ("/proc/sys/vm/stat_interval", "1"),
        ]);
        for cpu in 0..=CORES {
            tree.set(format!("/sys/kernel/debug/sched/fair_server/cpu{cpu}/runtime"), "50000000");
        }
        let keeper = Keeper::new(tree.clone(), tree.clone(), tree.journal());
        let ledger = Ledger::empty("1-4".parse().unwrap());
        Node { tree, keeper, ledger, pods: Vec::new(), n_pods: 0, n_containers: 0 }
    }

    /// The kubelet knows only its own pods: a deleted one's core is free at once.
    fn admit(&mut self) {
        let taken = |core: &u32| self.pods.iter().any(|pod| !pod.deleted && pod.core == *core);
        let Some(core) = (1..=CORES).find(|core| !taken(core)) else { return };
        self.n_pods += 1;
        let token = Token::of(&format!("token-{}", self.n_pods));
        self.ledger.allocate(token.clone(), CpuSet::from(CpuId::new(core).unwrap()));
        let holder = Holder {
            namespace: "ns".to_owned(),
            pod: format!("p{}", self.n_pods),
            pod_uid: format!("uid-{}", self.n_pods),
            container: "app".to_owned(),
        };
        self.pods.push(Pod { token, holder, core, containers: Vec::new(), deleted: false });
    }

    /// Also where the earlier instance is not reported as gone: the kubelet makes a new one only when it is dead.
    fn create(&mut self, which: usize) {
        let Some(pod) = self.pods.iter_mut().filter(|pod| !pod.deleted).nth(which) else { return };
        self.n_containers += 1;
        let id = format!("c{}", self.n_containers);
        match self.ledger.claim(&pod.token, &pod.holder, &id, "plan", &node_default()) {
            Ok(_) => pod.containers.push(id),
            Err(LedgerRefusal::Held { pod: other, .. }) => assert_ne!(other, pod.holder.pod),
            Err(refusal) => panic!("{refusal}"),
        }
    }

    fn delete(&mut self, which: usize) {
        if let Some(pod) = self.pods.iter_mut().filter(|pod| !pod.deleted).nth(which) {
            pod.deleted = true;
        }
    }

    /// Late, and maybe twice.
    fn stop(&mut self, which: usize) {
        let containers = self.pods.iter_mut().flat_map(|pod| &mut pod.containers);
        let Some(id) = containers.map(|id| id.clone()).nth(which) else { return };
        self.ledger.release(&id);
        self.ledger.release(&id);
        self.pods.iter_mut().for_each(|pod| pod.containers.retain(|own| *own != id));
    }

    fn look(&mut self) {
        let grants: Vec<_> = self.ledger.wanted().collect();
        let live: Vec<_> = grants.iter().filter(|wanted| wanted.container_id.is_some()).collect();
        let mut owner: BTreeMap<CpuId, &str> = BTreeMap::new();
        for wanted in &live {
            for cpu in wanted.quieted.cores.iter() {
                let shared = owner.insert(cpu, wanted.container_id.as_deref().unwrap_or_default());
                assert_eq!(shared, None, "core {cpu:?} has two containers");
            }
        }
        let demand = Demand {
            grants: grants.iter().map(|wanted| wanted.quieted.clone()).collect(),
            online: "0-4".parse().unwrap(),
            housekeeping: "0".parse().unwrap(),
            boot_isolated: None,
            no_partition: None,
        };
        self.keeper.keep(&catalogue::settings(&self.tree, &demand)).unwrap();
        let affinity: CpuSet = self.tree.get("/proc/irq/9/smp_affinity_list").parse().unwrap();
        assert!(!owner.keys().any(|cpu| affinity.contains(*cpu)), "{affinity} {owner:?}");
    }
}

proptest! {
    #[test]
    fn no_core_is_shared_none_is_lost_and_the_node_is_as_it_was(
        steps in prop::collection::vec((0u8..5, 0usize..4), 50..200),
    ) {
        let mut node = Node::new();
        let before = node.tree.files();
        for (step, which) in steps {
            match step {
                0 => node.admit(),
                1 | 2 => node.create(which),
                3 => node.delete(which),
                _ => node.stop(which),
            }
            node.look();
        }
        for _ in 0..node.pods.len() {
            node.delete(0);
        }
        for _ in 0..node.n_containers {
            node.stop(0);
        }
        prop_assert_eq!(node.ledger.grants().count(), 0);
        // What the kubelet gave away and no container came for is no grant.
        let empty = Demand {
            grants: Vec::new(),
            online: "0-4".parse().unwrap(),
            housekeeping: "0".parse().unwrap(),
            boot_isolated: None,
            no_partition: None,
        };
        node.keeper.keep(&catalogue::settings(&node.tree, &empty)).unwrap();
        prop_assert_eq!(node.tree.files(), before);
        prop_assert!(node.tree.journal().changes.is_empty());
    }
}
