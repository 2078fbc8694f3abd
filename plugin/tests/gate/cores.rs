//! What becomes of cores from a container's creation to its end.

use std::sync::Barrier;

use quietcore::{agent::gate::Seen, nri::handler::Handler as _};
use quietcore_proto::nri::{Container, LinuxContainer};

use crate::world::{Init, World, made, on, pod};

/// Whose name no cgroup of this machine has.
const NEVER_MADE: &str = "5c0ffee5c0ffee5c0ffee5c0ffee5c0f";

/// `runc create` failed: containerd says nothing of it.
#[tokio::test(start_paused = true)]
async fn the_cores_of_a_container_that_was_never_made_are_free_as_if_its_end_had_been_told() {
    let mut world = World::new().connected();
    world.gate.synchronize(vec![], vec![]);
    let strict = Container {
        linux: Some(LinuxContainer { resources: Some(on("0")), ..LinuxContainer::default() }),
        ..world.strict_on("1", NEVER_MADE).await
    };
    world.gate.create(pod(), strict).unwrap().unwrap();
    let n_overrides = || world.gate.coexistence.peers().overrides().count();
    assert_eq!((world.n_grants(), n_overrides()), (1, 1));
    let mut revisions = world.gate.grants.revisions();
    tokio::select! {
        () = world.gate.ends().follow() => {}
        _ = revisions.changed() => {}
    }
    assert_eq!((world.n_grants(), n_overrides()), (0, 0));
}

#[tokio::test]
async fn a_node_is_released_or_a_container_is_created_and_never_both() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    for _ in 0..500 {
        let (seen, grants) = (world.gate.seen.clone(), std::sync::Arc::clone(&world.gate.grants));
        let (both, gate) = (Barrier::new(2), &mut world.gate);
        let (released, created) = std::thread::scope(|scope| {
            let release = scope.spawn(|| {
                both.wait();
                Seen::release(&seen, &grants, std::iter::empty())
            });
            both.wait();
            let created = gate.create(pod(), strict.clone()).is_ok();
            (release.join().unwrap(), created)
        });
        assert_ne!(released, created);
        assert_eq!(released, world.gate.seen.borrow().released, "refused is as if nobody had asked");
        world.gate.remove(strict.clone());
        world.gate.seen.send_modify(|seen| seen.released = false);
    }
}

/// Else a crash would leave what runs then to nobody.
#[tokio::test]
async fn nothing_starts_before_its_claim_is_on_disk() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let full = world.full_disk();
    let adjustment = world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    let init = Init::on("1");
    let container = made(&strict, &adjustment, &init);
    let refusal = world.gate.start(pod(), container.clone()).unwrap_err().to_string();
    let expect = "quietcore: the node's ledger of cores cannot be written (disk full?): see the agent's log; the kubelet \
                  tries again by itself";
    assert_eq!((refusal.as_str(), world.n_live_slots()), (expect, 0));
    std::fs::remove_dir(full).unwrap();
    world.gate.grants.flush().await.unwrap();
    world.gate.start(pod(), container.clone()).unwrap();
    assert!(world.is_watched(&container));
}
