//! What a (re)connect to the runtime brings: what should be strict and is not is told, what is over lets go of its
//! cores, and what still runs keeps them, whatever the ledger or the runtime has lost.

use std::{fs, path::PathBuf};

use quietcore::nri::handler::Handler as _;
use quietcore_proto::nri::{Container, ContainerState, LinuxContainer, PodSandbox};

use crate::world::{Init, World, made, on, ordinary, pod};

/// Whose name no other cgroup of this machine has.
const UNLISTED: &str = "c0ffee15c0ffee15c0ffee15c0ffee15";

fn other_pod() -> PodSandbox {
    PodSandbox { id: "other".to_owned(), uid: "other".to_owned(), name: "other".to_owned(), ..pod() }
}

/// Another pod gets no core that somebody is on.
#[track_caller]
fn check_waits(world: &mut World, newer: &Container) {
    let refusal = world.gate.create(other_pod(), newer.clone()).unwrap_err().to_string();
    let expect = "quietcore: CPUs 1 are still held by container app of pod default/poller; this one starts by itself when \
                  that is gone";
    assert_eq!(refusal, expect);
}

fn in_state(container: &Container, state: ContainerState) -> Container {
    Container { state: state.into(), ..container.clone() }
}

/// Where the runtime would make the container's; gone with the value.
struct Cgroup(PathBuf);

impl Cgroup {
    fn of(container_id: &str) -> Cgroup {
        let v1 = PathBuf::from("/sys/fs/cgroup/cpuset");
        let root = if v1.exists() { v1 } else { "/sys/fs/cgroup".into() };
        let folder = root.join(format!("quietcore-test-{container_id}"));
        fs::create_dir(&folder).unwrap();
        Cgroup(folder)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).unwrap();
    }
}

#[tokio::test]
async fn what_is_created_or_runs_with_a_claim_stays_and_nobody_is_told() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let adjustment = world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    let init = Init::on("1");
    let container = made(&strict, &adjustment, &init);
    world.gate.synchronize(vec![pod()], vec![in_state(&container, ContainerState::ContainerCreated)]);
    world.gate.start(pod(), container.clone()).unwrap();
    world.gate.synchronize(vec![pod()], vec![container.clone()]);
    assert!(world.is_watched(&container));
    assert_eq!(world.unprotected().await, [""; 0]);
}

#[tokio::test]
async fn what_ended_while_the_agent_was_away_gives_its_cores_and_its_slot_back() {
    for listed_as_stopped in [true, false] {
        let mut world = World::new().connected();
        let strict = world.strict().await;
        let (container, init) = world.run(&strict);
        drop(init);
        let stopped = in_state(&container, ContainerState::ContainerStopped);
        world.gate.synchronize(vec![pod()], listed_as_stopped.then_some(stopped).into_iter().collect());
        assert_eq!((world.n_grants(), world.n_live_slots()), (0, 0));
        assert_eq!(world.unprotected().await, [""; 0]);
    }
}

/// containerd does not list a container whose state it does not know, and an agent that died in its start has no pid.
#[tokio::test]
async fn one_that_the_runtime_leaves_out_keeps_its_cores_while_anything_of_it_is_there() {
    let mut world = World::new().connected();
    let strict = world.strict_on("1", UNLISTED).await;
    let newer = world.strict_on("1", "newer").await;
    world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    let cgroup = Cgroup::of(UNLISTED);
    world.gate.synchronize(vec![pod()], vec![]);
    check_waits(&mut world, &newer);
    drop(cgroup);
    world.gate.synchronize(vec![pod()], vec![]);
    assert!(world.gate.create(other_pod(), newer).unwrap().is_some());
}

#[tokio::test]
async fn a_first_process_that_the_ledger_lost_is_learned_from_the_runtime() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let (container, _init) = world.run(&strict);
    world.restart(without_pid);
    let pid = |world: &World| world.gate.grants.read(|ledger| ledger.grant(&strict.id).unwrap().claim.pid);
    assert_eq!(pid(&world), None);
    world.gate.synchronize(vec![pod()], vec![container.clone()]);
    assert_eq!(pid(&world), i32::try_from(container.pid).ok());
    assert_eq!(world.unprotected().await, [""; 0]);
}

#[tokio::test]
async fn one_that_runs_without_its_slot_is_told_although_the_ledger_lost_its_first_process() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let (container, _init) = world.run(&strict);
    let slot = world.gate.guard.slots.live().next().unwrap();
    world.gate.guard.slots.close(slot);
    world.restart(without_pid);
    world.gate.synchronize(vec![pod()], vec![container]);
    let expect =
        "nobody guards container app: what was pinned for it is gone; delete the pod so that it is made anew";
    assert_eq!(world.unprotected().await, [expect]);
}

fn without_pid(ledger: &std::path::Path) {
    let text = fs::read_to_string(ledger).unwrap();
    let (before, after) = text.split_once("\"pid\": ").unwrap();
    let rest = after.trim_start_matches(|digit: char| digit.is_ascii_digit());
    fs::write(ledger, format!("{before}\"pid\": null{rest}")).unwrap();
}

#[tokio::test]
async fn a_strict_container_that_nobody_knows_is_told_and_its_cores_are_free_when_it_ends() {
    let mut world = World::new().connected();
    let stranger = Container {
        linux: Some(LinuxContainer { resources: Some(on("1")), ..LinuxContainer::default() }),
        ..in_state(&world.strict().await, ContainerState::ContainerRunning)
    };
    let newer = world.strict_on("1", "newer").await;
    world.gate.synchronize(vec![pod()], vec![stranger.clone()]);
    let expect = "nobody guards container app, which is to be strict: it started while the agent was away, or the node's \
                  ledger was lost; delete the pod so that it is made anew";
    assert_eq!(world.unprotected().await, [expect]);
    check_waits(&mut world, &newer);
    world.gate.stop(stranger);
    assert!(world.gate.create(other_pod(), newer).unwrap().is_some());
}

#[tokio::test]
async fn a_container_that_a_damaged_ledger_lost_is_guarded_and_holds_its_cores_until_it_ends() {
    let mut world = World::new().connected();
    let strict = world.strict().await;
    let (container, _init) = world.run(&strict);
    world.restart(|ledger| fs::write(ledger, b"{").unwrap());
    assert!(!world.release(), "the guard watches somebody whom the runtime has not told of yet");
    let newer = world.strict_on("1", "newer").await;
    world.gate.synchronize(vec![pod()], vec![container.clone()]);
    let expect = "the node's ledger has lost container app: the guard still judges it as it started, and nothing of that \
                  is reported; delete the pod so that it is made anew";
    assert_eq!(world.unprotected().await, [expect]);
    assert_eq!((world.n_live_slots(), world.held()), (1, vec!["1".to_owned()]));
    check_waits(&mut world, &newer);
    assert!(!world.release());
    world.gate.stop(container);
    assert_eq!((world.n_live_slots(), world.held()), (0, vec![]));
    assert!(world.gate.create(other_pod(), newer.clone()).unwrap().is_some());
    world.gate.remove(newer);
    assert!(world.release());
}

#[tokio::test]
async fn cores_stay_quiet_until_the_runtime_has_told_that_nobody_is_on_them() {
    for still_runs in [true, false] {
        let mut world = World::new().connected();
        fs::create_dir_all(world.setting().parent().unwrap()).unwrap();
        fs::write(world.setting(), "3\n").unwrap();
        let strict = world.strict().await;
        let (container, _init) = world.run(&strict);
        assert_eq!(world.kept(), "1");
        world.restart(|ledger| fs::write(ledger, b"{").unwrap());
        assert_eq!(world.kept(), "1", "nobody knows yet");
        world.gate.synchronize(vec![pod()], still_runs.then(|| container.clone()).into_iter().collect());
        assert_eq!(world.kept(), if still_runs { "1" } else { "3" });
        world.gate.stop(container);
        assert_eq!(world.kept(), "3");
    }
}

/// Another allocator's CPUs come without a token and without a tripwire.
#[tokio::test]
async fn one_with_cores_of_the_runtime_that_was_made_without_the_agent_is_told() {
    let mut world = World::new().connected();
    let pod = world.pod_under("{cores: {from: Runtime}}");
    let container = Container {
        linux: Some(LinuxContainer { resources: Some(on("1")), ..LinuxContainer::default() }),
        ..in_state(&ordinary(), ContainerState::ContainerRunning)
    };
    world.gate.synchronize(vec![pod], vec![container]);
    assert_eq!(world.unprotected().await.len(), 1);
    assert_eq!(world.held(), [""; 0], "its CPUs are the other allocator's to keep");
}
