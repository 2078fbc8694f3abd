//! What becomes of cores from a container's creation to its end.

use std::sync::Barrier;

use quietcore::{
    agent::gate::Seen,
    cores::{ledger::Holder, token::Token},
    nri::handler::Handler as _,
    policy::accept::node_default,
};
use quietcore_proto::nri::{Container, LinuxContainer, PodSandbox};

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

#[tokio::test]
async fn a_container_that_starts_again_has_its_own_cores_and_the_late_stop_of_the_old_one_changes_nothing() {
    let mut world = World::offering("1-3").connected();
    let strict = world.strict_on("1", "first").await;
    for (cpu, id) in [("2", "others"), ("3", "more")] {
        let container = Container { name: id.to_owned(), ..world.strict_on(cpu, id).await };
        world.gate.create(pod(), container).unwrap().unwrap();
    }
    let (first, init) = world.run(&strict);
    drop(init);
    let (second, _init) = world.run(&Container { id: "second".to_owned(), ..strict });
    assert!(world.is_watched(&second));
    world.gate.stop(first.clone());
    world.gate.remove(first);
    assert!(world.is_watched(&second));
    assert_eq!((cores_of(&world, "second"), world.n_grants()), ("1".to_owned(), 3));
}

#[tokio::test]
async fn an_init_container_hands_its_core_on_to_the_app() {
    let mut world = World::new().connected();
    let init = Container { name: "init".to_owned(), ..world.strict_on("1", "init").await };
    let app = world.strict_on("1", "app").await;
    world.gate.create(pod(), init.clone()).unwrap().unwrap();
    let refusal = world.gate.create(pod(), app.clone()).unwrap_err().to_string();
    assert!(refusal.starts_with("quietcore: CPUs 1 are still held by container init"), "{refusal}");
    world.gate.stop(init);
    world.gate.create(pod(), app).unwrap().unwrap();
    assert_eq!(cores_of(&world, "app"), "1");
}

#[tokio::test]
async fn of_two_containers_that_come_at_once_for_one_core_one_gets_it() {
    let world = World::offering("1-3").connected();
    for round in 0..100 {
        let one = world.strict_on("1-2", &format!("one-{round}")).await;
        let two = world.strict_on("2-3", &format!("two-{round}")).await;
        let two = Container { name: "sidecar".to_owned(), ..two };
        let (both, grants) = (Barrier::new(2), &world.gate.grants);
        // Not through the gate, which answers one after the other: these two meet in the ledger itself.
        let claim = |container: &Container| {
            let token = Token::of(&container.annotations["grant.quietcore.io/token"]);
            let holder = Holder {
                namespace: "default".to_owned(),
                pod: "poller".to_owned(),
                pod_uid: "uid".to_owned(),
                container: container.name.clone(),
            };
            both.wait();
            grants
                .change(|ledger| ledger.claim(&token, &holder, &container.id, "plan", &node_default()))
                .is_ok()
        };
        let (first, second) = std::thread::scope(|scope| {
            let first = scope.spawn(|| claim(&one));
            let second = claim(&two);
            (first.join().unwrap(), second)
        });
        assert_ne!(first, second);
        for container in [one, two] {
            world.gate.ends().end(&container.id);
        }
    }
}

#[tokio::test]
async fn a_start_that_failed_gives_the_core_and_the_slot_back() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let adjustment = world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    let init = Init::on("1");
    let without_shim = Container { args: vec!["/app".to_owned()], ..made(&strict, &adjustment, &init) };
    let gone = Container { pid: 0x7fff_ffff, ..made(&strict, &adjustment, &init) };
    for container in [without_shim, gone] {
        world.gate.start(pod(), container).unwrap_err();
        assert_eq!(world.n_live_slots(), 0);
    }
    // The runtime accepted the start, and the program failed at once.
    world.gate.start(pod(), made(&strict, &adjustment, &init)).unwrap();
    world.gate.stop(strict);
    assert_eq!((world.n_live_slots(), world.held()), (0, vec![]));
    let newer = world.strict_on("1", "newer").await;
    world.gate.create(PodSandbox { uid: "other".to_owned(), ..pod() }, newer).unwrap().unwrap();
}

/// Without it the runtime takes the answer for none (containerd skips updates of containers that it does not know).
#[tokio::test]
async fn the_answer_to_somebody_elses_update_names_the_container() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    let update = world.gate.update(strict.clone(), on("0-1")).unwrap();
    assert_eq!((update.container_id, update.ignore_failure), (strict.id, false));
    assert_eq!(update.linux.unwrap().resources.unwrap().cpu.unwrap().cpus, "1");
}

fn cores_of(world: &World, id: &str) -> String {
    world.gate.grants.read(|ledger| ledger.grant(id).unwrap().cores.to_string())
}
