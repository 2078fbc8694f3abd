//! What the gate answers for runtimes of every age, for shared CPUs, and what it notes of others.

use std::fs;

use quietcore::{
    arm::plan::SHIM_PATH,
    coexist::known::Known,
    nri::{
        adjust::{CPUS_PATH, TRIPWIRE},
        handler::Handler as _,
        validate::{Plugin, Validated},
        version::Runtime,
    },
};
use quietcore_proto::nri::{Container, LinuxContainer, LinuxResources, Mount, PodSandbox};

use crate::world::{Init, World, cpus, made, on, ordinary, pod};

const NOT_CREATED_BY_US: &str = "quietcore: this strict container was not created through quietcore's agent: \
     delete the pod so that it is made anew";

/// The strict container is refused with this text and nothing is bound to it; an ordinary one is none of our
/// business, from its creation to its end.
#[track_caller]
fn check_refused(world: &mut World, strict: &Container, expect: &str) {
    let gate = &mut world.gate;
    let refusal = gate.create(pod(), strict.clone()).unwrap_err();
    assert_eq!(refusal.to_string(), format!("quietcore: {expect}"));
    assert_eq!(gate.grants.read(|ledger| ledger.grants().count()), 0);
    assert_eq!(gate.start(pod(), strict.clone()).unwrap_err().to_string(), NOT_CREATED_BY_US);

    assert_eq!(gate.create(pod(), ordinary()), Ok(None));
    assert_eq!(gate.start(pod(), ordinary()), Ok(()));
    assert_eq!(gate.update(ordinary(), LinuxResources::default()), None);
    gate.stop(ordinary());
    gate.remove(ordinary());
}

#[tokio::test]
async fn a_runtime_without_args_gets_ordinary_containers_only_and_the_version_it_needs() {
    let mut world = World::new();
    let strict = world.strict().await;
    for (name, version, found) in [
        ("containerd", "v2.1.5", "containerd v2.1.5 (NRI 0.8)"),
        ("containerd", "1.7.24~ds1", "containerd 1.7.24~ds1 (NRI 0.6)"),
        ("cri-o", "1.33.2", "cri-o 1.33.2 (NRI 0.9)"),
        ("containerd", "301026e5", "containerd 301026e5 (NRI of unknown version)"),
    ] {
        world.gate.configured(Runtime::new(name, version, ""));
        let expect = format!(
            "strict pods need NRI 0.10 or newer (containerd >= 2.2, CRI-O >= 1.34); this node runs {found}: \
             upgrade the runtime, or keep strict pods off this node"
        );
        check_refused(&mut world, &strict, &expect);
    }
}

#[tokio::test]
async fn before_the_runtime_is_known_only_ordinary_containers_are_created() {
    let mut world = World::new();
    let strict = world.strict().await;
    let expect = "this node does not know its container runtime yet; the kubelet tries again by itself";
    check_refused(&mut world, &strict, expect);
}

#[tokio::test]
async fn a_released_node_creates_ordinary_containers_only() {
    let mut world = World::new();
    let strict = world.strict().await;
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    world.gate.seen.send_modify(|seen| seen.released = true);
    let expect = "quietcore was released from this node: delete the pod so that it is scheduled elsewhere";
    check_refused(&mut world, &strict, expect);
}

#[tokio::test]
async fn a_node_that_was_asked_to_let_go_creates_ordinary_containers_only_and_keeps_what_runs() {
    let mut world = World::new();
    let strict = world.strict().await;
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    world.gate.seen.send_modify(|seen| seen.cordoned = true);
    let expect = "quietcore is about to leave this node: the kubelet tries again by itself in case it stays; delete \
                  the pod so that it is scheduled elsewhere";
    check_refused(&mut world, &strict, expect);
    world.gate.seen.send_modify(|seen| seen.cordoned = false);
    world.gate.create(pod(), strict.clone()).unwrap().unwrap();
    world.gate.seen.send_modify(|seen| seen.cordoned = true);
    assert!(world.gate.update(strict, LinuxResources::default()).is_some());
    assert_eq!(world.gate.grants.read(|ledger| ledger.grants().count()), 1);
}

/// Neither of them runs yet, and no strict pod was asked for.
#[tokio::test]
async fn who_else_sets_cpusets_is_known_from_ordinary_containers_alone() {
    let mut world = World::new();
    let known = |world: &World| world.gate.coexistence.peers().clone();
    let labels = [("app.kubernetes.io/name".to_owned(), "dra-driver-cpu".to_owned())].into();
    let nri = Mount { source: "/var/run/nri".to_owned(), ..Mount::default() };
    let driver = Container { id: "driver".to_owned(), mounts: vec![nri], ..ordinary() };
    assert_eq!(world.gate.create(PodSandbox { labels, ..pod() }, driver.clone()), Ok(None));
    assert_eq!(known(&world).pods().collect::<Vec<_>>(), [(Known::DraDriverCpu, "default/poller")]);
    world.gate.remove(driver);
    assert_eq!(known(&world).pods().count(), 0);

    let pinner = Plugin { index: "10".to_owned(), name: "pinner".to_owned() };
    let cpuset_owners = [("0123".to_owned(), pinner.clone())].into();
    world.gate.validated(Validated { consulted: vec![pinner.clone()], cpuset_owners });
    assert_eq!(known(&world).cpuset_owners().collect::<Vec<_>>(), [&pinner]);
    world.gate.synchronize(Vec::new(), Vec::new());
    assert_eq!(known(&world).cpuset_owners().count(), 0);
}

#[tokio::test]
async fn whoever_wants_a_strict_container_elsewhere_is_remembered_until_it_ends() {
    let mut world = World::new();
    let mut strict = world.strict().await;
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    strict.linux = Some(LinuxContainer { resources: Some(on("0")), ..LinuxContainer::default() });
    world.gate.create(pod(), strict.clone()).unwrap();
    let asked = |world: &World| -> Vec<String> {
        let peers = world.gate.coexistence.peers();
        peers.overrides().map(|set| format!("{} on {}", set.container, set.asked)).collect()
    };
    assert_eq!(asked(&world), ["default/poller/app on 0"]);
    world.gate.update(strict.clone(), on("0-1")).unwrap();
    assert_eq!(asked(&world), ["default/poller/app on 0-1"]);
    world.gate.stop(strict);
    assert!(asked(&world).is_empty());
}

#[tokio::test]
async fn the_pod_that_an_old_runtime_refused_is_created_after_the_upgrade() {
    let mut world = World::new();
    let strict = world.strict().await;
    world.gate.configured(Runtime::new("containerd", "v2.1.5", ""));
    world.gate.create(pod(), strict.clone()).unwrap_err();
    world.gate.configured(Runtime::new("containerd", "v2.2.0", ""));
    let adjustment = world.gate.create(pod(), strict).unwrap().unwrap();
    assert_eq!(adjustment.args[0], SHIM_PATH);
    assert_eq!(adjustment.args[2..], ["--", "/app", "--poll"]);
    let removed = adjustment.mounts.iter().any(|mount| mount.destination == format!("-{TRIPWIRE}"));
    assert!(removed, "the tripwire goes: {:?}", adjustment.mounts);
    assert_eq!(world.gate.grants.read(|ledger| ledger.grants().count()), 1);
}

#[tokio::test]
async fn shared_cpus_are_housekeeping_ones_and_the_container_is_told_which() {
    let mut world = World::new();
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    let pod = world.pod_under("{arm: {at: Settled}, cores: {sharedCpus: 1}}");
    let strict = world.strict().await;
    let adjustment = world.gate.create(pod.clone(), strict.clone()).unwrap().unwrap();
    assert_eq!(adjustment.args[1], "v2 cpus=1 shared=0 provider=none arm=prctl locked=no");
    let cpuset = |resources: Option<LinuxResources>| {
        let cpu = resources.unwrap().cpu.unwrap();
        (cpu.cpus, cpu.mems)
    };
    let both = ("0-1".to_owned(), "0,1".to_owned());
    assert_eq!(cpuset(adjustment.linux.unwrap().resources), both);
    let mount = adjustment.mounts.iter().find(|mount| mount.destination == CPUS_PATH).unwrap();
    let told = fs::read_to_string(&mount.source).unwrap();
    assert_eq!(told, "QUIETCORE_CPUS=1\nQUIETCORE_SHARED_CPUS=0\n");

    let grant = world.gate.grants.read(|ledger| ledger.grant(&strict.id)).unwrap();
    assert_eq!((grant.cpus, grant.claim.place.shared), (cpus("1"), Some(cpus("0"))));
    let update = world.gate.update(strict, LinuxResources::default()).unwrap();
    assert_eq!(cpuset(update.linux.unwrap().resources), both);
}

#[tokio::test]
async fn more_shared_cpus_than_the_node_has_are_refused_with_their_number() {
    let mut world = World::new();
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    let pod = world.pod_under("{cores: {sharedCpus: 2}}");
    let strict = world.strict().await;
    let refusal = world.gate.create(pod, strict).unwrap_err().to_string();
    let expect = "quietcore: the policy asks for sharedCpus: 2, and this node has 1 housekeeping CPUs besides those it \
                  grants; ask for fewer, or leave more out of the agent's --isolated-cpus";
    assert_eq!(refusal, expect);
    assert_eq!(world.gate.grants.read(|ledger| ledger.grants().count()), 0);
}

#[tokio::test]
async fn a_container_that_lacks_its_shared_cpu_does_not_start() {
    let mut world = World::new();
    world.gate.configured(Runtime::new("containerd", "v2.3.4", ""));
    let pod = world.pod_under("{arm: {at: Settled}, cores: {sharedCpus: 1}}");
    let strict = world.strict().await;
    let adjustment = world.gate.create(pod.clone(), strict.clone()).unwrap().unwrap();
    // Where somebody else's cpuset holds the grant alone.
    let init = Init::on("1");
    let started = made(&strict, &adjustment, &init);
    let refusal = world.gate.start(pod, started).unwrap_err().to_string();
    let expect = "quietcore: the container may run on CPUs 1, not on exactly those it was given, 0-1";
    assert!(refusal.starts_with(expect), "{refusal}");
}
