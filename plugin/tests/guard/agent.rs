//! The guard without an agent, and the next agent that finds it.

use libbpf_rs::{MapCore as _, MapHandle, query::MapInfoIter};
use quietcore::{
    guard::{abi::QC_KIND_SYSCALL, load::GuardError, rules::rules, slots::Slot},
    policy::effective::{Action, Effective},
};
use std::{fs, path::PathBuf, time::Duration};

use crate::stand::{Stand, enforce};

const SIGUSR1: u8 = 10;

fn signal_calls() -> Effective {
    enforce([Action::Signal(SIGUSR1), Action::Report, Action::Count, Action::Report])
}

fn pins(stand: &Stand) -> Vec<PathBuf> {
    fs::read_dir(stand.agent().root()).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn threads_stay_guarded_while_no_agent_runs_and_the_next_one_reads_what_happened() {
    let mut stand = Stand::of_an_agent();
    assert!(!stand.guard().adopted);
    let mut run = stand.start(&signal_calls(), "each-second");
    run.wait_for("violated=1");
    stand.agent_mut().lose();
    run.wait_for("violated=3 signals=3");
    stand.agent_mut().start().unwrap();
    assert!(stand.guard().adopted);
    run.wait_for("violated=4 signals=4");
    let run = run.kill(&stand);
    assert!(4 <= run.of_kind(QC_KIND_SYSCALL).len());
    assert_eq!(run.counts.lost, 0);
}

#[test]
fn what_a_system_call_costs_under_the_guard_is_measured_once_and_kept_for_the_next_agent() {
    let mut stand = Stand::of_an_agent();
    let measured = stand.guard().tax.unwrap();
    assert!(!measured.without.is_zero() && !measured.with.is_zero(), "{measured:?}");
    stand.agent_mut().lose();
    stand.agent_mut().start().unwrap();
    assert_eq!((stand.guard().adopted, stand.guard().tax), (true, Some(measured)));
}

#[test]
fn an_agent_of_another_version_waits_until_no_strict_container_runs() {
    let mut stand = Stand::of_an_agent();
    let slot = Slot::new(3).unwrap();
    stand.guard().slots.open(slot, rules(&signal_calls(), &"1".parse().unwrap()));
    let ours = pins(&stand).remove(0);
    let old = ours.with_file_name("abi1-0123456789abcdef");
    fs::rename(&ours, &old).unwrap();
    let refused = stand.agent().another();
    assert!(matches!(refused, Err(GuardError::OtherVersionInUse { path }) if path == old));
    stand.guard().slots.close(slot);
    stand.agent_mut().start().unwrap();
    assert!(!stand.guard().adopted);
    assert_eq!(pins(&stand), [ours]);
}

#[test]
fn what_an_agent_left_half_made_is_made_anew() {
    let mut stand = Stand::of_an_agent();
    let ours = pins(&stand).remove(0);
    stand.agent_mut().lose();
    fs::rename(&ours, format!("{}-partial", ours.display())).unwrap();
    stand.agent_mut().start().unwrap();
    assert!(!stand.guard().adopted);
    assert_eq!(pins(&stand), [ours]);
}

#[test]
fn a_guard_of_which_a_part_is_missing_is_not_adopted() {
    let mut stand = Stand::of_an_agent();
    let slot = Slot::new(3).unwrap();
    stand.guard().slots.open(slot, rules(&signal_calls(), &"1".parse().unwrap()));
    let link = pins(&stand)[0].join("qc_fork-link");
    fs::remove_file(&link).unwrap();
    let refused = stand.agent().another();
    assert!(matches!(refused, Err(GuardError::Incomplete { link: missing }) if missing == link));
    stand.guard().slots.close(slot);
    stand.agent_mut().start().unwrap();
    assert!(!stand.guard().adopted && link.exists());
}

#[test]
fn a_node_that_is_given_back_keeps_nothing() {
    let stand = Stand::of_an_agent();
    let root = stand.agent().root().to_owned();
    let id = MapHandle::from_pinned_path(pins(&stand)[0].join("qc_threads")).unwrap().info().unwrap().info.id;
    assert!(MapInfoIter::default().any(|map| map.id == id));
    drop(stand);
    assert!(!root.exists());
    // The kernel frees programs and their maps after a grace period.
    for _ in 0..500 {
        if !MapInfoIter::default().any(|map| map.id == id) {
            return;
        }
        #[expect(clippy::disallowed_methods, reason = "a test that waits for the kernel")]
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("map {id} is still there");
}
