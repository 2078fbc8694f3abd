use expect_test::{Expect, expect};

use super::*;
use crate::{
    guard::abi::{
        QC_CAME_KTHREAD, QC_IN_INTERRUPT, QC_IN_TASK, QC_INTERRUPT, QC_KIND_ARMED, QC_KIND_CALL_FUNCTION,
        QC_KIND_CAME_ON, QC_KIND_DEVICE_IRQ, QC_KIND_RESCHEDULE, QC_KIND_TICK, qc_blame, qc_task,
    },
    policy::effective::Class,
};

const KICK: u64 = 0xffff_ffff_8100_0000;
const VMSTAT: u64 = 0xffff_ffff_8100_0010;

fn name(text: &str) -> [i8; 16] {
    let mut comm = [0; 16];
    for (byte, letter) in comm.iter_mut().zip(text.bytes()) {
        *byte = letter.cast_signed();
    }
    comm
}

fn task(comm: &str, tid: u32) -> qc_task {
    qc_task { tid, tgid: tid, comm: name(comm), cgroup: 0 }
}

fn record(kind: u32, at_ms: u64) -> qc_record {
    qc_record {
        at_ns: at_ms * 1_000_000,
        kind: u16::try_from(kind).unwrap(),
        class: u8::try_from(QC_INTERRUPT).unwrap(),
        cpu: 1,
        pids: [50, 0, 0, 0],
        tgids: [50, 0, 0, 0],
        ..qc_record::default()
    }
}

fn from(comm: &str, function: u64, context: u32) -> qc_blame {
    qc_blame {
        function,
        by: task(comm, 9),
        cpu: 0,
        known: 1,
        context: context.try_into().unwrap(),
        ..qc_blame::default()
    }
}

fn names() -> (tempfile::TempDir, Names) {
    let root = tempfile::tempdir().unwrap();
    let write = |path: &str, text: String| crate::check::facts::testing::write(root.path(), path, &text);
    write("proc/kallsyms", format!("{KICK:016x} t nohz_full_kick_func\n{VMSTAT:016x} t vmstat_update\n"));
    write("sys/devices/system/cpu/nohz_full", "1-3\n".to_owned());
    let names = Names::of(root.path());
    (root, names)
}

fn tally(records: &[qc_record]) -> Tally {
    let (_root, mut names) = names();
    let mut tally = Tally::default();
    let during = Duration::from_millis(100)..Duration::from_millis(200);
    records.iter().for_each(|record| tally.note(record, &during, &mut names));
    tally
}

#[track_caller]
fn check(records: &[qc_record], expect: Expect) {
    let line = |cause: Counted| format!("{} {}: {}\n", cause.count, cause.class.name(), cause.words);
    expect.assert_eq(&tally(records).causes().into_iter().map(line).collect::<String>());
}

#[test]
fn who_sent_what_is_told_and_workers_are_not_told_apart() {
    check(
        &[
            qc_record {
                blame: from("swapper/0", KICK, QC_IN_INTERRUPT),
                ..record(QC_KIND_CALL_FUNCTION, 110)
            },
            qc_record { blame: from("kworker/0:1", KICK, QC_IN_TASK), ..record(QC_KIND_CALL_FUNCTION, 120) },
            qc_record { blame: from("kworker/0:2", KICK, QC_IN_TASK), ..record(QC_KIND_CALL_FUNCTION, 130) },
            qc_record { blame: from("bash", 0, 0), ..record(QC_KIND_RESCHEDULE, 140) },
            qc_record { detail: 24, who: name("eth0-rx-0"), ..record(QC_KIND_DEVICE_IRQ, 150) },
        ],
        expect![[r#"
            2 interrupt: function-call IPI (nohz_full_kick_func) from kworker
            1 interrupt: function-call IPI (nohz_full_kick_func) from an interrupt on cpu 0
            1 interrupt: irq 24 (eth0-rx-0)
            1 interrupt: reschedule IPI from cpu 0, which ran bash
        "#]],
    );
}

#[test]
fn who_took_the_core_belongs_to_the_entry_before() {
    let came_on = qc_record {
        came: task("kworker/1:0", 30),
        came_to: VMSTAT,
        came_flags: QC_CAME_KTHREAD,
        ..record(QC_KIND_CAME_ON, 121)
    };
    let records = [record(QC_KIND_TICK, 110), record(QC_KIND_TICK, 120), came_on];
    check(
        &records,
        expect![[r#"
        1 interrupt: local timer tick
        1 interrupt: local timer tick; then kernel thread kworker (vmstat_update) ran
    "#]],
    );
    assert_eq!(tally(&records).of_class(Class::Interrupt), 2);
    // Of an entry that came too early to be counted.
    check(&[record(QC_KIND_TICK, 99), came_on], expect![[""]]);
}

#[test]
fn only_entries_of_the_time_asked_for_count() {
    let at = [99, 100, 199, 200].map(|ms| record(QC_KIND_RESCHEDULE, ms));
    assert_eq!(tally(&at).of_class(Class::Interrupt), 2);
    assert_eq!(tally(&[record(QC_KIND_ARMED, 150)]).causes(), []);
}

#[test]
fn a_machine_with_endless_causes_costs_no_memory() {
    let irqs: Vec<qc_record> = (0..1_000)
        .map(|irq| qc_record { detail: irq, who: name("x"), ..record(QC_KIND_DEVICE_IRQ, 150) })
        .collect();
    let tally = tally(&irqs);
    assert_eq!(tally.of_class(Class::Interrupt), 1_000);
    assert_eq!(tally.causes().len(), CAUSES + 1);
}
