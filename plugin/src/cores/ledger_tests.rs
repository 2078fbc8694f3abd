//! The ledger's rules one by one, and as a state machine under any sequence of events.

use proptest::prelude::*;

use super::*;
use crate::policy::accept::node_default;

fn holder(pod: &str, container: &str) -> Holder {
    Holder {
        namespace: "ns".into(),
        pod: pod.into(),
        pod_uid: format!("uid-{pod}"),
        container: container.into(),
    }
}

fn ledger(allocations: &[(&str, &str)]) -> Ledger {
    let mut ledger = Ledger::default();
    for (token, cpus) in allocations {
        ledger.allocate(Token::of(token), cpus.parse().unwrap());
    }
    ledger
}

fn claim(
    ledger: &mut Ledger,
    token: &str,
    pod: &str,
    container: &str,
    id: &str,
) -> Result<Grant, LedgerRefusal> {
    ledger.claim(&Token::of(token), &holder(pod, container), id, "plan", &node_default())
}

#[test]
fn a_token_that_nobody_gave_out_is_refused() {
    assert_eq!(claim(&mut ledger(&[]), "t", "p", "c", "1"), Err(LedgerRefusal::UnknownToken));
}

#[test]
fn a_token_is_bound_to_its_first_pod_and_container() {
    let mut ledger = ledger(&[("t", "1")]);
    assert!(claim(&mut ledger, "t", "p", "c", "1").is_ok());
    for (pod, container) in [("q", "c"), ("p", "other")] {
        assert!(matches!(
            claim(&mut ledger, "t", pod, container, "2"),
            Err(LedgerRefusal::OthersToken { .. })
        ));
    }
}

#[test]
fn a_restart_takes_the_same_slot_and_its_old_instances_late_stop_changes_nothing() {
    let mut ledger = ledger(&[("t", "1")]);
    let first = claim(&mut ledger, "t", "p", "c", "1").unwrap();
    let second = claim(&mut ledger, "t", "p", "c", "2").unwrap();
    assert_eq!(first.claim.slot, second.claim.slot);
    assert_eq!(ledger.release("1"), None);
    assert_eq!(ledger.grant("2"), Some(second));
}

#[test]
fn across_pods_the_newer_waits_until_the_older_is_gone() {
    let mut ledger = ledger(&[("old", "1-2"), ("new", "2-3")]);
    claim(&mut ledger, "old", "p", "c", "1").unwrap();
    let refusal = claim(&mut ledger, "new", "q", "c", "2").unwrap_err();
    assert!(refusal.to_string().contains("held by container c of pod ns/p"), "{refusal}");
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
    assert!(claim(&mut ledger, "init", "p", "init", "3").is_ok());
}

#[test]
fn what_the_runtime_does_not_have_is_released() {
    let mut ledger = ledger(&[("t", "1"), ("u", "2")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    claim(&mut ledger, "u", "q", "c", "2").unwrap();
    let gone = ledger.reconcile(&["2".into()]);
    assert_eq!(gone.iter().map(|grant| grant.claim.container_id.as_str()).collect::<Vec<_>>(), ["1"]);
    assert_eq!(ledger.grants().count(), 1);
}

#[test]
fn it_survives_the_disk() {
    let mut ledger = ledger(&[("t", "1,3-5")]);
    claim(&mut ledger, "t", "p", "c", "1").unwrap();
    ledger.started("1", 42);
    let read: Ledger = serde_json::from_str(&serde_json::to_string(&ledger).unwrap()).unwrap();
    assert_eq!(read.grant("1"), ledger.grant("1"));
    assert_eq!(read.grant("1").unwrap().claim.pid, Some(42));
}

#[derive(Debug, Clone)]
enum Step {
    Allocate { token: u8, cpu: u8 },
    Claim { token: u8, pod: u8, container: u8, id: u8 },
    Release { id: u8 },
    Reconcile { ids: Vec<u8> },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0u8..6, 0u8..4).prop_map(|(token, cpu)| Step::Allocate { token, cpu }),
        (0u8..6, 0u8..3, 0u8..2, 0u8..9).prop_map(|(token, pod, container, id)| Step::Claim {
            token,
            pod,
            container,
            id
        }),
        (0u8..9).prop_map(|id| Step::Release { id }),
        proptest::collection::vec(0u8..9, 0..5).prop_map(|ids| Step::Reconcile { ids }),
    ]
}

proptest! {
    #[test]
    fn two_containers_never_share_a_cpu_or_a_slot(steps in proptest::collection::vec(step(), 0..60)) {
        let mut ledger = Ledger::default();
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                // A token is random: it never comes twice.
                Step::Allocate { token, cpu } => {
                    let token = Token::of(&format!("{token}-{n}"));
                    ledger.allocate(token, format!("{cpu}-{}", cpu + 1).parse().unwrap());
                }
                Step::Claim { token, pod, container, id } => {
                    let prefix = format!("{token}-");
                    let mut tokens = ledger.allocations.keys().filter(|known| known.as_str().starts_with(&prefix));
                    let token = tokens.next_back().cloned().unwrap_or_else(|| Token::of("none"));
                    let holder = holder(&pod.to_string(), &container.to_string());
                    let _ = ledger.claim(&token, &holder, &id.to_string(), "plan", &node_default());
                }
                Step::Release { id } => { ledger.release(&id.to_string()); }
                Step::Reconcile { ids } => {
                    let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
                    ledger.reconcile(&ids);
                }
            }
            let grants: Vec<Grant> = ledger.grants().collect();
            for (idx, one) in grants.iter().enumerate() {
                for other in &grants[idx + 1..] {
                    prop_assert!(!one.cpus.overlaps(&other.cpus));
                    prop_assert_ne!(one.claim.slot, other.claim.slot);
                }
            }
        }
    }
}
