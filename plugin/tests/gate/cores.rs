//! What becomes of cores from a container's creation to its end.

use quietcore::nri::handler::Handler as _;
use quietcore_proto::nri::{Container, LinuxContainer};

use crate::world::{World, on, pod};

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
