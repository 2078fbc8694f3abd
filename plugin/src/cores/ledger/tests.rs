//! The ledger's rules one by one, and as a state machine under any sequence of events.

use std::collections::BTreeSet;

use expect_test::{Expect, expect};
use proptest::prelude::*;

use super::*;
use crate::{cores::set::CpuId, policy::accept::node_default};

fn holder(pod: &str, container: &str) -> Holder {
    Holder {
        namespace: "ns".into(),
        pod: pod.into(),
        pod_uid: format!("uid-{pod}"),
        container: container.into(),
    }
}

fn empty() -> Ledger {
    Ledger::empty("1-9".parse().unwrap())
}

fn ledger(allocations: &[(&str, &str)]) -> Ledger {
    let mut ledger = empty();
    for (token, cpus) in allocations {
        ledger.allocate(Token::of(token), cpus.parse().unwrap());
    }
    ledger
}

fn stranger(id: &str, pod: &str, cpus: &str) -> Stranger {
    Stranger {
        container_id: id.into(),
        holder: holder(pod, "c"),
        cpus: cpus.parse().unwrap(),
        cgroup: String::new(),
    }
}

fn claim(
    ledger: &mut Ledger,
    token: &str,
    pod: &str,
    container: &str,
    id: &str,
) -> Result<Claimed, LedgerRefusal> {
    ledger.claim(&Token::of(token), &holder(pod, container), id, "plan", &node_default())
}

#[track_caller]
fn check_refused(ledger: &mut Ledger, token: &str, pod: &str, container: &str, expect: Expect) {
    let revision = ledger.revision();
    let refusal = claim(ledger, token, pod, container, "refused").unwrap_err();
    expect.assert_eq(&refusal.to_string());
    assert_eq!((ledger.grant("refused"), ledger.revision()), (None, revision), "a refusal changes nothing");
}

#[test]
fn shared_cpus_are_no_ones_own_until_the_node_grants_them() {
    let mut ledger = Ledger::empty("1-2".parse().unwrap());
    for (token, cpus, id) in [("t", "1", "a"), ("u", "2", "b")] {
        ledger.allocate(Token::of(token), cpus.parse().unwrap());
        claim(&mut ledger, token, token, "c", id).unwrap();
        ledger.placed(id, Place { shared: "0".parse().ok(), ..Place::default() });
    }
    let saved: Saved = serde_json::from_str(&serde_json::to_string(ledger.saved()).unwrap()).unwrap();
    let mut ledger = Ledger::restore("0,2".parse().unwrap(), saved).unwrap();
    assert_eq!(ledger.grant("a").unwrap().claim.place.shared, "0".parse().ok());
    let housekeeping = ledger.housekeeping(&"0-4".parse().unwrap()).into_iter().map(CpuId::number);
    assert_eq!(housekeeping.collect::<Vec<_>>(), [3, 4], "1 is still granted, though it is not isolated now");
    ledger.allocate(Token::of("v"), "0".parse().unwrap());
    let words = expect![
        "CPUs 0 are still held by container c of pod ns/t; this one starts by itself when that is gone"
    ];
    check_refused(&mut ledger, "v", "p", "c", words);
    assert!(["a", "b"].into_iter().all(|id| ledger.release(id).is_some()));
    claim(&mut ledger, "v", "p", "c", "d").unwrap();
}

#[test]
fn a_ledger_from_before_shared_cpus_is_read() {
    let mut ledger = Ledger::empty("1".parse().unwrap());
    ledger.allocate(Token::of("t"), "1".parse().unwrap());
    let claimed = claim(&mut ledger, "t", "p", "c", "id").unwrap();
    let mut saved = serde_json::to_value(ledger.saved()).unwrap();
    let old = saved["allocations"]["t"]["claim"].as_object_mut().unwrap();
    old.remove("shared").unwrap();
    old["policy"].as_object_mut().unwrap().remove("cores").unwrap();
    let ledger = Ledger::restore("1".parse().unwrap(), serde_json::from_value(saved).unwrap()).unwrap();
    assert_eq!(ledger.grant("id"), Some(claimed.grant));
}

#[test]
fn a_token_that_nobody_gave_out_is_refused() {
    let words = expect![
        "the container's grant token is none of this node's: it comes from the kubelet's answer for quietcore.io/core and cannot be set by hand; delete the pod so that it is admitted anew"
    ];
    check_refused(&mut empty(), "t", "p", "c", words);
}

#[test]
fn a_token_is_bound_to_its_first_pod_and_container() {
    let mut ledger = ledger(&[("t", "1")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    ledger.release("1");
    for (pod, container) in [("q", "c"), ("p", "other")] {
        let words = expect![
            "the container's grant token belongs to container c of pod ns/p: remove the annotation grant.quietcore.io/token from this pod"
        ];
        check_refused(&mut ledger, "t", pod, container, words);
    }
}

#[test]
fn cpus_that_are_no_longer_isolated_are_refused() {
    let words = expect![
        "CPUs 9-10 of this pod are no longer among the node's isolated CPUs (1-9): delete the pod so that it is admitted anew"
    ];
    check_refused(&mut ledger(&[("t", "9-10")]), "t", "p", "c", words);
}

#[test]
fn a_restart_takes_the_same_slot_and_its_old_instances_late_stop_changes_nothing() {
    let mut ledger = ledger(&[("t", "1")]);
    let first = claim(&mut ledger, "t", "p", "c", "1").unwrap();
    assert_eq!(first.replaced, None);
    let second = claim(&mut ledger, "t", "p", "c", "2").unwrap();
    assert_eq!(second.replaced, Some(first.grant));
    assert_eq!(second.replaced.unwrap().claim.slot, second.grant.claim.slot);
    assert_eq!(ledger.release("1"), None);
    assert_eq!(ledger.grant("2"), Some(second.grant));
}

#[test]
fn a_container_whose_kubelet_lost_its_checkpoint_is_given_other_cpus_and_holds_only_those() {
    let mut ledger = ledger(&[("t", "1"), ("again", "2")]);
    let first = claim(&mut ledger, "t", "p", "c", "1").unwrap();
    assert_eq!(claim(&mut ledger, "again", "p", "c", "2").unwrap().replaced, Some(first.grant));
    assert_eq!(ledger.held().map(ToString::to_string).collect::<Vec<_>>(), ["2"]);
}

#[test]
fn across_pods_the_newer_waits_until_the_older_is_gone() {
    let mut ledger = ledger(&[("old", "1-2"), ("new", "2-3")]);
    claim(&mut ledger, "old", "p", "c", "1").unwrap();
    let words = expect![
        "CPUs 2-3 are still held by container c of pod ns/p; this one starts by itself when that is gone"
    ];
    check_refused(&mut ledger, "new", "q", "c", words);
    ledger.release("1");
    assert!(claim(&mut ledger, "new", "q", "c", "2").is_ok());
    // The old pod's token died with it.
    assert_eq!(claim(&mut ledger, "old", "p", "c", "3"), Err(LedgerRefusal::UnknownToken));
}

#[test]
fn within_a_pod_two_containers_hold_a_core_one_after_the_other() {
    let mut ledger = ledger(&[("init", "1"), ("app", "1")]);
    claim(&mut ledger, "init", "p", "init", "1").unwrap();
    assert!(matches!(claim(&mut ledger, "app", "p", "app", "2"), Err(LedgerRefusal::Held { .. })));
    ledger.release("1");
    assert!(claim(&mut ledger, "app", "p", "app", "2").is_ok());
    ledger.release("2");
    // The pod's sandbox was made anew: its init containers run again.
    assert!(claim(&mut ledger, "init", "p", "init", "3").is_ok());
}

#[test]
fn an_allocation_whose_pod_never_came_is_forgotten_when_its_cpus_are_bound_again() {
    let mut ledger = ledger(&[("never", "1"), ("other", "2"), ("t", "1")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    assert_eq!(ledger.cpus_of(&Token::of("never")), Err(LedgerRefusal::UnknownToken));
    assert!(ledger.cpus_of(&Token::of("other")).is_ok());
}

#[test]
fn a_late_create_of_an_old_pod_does_not_take_the_newer_pods_token() {
    let mut ledger = ledger(&[("old", "1"), ("new", "1")]);
    claim(&mut ledger, "old", "p", "c", "1").unwrap();
    ledger.release("1");
    claim(&mut ledger, "old", "p", "c", "2").unwrap();
    ledger.release("2");
    assert!(claim(&mut ledger, "new", "q", "c", "3").is_ok());
}

#[test]
fn the_ledger_is_bounded_and_pods_that_were_seen_are_kept_longest() {
    let mut ledger = ledger(&[("running", "1"), ("seen", "2")]);
    claim(&mut ledger, "running", "p", "c", "1").unwrap();
    claim(&mut ledger, "seen", "q", "c", "2").unwrap();
    ledger.release("2");
    for n in 0..2 * MAX_ALLOCATIONS {
        ledger.allocate(Token::of(&format!("never-{n}")), "3".parse().unwrap());
    }
    assert_eq!(ledger.saved.allocations.len(), MAX_ALLOCATIONS);
    assert!(ledger.grant("1").is_some());
    assert!(ledger.cpus_of(&Token::of("seen")).is_ok());
    assert_eq!(ledger.cpus_of(&Token::of("never-0")), Err(LedgerRefusal::UnknownToken));
}

#[test]
fn what_the_runtime_does_not_have_is_released() {
    let mut ledger = ledger(&[("t", "1"), ("u", "2")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    claim(&mut ledger, "u", "q", "c", "2").unwrap();
    let gone = ledger.reconcile(&["2".into()], vec![stranger("2", "q", "2")]);
    assert_eq!(gone.iter().map(|grant| grant.claim.container_id.as_str()).collect::<Vec<_>>(), ["1"]);
    assert_eq!(ledger.grants().count(), 1);
    assert_eq!(ledger.strangers, [], "a claimed container is none");
}

#[test]
fn a_strict_container_that_the_ledger_lost_keeps_its_cpus_until_it_is_gone() {
    let mut ledger = ledger(&[("t", "1-2")]);
    ledger.reconcile(&["lost".into()], vec![stranger("lost", "old", "2")]);
    assert_eq!(ledger.held().map(ToString::to_string).collect::<Vec<_>>(), ["2"]);
    let words = expect![
        "CPUs 1-2 are still held by container c of pod ns/old; this one starts by itself when that is gone"
    ];
    check_refused(&mut ledger, "t", "p", "c", words);
    assert_eq!(ledger.release("lost"), None);
    assert!(claim(&mut ledger, "t", "p", "c", "1").is_ok());
}

#[test]
fn a_container_whose_claim_was_lost_in_a_crash_starts_again_by_itself() {
    let mut ledger = ledger(&[("t", "1")]);
    ledger.reconcile(&["lost".into()], vec![stranger("lost", "p", "1")]);
    assert!(claim(&mut ledger, "t", "p", "c", "2").is_ok());
}

#[test]
fn what_still_watches_a_lost_container_stays_and_its_cores_stay_quiet() {
    let mut ledger = ledger(&[("t", "1")]);
    let slots = || [1, 2].into_iter().filter_map(Slot::new);
    assert!(!ledger.is_reconciled());
    ledger.reconcile(&["lost".into()], vec![stranger("lost", "old", "2")]);
    assert!(ledger.is_reconciled());
    assert_eq!(ledger.unused_slots(slots()), []);
    let quiet: Vec<String> = ledger.wanted().map(|wanted| wanted.quieted.cores.to_string()).collect();
    assert_eq!(quiet, ["1", "2"]);
    let slot = claim(&mut ledger, "t", "p", "c", "1").unwrap().grant.claim.slot;
    assert_eq!(Some(slot), Slot::new(3), "the others may be the lost one's");
    ledger.reconcile(&["1".into()], vec![]);
    assert_eq!(ledger.unused_slots(slots()), slots().collect::<Vec<_>>());
}

#[test]
fn shared_cpus_of_a_lost_container_are_no_cores_of_it() {
    let mut ledger = Ledger::empty("2-3".parse().unwrap());
    for (cpus, expect) in [("0,2", ("2", Some("0"))), ("2", ("2", None))] {
        ledger.reconcile(&["lost".into()], vec![stranger("lost", "old", cpus)]);
        let wanted = ledger.wanted().next().unwrap().quieted;
        let [cores, cpus] = [wanted.cores, wanted.cpus].map(|cpus| cpus.to_string());
        assert_eq!((cores.as_str(), wanted.shared.map(|shared| shared.to_string()).as_deref()), expect);
        assert_eq!(cpus, cores);
    }
}

#[test]
fn whoever_the_ledger_lost_is_named_and_until_the_runtime_has_told_nobody_is_known_to_be_absent() {
    let mut ledger = ledger(&[("t", "1")]);
    let slot = claim(&mut ledger, "t", "p", "c", "1").unwrap().grant.claim.slot;
    let others = Slot::all().find(|other| *other != slot);
    assert!(ledger.knows_all([slot].into_iter()));
    assert!(!ledger.knows_all([slot].into_iter().chain(others)));
    ledger.reconcile(&["1".into(), "lost".into()], vec![stranger("lost", "old", "2")]);
    assert!(ledger.knows_all([slot].into_iter().chain(others)));
    let named: Vec<String> =
        ledger.holders().map(|(holder, cores)| format!("{} on {cores}", holder.pod)).collect();
    assert_eq!(named, ["p on 1", "old on 2"]);
}

#[test]
fn cpus_of_another_allocator_take_no_token_from_a_pod_that_waits() {
    let mut ledger = ledger(&[("t", "1")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    ledger.release("1");
    ledger.claim_of_runtime("1".parse().unwrap(), &holder("q", "c"), "2", "plan", &node_default()).unwrap();
    ledger.release("2");
    assert!(claim(&mut ledger, "t", "p", "c", "3").is_ok());
}

#[test]
fn slots_run_out_in_words_and_come_back() {
    let mut ledger = Ledger::empty("0-1023".parse().unwrap());
    for n in 0..=u32::from(u8::MAX) {
        ledger.allocate(Token::of(&n.to_string()), n.to_string().parse().unwrap());
    }
    for n in 0..u32::from(u8::MAX) {
        claim(&mut ledger, &n.to_string(), &n.to_string(), "c", &n.to_string()).unwrap();
    }
    check_refused(
        &mut ledger,
        "255",
        "p",
        "c",
        expect!["all 255 slots for strict containers of this node are taken"],
    );
    let free = ledger.release("7").unwrap().claim.slot;
    assert_eq!(claim(&mut ledger, "255", "p", "c", "255").unwrap().grant.claim.slot, free);
}

#[test]
fn only_what_belongs_on_disk_counts_as_a_change() {
    let mut ledger = ledger(&[("t", "1")]);
    let revision = ledger.revision();
    ledger.release("of an ordinary pod");
    ledger.started("of an ordinary pod", 1);
    ledger.reconcile(&[], vec![]);
    assert_eq!(ledger.revision(), revision);
}

#[test]
fn a_saved_ledger_that_shares_a_cpu_is_refused() {
    let mut saved = Saved::default();
    for (pod, cpus) in [("p", "1-2"), ("q", "2-3")] {
        let mut one = ledger(&[(pod, cpus)]);
        claim(&mut one, pod, pod, "c", pod).unwrap();
        saved.allocations.append(&mut one.saved.allocations);
    }
    let error = Ledger::restore("1-9".parse().unwrap(), saved).unwrap_err();
    expect!["containers p and q hold the same CPU or the same slot"].assert_eq(&error.to_string());
}

#[derive(Debug, Clone)]
enum Step {
    Allocate {
        cpu: u32,
    },
    Create {
        pick: usize,
        pod: u8,
        container: u8,
    },
    /// Of any container that ever was, also twice, also long after it was replaced.
    Stop {
        pick: usize,
    },
    /// The connection was lost; some of the containers ended meanwhile.
    Synchronize {
        ended: Vec<usize>,
    },
    /// The writer thread caught up.
    Save,
    /// The agent died; all it knows is what was on disk, which lags behind, or is lost.
    Restart {
        disk_lost: bool,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let pick = 0usize..1000;
    prop_oneof![
        4 => (1u32..8).prop_map(|cpu| Step::Allocate { cpu }),
        8 => (pick.clone(), 0u8..3, 0u8..2).prop_map(|(pick, pod, container)| Step::Create { pick, pod, container }),
        4 => pick.clone().prop_map(|pick| Step::Stop { pick }),
        1 => proptest::collection::vec(pick, 0..4).prop_map(|ended| Step::Synchronize { ended }),
        4 => Just(Step::Save),
        1 => any::<bool>().prop_map(|disk_lost| Step::Restart { disk_lost }),
    ]
}

/// What really runs on the node, whatever the ledger believes.
#[derive(Debug, Default)]
struct Node {
    tokens: Vec<Token>,
    ever: Vec<String>,
    running: Vec<Stranger>,
    on_disk: Saved,
}

impl Node {
    fn apply(&mut self, ledger: &mut Ledger, step: Step) {
        match step {
            Step::Allocate { cpu } => {
                let token = Token::of(&self.tokens.len().to_string());
                ledger.allocate(token.clone(), format!("{cpu}-{}", cpu + 1).parse().unwrap());
                self.tokens.push(token);
            }
            Step::Create { pick, pod, container } if !self.tokens.is_empty() => {
                let token = &self.tokens[pick % self.tokens.len()];
                let holder = holder(&pod.to_string(), &container.to_string());
                let id = self.ever.len().to_string();
                if let Ok(claimed) = ledger.claim(token, &holder, &id, "plan", &node_default()) {
                    // The kubelet makes a new instance only of a container that is dead.
                    self.running.retain(|old| !old.holder.is(&holder));
                    self.running.push(Stranger {
                        container_id: id.clone(),
                        holder,
                        cpus: claimed.grant.cpus,
                        cgroup: String::new(),
                    });
                }
                self.ever.push(id);
            }
            Step::Stop { pick } if !self.ever.is_empty() => {
                let id = self.ever[pick % self.ever.len()].clone();
                self.running.retain(|container| container.container_id != id);
                ledger.release(&id);
            }
            Step::Synchronize { ended } => {
                for pick in ended {
                    if !self.running.is_empty() {
                        self.running.remove(pick % self.running.len());
                    }
                }
                self.synchronize(ledger);
            }
            Step::Save => self.on_disk = ledger.saved().clone(),
            Step::Restart { disk_lost } => {
                let saved = if disk_lost { Saved::default() } else { self.on_disk.clone() };
                *ledger = Ledger::restore(ledger.isolated.clone(), saved).unwrap();
                self.synchronize(ledger);
            }
            Step::Create { .. } | Step::Stop { .. } => {}
        }
    }

    fn synchronize(&self, ledger: &mut Ledger) {
        let live: Vec<String> = self.running.iter().map(|container| container.container_id.clone()).collect();
        ledger.reconcile(&live, self.running.clone());
    }
}

proptest! {
    #[test]
    fn two_containers_never_share_a_cpu_or_a_slot(steps in proptest::collection::vec(step(), 0..80)) {
        let (mut node, mut ledger) = (Node::default(), empty());
        for step in steps {
            node.apply(&mut ledger, step);
            let mut cpus: BTreeSet<CpuId> = BTreeSet::new();
            for container in &node.running {
                prop_assert!(container.cpus.iter().all(|cpu| cpus.insert(cpu)), "{:?}", node.running);
            }
            let mut slots = BTreeSet::new();
            for grant in ledger.grants() {
                prop_assert!(slots.insert(grant.claim.slot));
                let runs = node.running.iter().any(|container| container.container_id == grant.claim.container_id);
                prop_assert!(runs, "the ledger holds CPUs for {} that is gone", grant.claim.container_id);
            }
            prop_assert!(node.running.iter().all(|container| ledger.held().any(|held| held == &container.cpus)));
        }
    }
}

#[test]
fn cores_of_the_runtime_have_no_token_that_a_pod_could_bring_and_go_with_their_container() {
    let mut ledger = ledger(&[("t", "1")]);
    claim(&mut ledger, "t", "device", "c", "a").unwrap();
    let mut of_runtime = |cpus: &str, pod: &str, id: &str| {
        ledger.claim_of_runtime(cpus.parse().unwrap(), &holder(pod, "c"), id, "plan", &node_default())
    };
    assert!(matches!(of_runtime("1-2", "guest", "b"), Err(LedgerRefusal::Held { .. })));
    let first = of_runtime("2-3", "guest", "b").unwrap();
    // Another instance, on other CPUs, before the first is reported as gone.
    let second = of_runtime("4-5", "guest", "c").unwrap();
    assert_eq!(second.replaced, Some(first.grant));
    assert_eq!(ledger.cpus_of(&Token::of("runtime/2")), Err(LedgerRefusal::UnknownToken));
    assert_eq!(ledger.release("b"), None);
    assert_eq!(ledger.release("c").map(|grant| grant.cores.to_string()), Some("4-5".to_owned()));
    assert_eq!(ledger.allocations().count(), 1);
}

#[test]
fn one_thread_of_each_core_runs_and_nobody_gets_the_other() {
    let mut ledger = ledger(&[("t", "1,5"), ("u", "5")]);
    claim(&mut ledger, "t", "p", "c", "a").unwrap();
    ledger.placed("a", Place { cpus: "1".parse().ok(), ..Place::default() });
    let grant = ledger.grant("a").unwrap();
    assert_eq!((grant.cpus.to_string(), grant.cores.to_string()), ("1".to_owned(), "1,5".to_owned()));
    let wanted = ledger.wanted().find(|wanted| wanted.container_id.is_some()).unwrap().quieted;
    assert_eq!((wanted.cpus, wanted.cores), (grant.cpus, grant.cores));
    assert!(matches!(claim(&mut ledger, "u", "q", "c", "b"), Err(LedgerRefusal::Held { .. })));
}

#[test]
fn what_nobody_holds_is_forgotten_and_a_claim_never_is() {
    let mut ledger = ledger(&[("t", "1"), ("u", "2")]);
    claim(&mut ledger, "t", "p", "c", "a").unwrap();
    ledger.forget(&["t", "u", "unknown"].map(Token::of));
    assert_eq!(ledger.allocations().map(|(token, _)| token.clone()).collect::<Vec<_>>(), [Token::of("t")]);
}
