use std::collections::BTreeMap;

use expect_test::{Expect, expect};
use nix::errno::Errno;

use super::*;
use crate::{
    cores::set::CpuSet,
    quiet::{
        setting::Area,
        tree::{Fault, Tree},
        want::Format,
    },
};

const IRQ_9: &str = "/proc/irq/9/smp_affinity_list";
const IRQ_10: &str = "/proc/irq/10/smp_affinity_list";
const MASK: &str = "/proc/irq/default_smp_affinity";
const STAT: &str = "/proc/sys/vm/stat_interval";
const QUOTA: &str = "/sys/fs/cgroup/pod/cpu.max";

fn machine() -> Tree {
    Tree::of(&[(IRQ_9, "0-3"), (IRQ_10, "1"), (MASK, "f"), (STAT, "1"), (QUOTA, "50000 100000")])
}

/// Everything that is asked for while these CPUs are granted.
fn settings(granted: &str) -> Vec<Setting> {
    let Ok(cpus) = granted.parse::<CpuSet>() else { return Vec::new() };
    let without = |format| Want::Without { cpus: cpus.clone(), instead: "0".parse().unwrap(), format };
    let setting = |area, name: &str, file: &str, want| Setting {
        area,
        name: name.to_owned(),
        file: file.into(),
        want,
        effective: (area == Area::Interrupt).then(|| file.replace("smp", "effective").into()),
        cpus: cpus.clone(),
    };
    vec![
        setting(Area::Interrupt, "interrupt 9", IRQ_9, without(Format::List)),
        setting(Area::Interrupt, "interrupt 10", IRQ_10, without(Format::List)),
        setting(Area::Node, "default affinity", MASK, without(Format::Mask)),
        setting(Area::Node, "vm.stat_interval", STAT, Want::AtLeast(120)),
        setting(Area::Cgroup, "cpu.max", QUOTA, Want::Word("max".to_owned())),
    ]
}

/// An agent that starts with what the disk has.
fn agent(tree: &Tree) -> Keeper<Tree, Tree> {
    Keeper::new(tree.clone(), tree.clone(), tree.journal())
}

fn now(tree: &Tree) -> String {
    [IRQ_9, IRQ_10, MASK, STAT, QUOTA].map(|file| tree.get(file)).join(" | ")
}

#[track_caller]
fn check(tree: &Tree, expect: Expect) {
    expect.assert_eq(&now(tree));
}

fn refused(pass: &Pass) -> Vec<String> {
    let words = |outcome: &Outcome| match &outcome.state {
        State::Refused { why, .. } => Some(format!("{}: {why}", outcome.setting.name)),
        State::Kept { .. } | State::Absent => None,
    };
    pass.outcomes.iter().filter_map(words).collect()
}

#[test]
fn a_grant_changes_what_is_in_its_way_and_a_release_gives_it_back() {
    let tree = machine();
    let before = tree.files();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    check(&tree, expect!["0,2-3 | 0 | d | 120 | max"]);
    agent.keep(&[]).unwrap();
    assert_eq!(tree.files(), before);
    assert_eq!(tree.journal().changes, BTreeMap::new());
}

#[test]
fn masks_come_from_the_set_of_live_grants_whatever_the_order() {
    let tree = machine();
    let before = tree.files();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    agent.keep(&settings("1,3")).unwrap();
    check(&tree, expect!["0,2 | 0 | 5 | 120 | max"]);
    // The first one ends: the other's core stays quiet, its own goes back.
    agent.keep(&settings("3")).unwrap();
    check(&tree, expect!["0-2 | 1 | 7 | 120 | max"]);
    agent.keep(&[]).unwrap();
    assert_eq!(tree.files(), before);
}

#[test]
fn what_is_as_it_should_be_is_not_written() {
    let tree = machine();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    let n_writes = tree.n_writes();
    assert_eq!(agent.keep(&settings("1")).unwrap().drift, []);
    assert_eq!(tree.n_writes(), n_writes);
}

#[test]
fn what_somebody_changes_is_set_again_and_told() {
    let tree = machine();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    tree.set(IRQ_9, "0-3");
    tree.set(STAT, "1");
    let pass = agent.keep(&settings("1")).unwrap();
    let told: Vec<String> = pass
        .drift
        .iter()
        .map(|drift| {
            format!("{}: {} -> {} {:?}", drift.setting.name, drift.found, drift.wanted, drift.refused)
        })
        .collect();
    assert_eq!(told, ["interrupt 9: 0-3 -> 0,2-3 None", "vm.stat_interval: 1 -> 120 None"]);
    check(&tree, expect!["0,2-3 | 0 | d | 120 | max"]);
    tree.set(IRQ_9, "1");
    tree.forbid(IRQ_9, Errno::EIO);
    let pass = agent.keep(&settings("1")).unwrap();
    assert!(pass.drift[0].refused.is_some(), "{pass:?}");
}

#[test]
fn somebodys_own_choice_that_is_good_is_theirs_to_undo() {
    let tree = machine();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    tree.set(IRQ_9, "3");
    assert_eq!(agent.keep(&settings("1")).unwrap().drift, []);
    tree.set(STAT, "7");
    agent.keep(&[]).unwrap();
    check(&tree, expect!["3 | 1 | f | 7 | 50000 100000"]);
}

#[test]
fn an_interrupt_that_comes_later_is_moved_and_one_that_goes_is_forgotten() {
    let tree = machine();
    let mut agent = agent(&tree);
    tree.remove(IRQ_10);
    let pass = agent.keep(&settings("1")).unwrap();
    assert_eq!(pass.outcomes[1].state, State::Absent);
    tree.set(IRQ_10, "1-2");
    agent.keep(&settings("1")).unwrap();
    check(&tree, expect!["0,2-3 | 2 | d | 120 | max"]);
    tree.remove(IRQ_10);
    assert_eq!(agent.keep(&[]).unwrap().not_restored, Vec::<String>::new());
    assert_eq!(tree.journal().changes, BTreeMap::new());
}

#[test]
fn what_the_kernel_refuses_is_told_and_tried_once() {
    let tree = machine();
    tree.forbid(IRQ_9, Errno::EIO);
    tree.says(STAT, "1");
    let mut agent = agent(&tree);
    let pass = agent.keep(&settings("1")).unwrap();
    let words = [
        "interrupt 9: the kernel places it by itself (managed interrupt): boot with isolcpus=managed_irq",
        "vm.stat_interval: the kernel took \"120\" and says \"1\"",
    ];
    assert_eq!(refused(&pass), words);
    let n_writes = tree.n_writes();
    assert_eq!(refused(&agent.keep(&settings("1")).unwrap()), words);
    assert_eq!(tree.n_writes(), n_writes);
    agent.keep(&[]).unwrap();
    check(&tree, expect!["0-3 | 1 | f | 1 | 50000 100000"]);
}

#[test]
fn an_interrupt_that_the_kernel_itself_keeps_away_is_no_harm_while_it_does() {
    let tree = machine();
    let effective = "/proc/irq/9/effective_affinity_list";
    tree.forbid(IRQ_9, Errno::EIO);
    tree.set(effective, "0");
    let mut agent = agent(&tree);
    assert_eq!(refused(&agent.keep(&settings("1")).unwrap()), Vec::<String>::new());
    tree.set(effective, "1");
    assert_eq!(refused(&agent.keep(&settings("1")).unwrap()).len(), 1);
    tree.set(effective, "");
    assert_eq!(refused(&agent.keep(&settings("1")).unwrap()), Vec::<String>::new());
}

#[test]
fn what_cannot_be_given_back_is_named_until_it_can() {
    let tree = machine();
    let mut agent = agent(&tree);
    agent.keep(&settings("1")).unwrap();
    tree.forbid(STAT, Errno::EROFS);
    let pass = agent.keep(&[]).unwrap();
    assert_eq!(pass.not_restored.len(), 1, "{pass:?}");
    assert!(
        pass.not_restored[0].starts_with("vm.stat_interval: \"1\" again: it is read-only here"),
        "{pass:?}"
    );
    assert_eq!(tree.journal().changes.len(), 1);
}

#[test]
fn nothing_is_changed_that_the_journal_could_not_take() {
    let tree = machine();
    let before = tree.files();
    let mut agent = agent(&tree);
    // Five reads, then the journal.
    tree.fault(5, Fault::Fails(Errno::ENOSPC));
    assert_eq!(agent.keep(&settings("1")).unwrap_err().raw_os_error(), Some(Errno::ENOSPC as i32));
    assert_eq!(tree.files(), before);
    tree.heal();
    agent.keep(&settings("1")).unwrap();
    check(&tree, expect!["0,2-3 | 0 | d | 120 | max"]);
}

/// A day: one grant, another beside it, the first one's end, the other's end.
const DAY: [&str; 4] = ["1", "1,3", "3", ""];

/// Every operation of such a day meets this once; afterwards nothing is left of it.
#[track_caller]
fn no_fault_leaves_a_trace(fault: Fault) {
    for nth in 0.. {
        let tree = machine();
        let before = tree.files();
        let mut keeper = agent(&tree);
        tree.fault(nth, fault);
        for granted in DAY {
            let _told = keeper.keep(&settings(granted));
        }
        let reached = nth < tree.n_operations();
        tree.heal();
        // After a crash another agent goes on from what is on disk; after an error the same one.
        if let Fault::Dies { .. } = fault {
            keeper = agent(&tree);
        }
        keeper.keep(&settings("1")).unwrap();
        keeper.keep(&settings("1,3")).unwrap();
        assert_eq!(tree.get(IRQ_9), "0,2", "{fault:?} at operation {nth}");
        let last = keeper.keep(&[]).unwrap();
        assert_eq!((tree.files(), last.not_restored), (before, Vec::new()), "{fault:?} at operation {nth}");
        if !reached {
            return;
        }
    }
}

#[test]
fn each_operation_may_fail_once() {
    for errno in [Errno::EIO, Errno::EBUSY, Errno::EACCES, Errno::ENOSPC, Errno::EINVAL] {
        no_fault_leaves_a_trace(Fault::Fails(errno));
    }
}

#[test]
fn the_agent_may_die_between_any_two_operations() {
    no_fault_leaves_a_trace(Fault::Dies { done: false });
    no_fault_leaves_a_trace(Fault::Dies { done: true });
}

#[test]
fn an_interrupt_that_comes_again_where_it_was_told_not_to_is_told_and_one_that_rests_is_not() {
    let tree = machine();
    tree.set("/proc/irq/9/effective_affinity_list", "1");
    tree.set("/proc/irq/9/spurious", "count 7");
    let mut agent = agent(&tree);
    for _ in 0..3 {
        assert_eq!(refused(&agent.keep(&settings("1")).unwrap()), Vec::<String>::new());
    }
    tree.set("/proc/irq/9/spurious", "count 8");
    for _ in 0..2 {
        let told = refused(&agent.keep(&settings("1")).unwrap());
        assert_eq!(told, ["interrupt 9: the kernel took it, and \"1\" is in force"]);
    }
    tree.set("/proc/irq/9/effective_affinity_list", "0");
    assert_eq!(refused(&agent.keep(&settings("1")).unwrap()), Vec::<String>::new());
}
