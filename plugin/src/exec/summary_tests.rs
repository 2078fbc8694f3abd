use std::collections::BTreeMap;

use expect_test::{Expect, expect};

use super::*;
use crate::{exec::tally::Stretches, policy::accept::node_default};

fn policy() -> Effective {
    let actions = [Action::Signal(10), Action::Report, Action::Count, Action::Ignore];
    Effective { enforce: true, actions, ..node_default() }
}

fn run() -> Run {
    Run {
        cpus: "1".into(),
        detector: Detector::Tracepoint,
        provider: Provider::Seccomp,
        time: Duration::from_millis(2_003),
        status: 0,
        not_printed: 0,
        could_not: Vec::new(),
    }
}

fn counts() -> qc_counts {
    qc_counts { entries: [153, 80, 510, 0], violations: [3, 0, 500, 0], signals: 3, ..qc_counts::default() }
}

fn seen() -> Seen {
    let milliseconds = Duration::from_millis;
    let by_length = BTreeMap::from([
        (0, (1, Duration::ZERO)),
        (6, (3, Duration::from_micros(150))),
        (12, (499, milliseconds(1_998))),
    ]);
    let causes = [
        vec![("getppid(2)".to_owned(), 2), ("write(2)".to_owned(), 1)],
        vec![],
        vec![("local timer tick".to_owned(), 500)],
        vec![],
    ];
    let stretches =
        Stretches { total: milliseconds(1_998), longest: Duration::from_micros(4_012), by_length };
    Seen { armings: 4, violations: 3, causes, stretches, ..Seen::default() }
}

#[track_caller]
fn check(run: Run, counts: &qc_counts, seen: Seen, expect: Expect) {
    expect.assert_eq(&Summary::new(run, &policy(), counts, seen).table());
}

#[test]
fn a_run_is_told_in_one_table() {
    check(
        run(),
        &counts(),
        seen(),
        expect![[r#"
            CPU 1, 2.003 s, status 0; armed 4 times; 3 signals sent
            watched by the Tracepoint detector; Seccomp answers the prctl
            class         action              entries  while armed  cause
            syscall       Signal:SIGUSR1          153            3  2 getppid(2)
                                                                    1 write(2)
            exception     Report                   80            0
            interrupt     Count                   510          500  500 local timer tick
            machineCheck  Ignore                    0            -
            quiet while armed: 1.998 s in 503 stretches, the longest 4.012 ms
                    0 us .. 1 us             1        0 us  #
                   32 us .. 64 us            3      150 us  #
                    2 ms .. 4 ms           499     1.998 s  ########################################
            note: not recorded, and in no stretch, because the action is Ignore: machineCheck
        "#]],
    );
}

#[test]
fn what_is_not_known_is_said() {
    let run = Run { not_printed: 1, status: 137, ..run() };
    let counts = qc_counts { lost: 7, unwatched: 2, ..qc_counts::default() };
    check(
        run,
        &counts,
        Seen { unknown_stretches: 1, ..Seen::default() },
        expect![[r#"
            CPU 1, 2.003 s, status 137; armed never; 0 signals sent
            watched by the Tracepoint detector; Seccomp answers the prctl
            class         action              entries  while armed  cause
            syscall       Signal:SIGUSR1            0            0
            exception     Report                    0            0
            interrupt     Count                     0            0
            machineCheck  Ignore                    0            -
            note: no thread was ever armed, so nothing was proved: the program calls prctl(PR_TASK_ISOLATION, ..), or use --arm exec
            note: not recorded, and in no stretch, because the action is Ignore: machineCheck
            note: 7 records lost: causes and stretches are incomplete, counts are not
            note: 2 threads could not be watched: the kernel had no memory
            note: 1 violation not printed, because they came too fast
            note: the end of 1 stretch is not known, because the thread ended while armed: left out
        "#]],
    );
}

#[test]
fn a_run_is_quiet_only_where_that_was_proved() {
    let none = qc_counts::default();
    let quiet = Seen { armings: 1, ..Seen::default() };
    assert_eq!(verdict(&quiet, &none), Verdict::Quiet);
    assert_eq!(verdict(&Seen::default(), &none), Verdict::NotProved);
    assert_eq!(verdict(&quiet, &qc_counts { lost: 1, ..none }), Verdict::NotProved);
    assert_eq!(verdict(&quiet, &qc_counts { unwatched: 1, ..none }), Verdict::NotProved);
    for violated in [
        Seen { violations: 1, ..quiet.clone() },
        Seen { left_core: 1, ..quiet.clone() },
        Seen { refused: 1, ..Seen::default() },
    ] {
        assert_eq!(verdict(&violated, &none), Verdict::Violated);
    }
}

#[test]
fn the_same_as_json_has_no_number_for_what_was_not_recorded() {
    let summary = Summary::new(run(), &policy(), &counts(), seen());
    let json = serde_json::to_value(summary).unwrap();
    assert_eq!((json["type"].as_str(), json["verdict"].as_str()), (Some("summary"), Some("violated")));
    assert_eq!(json["classes"][0]["causes"][0], serde_json::json!({"cause": "getppid(2)", "count": 2}));
    assert_eq!(json["classes"][0]["whileArmed"], 3);
    assert!(json["classes"][3]["whileArmed"].is_null());
    let stretch = serde_json::json!({"fromUs": 2048, "toUs": 4096, "count": 499, "seconds": 1.998});
    assert_eq!(json["stretches"][2], stretch);
    assert_eq!(json["stretches"][0]["toUs"], 1);
}
