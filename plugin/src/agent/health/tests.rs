use expect_test::{Expect, expect};

use super::*;
use crate::{
    cores::ledger::{Claim, Holder, Place},
    guard::slots::Slot,
    policy::accept::node_default,
};

fn grant() -> Grant {
    let holder =
        Holder { namespace: "ns".into(), pod: "p".into(), pod_uid: "u".into(), container: "app".into() };
    let claim = Claim {
        container_id: "id".into(),
        slot: Slot::new(1).unwrap(),
        plan: String::new(),
        policy: node_default(),
        pid: None,
        place: Place::default(),
    };
    let cores: CpuSet = "2-3".parse().unwrap();
    Grant { holder, cpus: cores.clone(), cores, claim }
}

#[track_caller]
fn check(moved: Result<(), Errno>, expect: Expect) {
    let occupant = Occupant {
        pid: 812,
        comm: "stress-ng".to_owned(),
        cpus: "2".parse().unwrap(),
        cgroup: "/user.slice".to_owned(),
    };
    let away = "0-1".parse().ok();
    let (reason, note) = intruder(&grant(), &occupant, moved, away.as_ref());
    expect.assert_eq(&format!("{}: {note}", reason.text()));
}

#[test]
fn the_owner_hears_who_sat_on_the_core_and_what_became_of_it() {
    check(
        Ok(()),
        expect![
            "DriftRepaired: process 812 (stress-ng, cgroup /user.slice) of somebody else was bound to CPU 2, which container app holds: it is on the housekeeping CPUs 0-1 now; let nobody bind it there (taskset, numactl, CPUAffinity=)"
        ],
    );
    check(
        Err(Errno::EINVAL),
        expect![
            "DriftRefused: process 812 (stress-ng, cgroup /user.slice) of somebody else was bound to CPU 2, which container app holds, and cannot be moved to the housekeeping CPUs 0-1: Invalid argument; stop it, or give its cgroup other CPUs"
        ],
    );
}

#[test]
fn a_core_that_went_is_told_with_both_ways_out() {
    expect![[r#"CPU 3 of container app is offline: the kernel has moved its threads elsewhere, and their signals are off; turn it on again (chcpu -e 3) and restart the pod, or delete the pod so that it gets other cores"#]]
        .assert_eq(&went_offline("app", &"3".parse().unwrap()));
}
