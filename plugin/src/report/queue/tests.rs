use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::{report::ContainerInfo, violation::key::What};

const BOUNDS: Bounds =
    Bounds { waiting: 4, patch_every: Duration::from_secs(10), series_rest: Duration::from_secs(360) };

fn queue() -> Queue {
    Queue::new("node-1".into(), BOUNDS)
}

fn key(pod: &str, n: u64) -> Key {
    let whom = Whom::Container { pod_uid: pod.into(), container: "c".into() };
    Key { whom, what: What::Exception { ip: n } }
}

fn draft(pod: &str, n: u64) -> Draft {
    let info = ContainerInfo {
        namespace: "ns".into(),
        pod: pod.into(),
        pod_uid: pod.into(),
        container: "c".into(),
        container_id: "id".into(),
        policy: None,
    };
    Draft {
        subject: Subject::Container(Arc::new(info)),
        reason: Reason::KernelEntry,
        action: "Report",
        note: format!("{pod} {n}"),
        at: Timestamp::UNIX_EPOCH,
    }
}

fn s(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn push(queue: &mut Queue, pod: &str, n: u64) {
    queue.open(key(pod, n), at(0), s(0));
    let _ = queue.fill(&key(pod, n), draft(pod, n));
}

/// What would be sent, with everything answered by `outcome`, until nothing is left to do at `now`.
fn drain(queue: &mut Queue, outcome: Outcome, now: Duration) -> Vec<String> {
    let mut sent = Vec::new();
    while let Some(job) = queue.next(at(0), now) {
        sent.push(match &job {
            Job::Create { named, times, .. } => format!("create {} x{}", named.draft.note, times.count),
            Job::Patch { named, times, .. } => format!("patch {} x{}", named.draft.note, times.count),
            Job::CreateDropped { count, .. } => format!("dropped {count}"),
        });
        queue.settle(&job, outcome, now);
        assert!(sent.len() < 100, "never ends: {sent:?}");
    }
    sent
}

#[test]
fn what_happened_first_is_told_first_and_once() {
    let mut queue = queue();
    for n in 0..3 {
        push(&mut queue, "a", n);
    }
    assert_eq!(drain(&mut queue, Outcome::Done, s(0)), ["create a 0 x1", "create a 1 x1", "create a 2 x1"]);
    assert_eq!(drain(&mut queue, Outcome::Done, s(0)), [""; 0]);
}

#[test]
fn repeats_of_what_still_waits_are_told_with_it() {
    let mut queue = queue();
    queue.open(key("a", 1), at(0), s(0));
    queue.again(&key("a", 1), at(1), s(0));
    let _ = queue.fill(&key("a", 1), draft("a", 1));
    queue.again(&key("a", 1), at(2), s(0));
    assert_eq!(drain(&mut queue, Outcome::Done, s(0)), ["create a 1 x3"]);
}

#[test]
fn repeats_of_what_was_told_are_one_update_in_ten_seconds() {
    let mut queue = queue();
    push(&mut queue, "a", 1);
    drain(&mut queue, Outcome::Done, s(0));
    for _ in 0..1000 {
        queue.again(&key("a", 1), at(1), s(1));
    }
    assert_eq!(drain(&mut queue, Outcome::Done, s(9)), [""; 0]);
    assert_eq!(queue.next_due(), Some(s(10)));
    assert_eq!(drain(&mut queue, Outcome::Done, s(10)), ["patch a 1 x1001"]);
    assert_eq!(queue.next_due(), None);
}

#[test]
fn an_event_that_expired_is_told_anew_with_its_count_and_another_name() {
    let mut queue = queue();
    push(&mut queue, "a", 1);
    let Some(job @ Job::Create { .. }) = queue.next(at(0), s(0)) else { panic!() };
    queue.settle(&job, Outcome::Done, s(0));
    queue.again(&key("a", 1), at(1), s(1));
    let Some(job @ Job::Patch { .. }) = queue.next(at(0), s(10)) else { panic!() };
    queue.settle(&job, Outcome::Expired, s(10));
    let Some(Job::Create { named, times, .. }) = queue.next(at(0), s(10)) else { panic!() };
    let (Job::Patch { named: before, .. } | Job::Create { named: before, .. }) = job else { panic!() };
    assert_eq!(times.count, 2);
    assert_ne!(named.name, before.name);
}

#[test]
fn the_noisiest_pod_loses_its_newest_and_the_loss_is_told() {
    let mut queue = queue();
    push(&mut queue, "quiet", 0);
    for n in 0..10 {
        push(&mut queue, "noisy", n);
    }
    assert_eq!(
        drain(&mut queue, Outcome::Done, s(0)),
        ["create quiet 0 x1", "dropped 7", "create noisy 0 x1", "create noisy 1 x1", "create noisy 2 x1"]
    );
}

#[test]
fn the_loss_is_not_told_while_nothing_can_be_told() {
    let mut queue = queue();
    for n in 0..10 {
        push(&mut queue, "noisy", n);
    }
    for _ in 0..20 {
        let job = queue.next(at(0), s(0)).unwrap();
        assert!(matches!(job, Job::Create { .. }), "{job:?}");
        queue.settle(&job, Outcome::NoAnswer, s(0));
    }
}

#[test]
fn a_repeat_of_what_was_dropped_is_told_when_there_is_room() {
    let mut queue = queue();
    for n in 0..5 {
        push(&mut queue, "a", n);
    }
    drain(&mut queue, Outcome::Done, s(0));
    queue.again(&key("a", 4), at(1), s(1));
    assert_eq!(drain(&mut queue, Outcome::Done, s(1)), ["create a 4 x2"]);
}

#[test]
fn the_same_thing_after_a_long_outage_is_still_one_event() {
    let mut queue = queue();
    push(&mut queue, "a", 1);
    // The limiter's series rested meanwhile: it says "new" again.
    queue.open(key("a", 1), at(1000), s(1000));
    let _ = queue.fill(&key("a", 1), draft("a", 1));
    assert_eq!(drain(&mut queue, Outcome::Done, s(1000)), ["create a 1 x2"]);
}

#[test]
fn one_that_is_always_answered_no_does_not_hold_up_the_others() {
    let mut queue = queue();
    push(&mut queue, "poisoned", 1);
    push(&mut queue, "healthy", 1);
    for _ in 0..PATIENCE {
        let job = queue.next(at(0), s(0)).unwrap();
        assert!(matches!(&job, Job::Create { named, .. } if named.draft.note == "poisoned 1"));
        queue.settle(&job, Outcome::NotNow, s(0));
    }
    let job = queue.next(at(0), s(0)).unwrap();
    assert!(matches!(&job, Job::Create { named, .. } if named.draft.note == "healthy 1"));
}

#[test]
fn what_the_api_server_refused_is_not_tried_again() {
    let mut queue = queue();
    push(&mut queue, "a", 1);
    assert_eq!(drain(&mut queue, Outcome::Refused, s(0)), ["create a 1 x1"]);
    queue.again(&key("a", 1), at(1), s(1));
    assert_eq!(drain(&mut queue, Outcome::Done, s(100)), [""; 0]);
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Push(u8),
    Again(u8, u8),
    Send(bool),
    Wait(u16),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4_u8).prop_map(Step::Push),
        (0..4_u8, any::<u8>()).prop_map(|(pod, n)| Step::Again(pod, n)),
        any::<bool>().prop_map(Step::Send),
        (0..600_u16).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn every_event_is_told_once_or_counted_as_dropped(steps in proptest::collection::vec(step(), 0..200)) {
        let (mut queue, mut now, mut created, mut told_dropped, mut fresh) = (queue(), s(0), 0, 0, 0_u64);
        let mut names = std::collections::HashSet::new();
        let mut send = |queue: &mut Queue, now, works| {
            let Some(job) = queue.next(at(0), now) else { return Ok(false) };
            if works {
                match &job {
                    Job::Create { named, .. } => {
                        prop_assert!(names.insert(named.name.clone()), "twice: {}", named.name);
                        created += 1;
                    }
                    Job::CreateDropped { count, .. } => told_dropped += count,
                    Job::Patch { named, .. } => prop_assert!(names.contains(&named.name)),
                }
            }
            queue.settle(&job, if works { Outcome::Done } else { Outcome::NoAnswer }, now);
            Ok(true)
        };
        for (index, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(pod) => {
                    push(&mut queue, &pod.to_string(), index as u64);
                    fresh += 1;
                }
                Step::Again(pod, n) => queue.again(&key(&pod.to_string(), n.into()), at(0), now),
                Step::Send(works) => { send(&mut queue, now, works)?; }
                Step::Wait(seconds) => now += s(seconds.into()),
            }
            prop_assert!(queue.waiting() <= BOUNDS.waiting);
        }
        for _ in 0..1000 {
            now += BOUNDS.patch_every;
            if !send(&mut queue, now, true)? { break; }
        }
        prop_assert_eq!(queue.waiting(), 0);
        // A dropped one that repeats is told after all: then it is in both.
        prop_assert!(fresh <= created + told_dropped, "{} of {}", created + told_dropped, fresh);
    }
}
