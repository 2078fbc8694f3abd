use proptest::prelude::*;

use super::*;
use crate::{
    cores::{ledger::Ledger, pod_resources::PodCores},
    policy::accept::node_default,
};

const MINUTE: Duration = AGREE_FOR;

fn set(list: &str) -> CpuSet {
    list.parse().unwrap()
}

fn holder(pod: &str, container: &str) -> Holder {
    let [namespace, pod, pod_uid, container] = ["n", pod, pod, container].map(str::to_owned);
    Holder { namespace, pod, pod_uid, container }
}

/// An allocation named by its token, of which a container was created and ended, if somebody held it.
fn allocation(cpus: &str, holder: Option<Holder>) -> Allocation {
    Allocation { cpus: set(cpus), number: 0, holder, claim: None }
}

fn listed(pod: &str, container: &str, devices: &[&str]) -> PodCores {
    let [namespace, pod, container] = ["n", pod, container].map(str::to_owned);
    let devices = devices.iter().map(|&id| id.to_owned()).collect();
    PodCores { namespace, pod, container, devices, exclusive: None, drivers: Vec::new() }
}

fn cpus_of(devices: &[String]) -> Option<CpuSet> {
    let numbers = devices.iter().map(|id| id.strip_prefix("core-")).collect::<Option<Vec<_>>>()?;
    numbers.join(",").parse().ok()
}

/// What the kubelet says at a time.
type Look<'a> = (Duration, &'a [PodCores], &'a [&'a str]);

/// How many are stale after each look, of one allocation with the token "t".
#[track_caller]
fn check(allocation: &Allocation, looks: &[Look<'_>], expect: &[usize]) {
    let token = Token::of("t");
    let mut unheld = Unheld::default();
    let stale = looks.iter().map(|(now, containers, replays)| {
        let view = View { containers: containers.to_vec(), allocatable: None };
        let replays = replays.iter().map(|token| Token::of(token)).collect();
        let kubelet = Kubelet { view: &view, replays: &replays };
        unheld.look(*now, [(&token, allocation)].into_iter(), kubelet, cpus_of).len()
    });
    assert_eq!(stale.collect::<Vec<_>>(), expect);
}

#[test]
fn what_nobody_knows_is_stale_at_the_second_look_a_minute_later() {
    let gone = allocation("1", Some(holder("p", "app")));
    let half = MINUTE / 2;
    check(&gone, &[(half, &[], &[]), (MINUTE, &[], &[]), (half + MINUTE, &[], &[])], &[0, 0, 1]);
    check(&allocation("1", None), &[(half, &[], &[]), (half + MINUTE, &[], &[])], &[0, 1]);
}

#[test]
fn a_look_that_disagrees_begins_the_minute_anew() {
    let gone = allocation("1", None);
    let looks: [Look<'_>; 4] =
        [(Duration::ZERO, &[], &[]), (MINUTE, &[], &["t"]), (MINUTE * 2, &[], &[]), (MINUTE * 3, &[], &[])];
    check(&gone, &looks, &[0, 0, 0, 1]);
}

#[test]
fn what_the_kubelet_would_answer_again_is_held() {
    check(&allocation("1", None), &[(Duration::ZERO, &[], &["t"]), (MINUTE * 9, &[], &["t"])], &[0, 0]);
}

#[test]
fn what_the_kubelet_lists_under_its_names_is_held_while_the_cores_are_the_same() {
    let own = allocation("1,9", Some(holder("p", "app")));
    let same = [listed("p", "app", &["core-1", "core-9"])];
    check(&own, &[(Duration::ZERO, &same, &[]), (MINUTE, &same, &[])], &[0, 0]);
    let other = [listed("p", "app", &["core-2"])];
    check(&own, &[(Duration::ZERO, &other, &[]), (MINUTE, &other, &[])], &[0, 1]);
    let strange = [listed("p", "app", &["disk-2"])];
    check(&own, &[(Duration::ZERO, &strange, &[]), (MINUTE, &strange, &[])], &[0, 0]);
}

#[test]
fn an_init_container_is_held_while_its_pod_is_listed() {
    let init = allocation("1", Some(holder("p", "init")));
    for pod in [listed("p", "app", &["core-2"]), listed("p", "app", &[])] {
        check(
            &init,
            &[(Duration::ZERO, std::slice::from_ref(&pod), &[]), (MINUTE, std::slice::from_ref(&pod), &[])],
            &[0, 0],
        );
    }
    let another = [listed("q", "init", &["core-2"])];
    check(&init, &[(Duration::ZERO, &another, &[]), (MINUTE, &another, &[])], &[0, 1]);
}

proptest! {
    /// Whatever the kubelet says, however often and whenever.
    #[test]
    fn a_claimed_allocation_is_never_stale(
        looks in proptest::collection::vec((0u64..10_000, proptest::option::of(0u32..4), any::<bool>()), 1..8),
    ) {
        let mut ledger = Ledger::empty(set("1-9"));
        let token = Token::of("t");
        ledger.allocate(token.clone(), set("1"));
        ledger.claim(&token, &holder("p", "app"), "c", "plan", &node_default()).unwrap();
        let claimed = Allocation {
            claim: ledger.grant("c").map(|grant| grant.claim),
            ..allocation("1", Some(holder("p", "app")))
        };
        let mut unheld = Unheld::default();
        for (seconds, core, replayed) in looks {
            let device = core.map(|core| format!("core-{core}"));
            let containers = device.iter().map(|id| listed("p", "app", &[id])).collect();
            let view = View { containers, allocatable: None };
            let replays = replayed.then(|| token.clone()).into_iter().collect();
            let kubelet = Kubelet { view: &view, replays: &replays };
            let now = Duration::from_secs(seconds);
            let stale = unheld.look(now, [(&token, &claimed)].into_iter(), kubelet, cpus_of);
            prop_assert!(stale.is_empty());
        }
    }

    /// Nothing that came into the ledger less than a minute ago is stale, whatever became of the others.
    #[test]
    fn an_answer_that_was_just_given_is_never_stale(
        given_at in 0u64..600, looks in proptest::collection::btree_set(0u64..600, 1..20),
    ) {
        let (old, new) = (Token::of("old"), Token::of("new"));
        let allocation = allocation("1", None);
        let (view, replays) = (View::default(), BTreeSet::new());
        let mut unheld = Unheld::default();
        for seconds in looks {
            let known = [(&old, 0), (&new, given_at)].into_iter().filter(|(_, since)| *since <= seconds);
            let known = known.map(|(token, _)| (token, &allocation));
            let kubelet = Kubelet { view: &view, replays: &replays };
            let stale = unheld.look(Duration::from_secs(seconds), known, kubelet, cpus_of);
            prop_assert!(given_at + 60 <= seconds || !stale.contains(&new));
        }
    }
}
