use expect_test::{Expect, expect};

use super::*;

fn source() -> PolicyRef {
    PolicyRef { namespace: "ns".into(), name: "p".into(), uid: "u".into(), generation: 1 }
}

#[track_caller]
fn check(spec: &str, expect: Expect) {
    let accepted = accept(&serde_saphyr::from_str(spec).unwrap(), source());
    expect.assert_eq(&match accepted {
        Ok(policy) => format!("{:?} except {:?}, {:?}", policy.actions, policy.except, policy.arm_at),
        Err(refused) => refused.to_string().replace(env!("CARGO_PKG_VERSION"), "VERSION"),
    });
}

#[test]
fn an_empty_policy_reports_everything() {
    check("{}", expect!["[Report, Report, Report, Report] except [], Prctl"]);
    let accepted = accept(&serde_saphyr::from_str("{}").unwrap(), source()).unwrap();
    assert_eq!(Effective { source: None, ..accepted }, node_default());
}

#[test]
fn signals_and_exceptions_are_numbers_from_here_on() {
    let spec = "{entries: {syscall: {action: Signal, signal: SIGUSR1, except: [write, read, write]}, \
                 exception: {action: Signal, signal: 40}, interrupt: {action: Count}}, arm: {at: Exec}}";
    check(spec, expect!["[Signal(10), Signal(40), Count, Report] except [0, 1], Exec"]);
}

#[test]
fn what_is_not_built_yet_is_refused_in_words() {
    let refused = accept(&serde_saphyr::from_str("{onUnprotected: Kill}").unwrap(), source()).unwrap_err();
    assert_eq!(refused.problems().len(), 1, "{refused}");
    let error = refused.to_string();
    assert!(error.contains("spec.onUnprotected: Kill is not supported by quietcore 0."), "{error}");
}

#[test]
fn shared_cpus_are_a_number_from_here_on() {
    let accepted = accept(&serde_saphyr::from_str("{cores: {sharedCpus: 2}}").unwrap(), source()).unwrap();
    assert_eq!(accepted.cores.shared, 2);
    for number in [-1, 65, i64::MAX] {
        let spec = serde_json::json!({"cores": {"sharedCpus": number}});
        let refused = accept(&serde_json::from_value(spec).unwrap(), source()).unwrap_err().to_string();
        assert_eq!(refused, format!("spec.cores.sharedCpus: {number} is not from 0 to 64"));
    }
    check(
        "{arm: {at: Exec}, cores: {sharedCpus: 1}}",
        expect![
            "spec.arm.at: Exec arms the program's first thread, which spec.cores.sharedCpus keeps off the granted cores; use Prctl or Settled, or leave sharedCpus at 0"
        ],
    );
}

#[test]
fn where_the_runtime_chooses_the_cpus_the_policy_does_not() {
    let accepts = |cores: &str| {
        let spec = format!("{{cores: {{from: Runtime{cores}}}}}");
        let accepted = accept(&serde_saphyr::from_str(&spec).unwrap(), source());
        accepted.map(|policy| policy.cores.from_runtime).map_err(|refused| refused.to_string())
    };
    assert_eq!(accepts(""), Ok(true));
    for (cores, field) in [(", sharedCpus: 1", "sharedCpus"), (", smt: OneThread", "smt: OneThread")] {
        let words = format!("spec.cores.{field} is not for spec.cores.from: Runtime");
        assert!(accepts(cores).is_err_and(|refused| refused.contains(&words)), "{field}");
    }
}

#[test]
fn times_and_budgets_are_numbers_from_here_on() {
    let spec = "{mode: Enforce, enforceFor: 1h30m, arm: {at: Settled, settleFor: 500ms}, \
                 entries: {interrupt: {action: Freeze, budget: {entries: 10, per: 1m}}}}";
    let policy = accept(&serde_saphyr::from_str(spec).unwrap(), source()).unwrap();
    assert_eq!(
        (policy.enforce_for, policy.settle_for),
        (Some(Duration::from_secs(5400)), Duration::from_millis(500))
    );
    assert_eq!((policy.arm_at, policy.actions[2]), (ArmAt::Settled, Action::Freeze));
    let budget = effective::Budget { entries: 10, per: Duration::from_secs(60) };
    assert_eq!(policy.budgets, [None, None, Some(budget), None]);
}

#[test]
fn times_and_budgets_that_cannot_be_are_refused() {
    for (spec, words) in [
        ("{mode: Audit, enforceFor: 1h}", "only for mode Enforce"),
        ("{mode: Enforce, enforceFor: -1h}", "is not a time longer than 0"),
        ("{arm: {at: Settled, settleFor: soon}}", "spec.arm.settleFor: \"soon\" is not a time"),
        ("{entries: {syscall: {action: Count, budget: {entries: 1, per: 1m}}}}", "it softens Report"),
        ("{entries: {syscall: {budget: {entries: 0, per: 1m}}}}", "0 is not from 1 to 1,000,000"),
        ("{entries: {syscall: {budget: {entries: 1, per: 0s}}}}", "budget.per: \"0s\" is not a time"),
    ] {
        let error = accept(&serde_saphyr::from_str(spec).unwrap(), source()).unwrap_err().to_string();
        assert!(error.contains(words), "{spec}: {error}");
    }
}

#[test]
fn all_that_is_wrong_is_said_at_once() {
    check(
        "{entries: {syscall: {action: Signal, except: [red, wite]}, interrupt: {action: Signal, signal: 9}}, \
          onUnprotected: Kill}",
        expect![
            "spec.entries.syscall: signal is required exactly when action is Signal; spec.entries.interrupt.signal: 9 is not a signal that would be noticed; use a name such as SIGUSR1, or 35 to 64; spec.entries.syscall.except: no x86-64 system call is named \"red\", \"wite\"; spec.onUnprotected: Kill is not supported by quietcore VERSION: use Report"
        ],
    );
}

#[test]
fn the_schemas_rules_hold_for_objects_older_than_the_schema() {
    check(
        "{entries: {syscall: {action: Signal}}}",
        expect!["spec.entries.syscall: signal is required exactly when action is Signal"],
    );
    check(
        "{entries: {exception: {action: Count, signal: SIGUSR1}}}",
        expect!["spec.entries.exception: signal is required exactly when action is Signal"],
    );
    check(
        "{entries: {interrupt: {action: Signal, signal: SIGSTOP}}}",
        expect![[
            r#"spec.entries.interrupt.signal: "SIGSTOP" is not a signal that would be noticed; use a name such as SIGUSR1, or 35 to 64"#
        ]],
    );
    for action in ["{action: Signal, signal: SIGKILL}", "{action: Freeze}"] {
        check(
            &format!("{{entries: {{machineCheck: {action}}}}}"),
            expect![
                "spec.entries.machineCheck: the hardware's doing is never signalled; use Ignore, Count or Report"
            ],
        );
    }
    check(
        "{arm: {at: Exec, settleFor: 1s}}",
        expect!["spec.arm.settleFor is only for arm.at Settled: leave it out"],
    );
}

#[test]
fn a_hostile_list_of_names_makes_no_long_message() {
    let names = vec!["x".repeat(100_000); 1_000];
    let spec = serde_json::json!({"entries": {"syscall": {"except": names}}});
    let refused = accept(&serde_json::from_value(spec).unwrap(), source()).unwrap_err().to_string();
    assert!(refused.len() < 1_000 && refused.ends_with("and 992 more"), "{refused}");
}
