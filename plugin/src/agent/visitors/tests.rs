use expect_test::{Expect, expect};

use super::*;
use crate::guard::abi::qc_task;

#[test]
fn a_visitor_goes_to_the_shared_cpus_and_is_left_alone_there() {
    assert_eq!(decide(true, true, false), Turn::Move);
    assert_eq!(decide(true, false, true), Turn::LeaveAlone);
    assert_eq!(decide(true, true, true), Turn::MoveBack);
    // It came with that affinity: a child of one that was moved.
    assert_eq!(decide(true, false, false), Turn::LeaveAlone);
}

#[test]
fn without_shared_cpus_its_owner_hears_of_it() {
    for (strays, moved) in [(true, false), (true, true)] {
        assert_eq!(decide(false, strays, moved), Turn::Tell);
    }
}

#[track_caller]
fn check(parent: Option<&str>, news: &News<'_>, expect: Expect) {
    let visitor = Visitor { pid: 900, comm: "cat\n".into(), parent: parent.map(str::to_owned) };
    expect.assert_eq(&note("app", &visitor, &"2-3".parse().unwrap(), news));
}

#[test]
fn the_note_names_the_process_and_the_way_out() {
    let shared = &"0".parse().unwrap();
    check(
        Some("containerd-shim (pid 812)"),
        &News::OnCore,
        expect![
            "process 900 (cat?, a child of containerd-shim (pid 812)), started in container app by exec or a probe, may run on the granted CPUs 2-3 only, and takes them from the program's threads; give such processes a CPU by cores.sharedCpus: 1 in the policy, or use no exec and no exec probes"
        ],
    );
    check(
        None,
        &News::Left { shared },
        expect![
            "process 900 (cat?), started in container app by exec or a probe, left the shared CPUs 0 for granted ones; it was moved back, and is each time"
        ],
    );
    let why = "operation not permitted".to_owned();
    check(
        None,
        &News::NotMoved { shared, why },
        expect![
            "process 900 (cat?), started in container app by exec or a probe, cannot be moved to the shared CPUs 0: operation not permitted; it may run on the granted ones"
        ],
    );
}

fn record(came_flags: u32, cgroup: u64) -> qc_record {
    let mut came = qc_task { tid: 901, tgid: 900, cgroup, ..qc_task::default() };
    came.comm[..3].copy_from_slice(&b"cat".map(|byte| byte.cast_signed()));
    qc_record {
        kind: u16::try_from(QC_KIND_CAME_ON).unwrap(),
        class: 2,
        action: 2,
        slot: 1,
        generation: 3,
        tgids: [100, 1, 0, 0],
        cgroup: 7,
        came,
        came_flags,
        ..qc_record::default()
    }
}

fn sighted(record: &qc_record) -> Option<Sighting> {
    let (sender, sightings) = mpsc::sync_channel(1);
    Sightings(sender).record(record);
    sightings.try_recv().ok()
}

#[test]
fn who_took_a_core_and_is_of_the_container_but_not_of_its_program_is_sighted() {
    let Sighting { key, visitor } = sighted(&record(0, 7)).unwrap();
    assert_eq!(key, (Slot::new(1).unwrap(), 3));
    assert_eq!(visitor, Visitor { pid: 900, comm: "cat".into(), parent: None });
    for (came_flags, cgroup) in [(QC_CAME_WATCHED, 7), (QC_CAME_KTHREAD, 7), (0, 8)] {
        assert!(sighted(&record(came_flags, cgroup)).is_none());
    }
    assert!(sighted(&qc_record { kind: 2, ..record(0, 7) }).is_none());
}
