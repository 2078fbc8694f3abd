//! Step 2: can this agent keep that policy? Pure.
//!
//! The schema's rules are checked again, because an object may be older than the schema. What this version
//! does not do yet is refused in words, never accepted and ignored.

use std::time::Duration;

use quietcore_crd::{
    entries::{self, Entries},
    policy::{self as crd, DataplanePolicySpec, Mode},
};

use super::{
    effective::{Action, ArmAfter, ArmAt, Effective, PolicyRef},
    signals, syscalls,
};

/// Exceptions of a program armed at its exec count after this long without one.
const EXEC_SETTLES_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AcceptError {
    #[error("{field} is not supported by quietcore {version}: {instead}", version = env!("CARGO_PKG_VERSION"))]
    NotYet { field: &'static str, instead: &'static str },
    #[error("spec.entries.{class}: signal is required exactly when action is Signal")]
    SignalAndAction { class: &'static str },
    #[error(
        "spec.entries.{class}.signal: not a signal that would be noticed; use a name such as SIGUSR1 or 35 to 64"
    )]
    BadSignal { class: &'static str },
    #[error(
        "spec.entries.machineCheck: the hardware's doing is never signalled; use Ignore, Count or Report"
    )]
    MachineCheckSignals,
    #[error("spec.entries.syscall.except: {name} is no x86-64 system call")]
    UnknownSyscall { name: String },
}

pub fn accept(spec: &DataplanePolicySpec, source: PolicyRef) -> Result<Effective, AcceptError> {
    let Entries { syscall, exception, interrupt, machine_check } = &spec.entries;
    refuse_what_is_missing(spec)?;
    let rule = |entry: &Option<entries::Entry>, class| match entry {
        Some(entry) => action(entry.action, entry.signal.as_ref(), class),
        None => Ok(Action::Report),
    };
    let machine_check =
        rule(machine_check, "machineCheck").map_err(|_refused| AcceptError::MachineCheckSignals)?;
    if let Action::Signal(_) = machine_check {
        return Err(AcceptError::MachineCheckSignals);
    }
    let mut except = Vec::new();
    for name in syscall.iter().flat_map(|entry| &entry.except) {
        except
            .push(syscalls::number(name).ok_or_else(|| AcceptError::UnknownSyscall { name: name.clone() })?);
    }
    except.sort_unstable();
    except.dedup();
    let syscall = match syscall {
        Some(entry) => action(entry.action, entry.signal.as_ref(), "syscall")?,
        None => Action::Report,
    };
    Ok(Effective {
        source: Some(source),
        enforce: spec.mode == Mode::Enforce,
        actions: [syscall, rule(exception, "exception")?, rule(interrupt, "interrupt")?, machine_check],
        except,
        arm_at: match spec.arm.at {
            crd::ArmAt::Exec => ArmAt::Exec,
            crd::ArmAt::Prctl | crd::ArmAt::Settled => ArmAt::Prctl,
        },
        arm_after: match spec.arm.after {
            crd::ArmAfter::OneShot => ArmAfter::OneShot,
            crd::ArmAfter::Continuous => ArmAfter::Continuous,
        },
        settle_for: EXEC_SETTLES_AFTER,
        locked: spec.locked,
    })
}

/// For cores without an annotation: everything is reported, nothing is signalled.
pub fn node_default() -> Effective {
    Effective {
        source: None,
        enforce: false,
        actions: [Action::Report; 4],
        except: Vec::new(),
        arm_at: ArmAt::Prctl,
        arm_after: ArmAfter::OneShot,
        settle_for: EXEC_SETTLES_AFTER,
        locked: false,
    }
}

fn refuse_what_is_missing(spec: &DataplanePolicySpec) -> Result<(), AcceptError> {
    let Entries { syscall, exception, interrupt, machine_check } = &spec.entries;
    let others = [exception, interrupt, machine_check];
    let freezes = syscall.iter().any(|entry| entry.action == entries::Action::Freeze)
        || others
            .iter()
            .any(|entry| entry.as_ref().is_some_and(|entry| entry.action == entries::Action::Freeze));
    let budgets = syscall.iter().any(|entry| entry.budget.is_some())
        || others.iter().any(|entry| entry.as_ref().is_some_and(|entry| entry.budget.is_some()));
    let missing = [
        (freezes, "action: Freeze", "use Signal or Report"),
        (budgets, "budget", "leave it out, or use action: Count"),
        (spec.arm.at == crd::ArmAt::Settled, "spec.arm.at: Settled", "use Prctl or Exec"),
        (spec.enforce_for.is_some(), "spec.enforceFor", "leave it out"),
        (0 < spec.cores.shared_cpus, "spec.cores.sharedCpus", "leave it at 0"),
        (spec.cores.smt == crd::Smt::OneThread, "spec.cores.smt: OneThread", "use Whole"),
        (spec.cores.nohz == crd::Nohz::Required, "spec.cores.nohz: Required", "use Preferred"),
        (spec.on_unprotected == crd::OnUnprotected::Kill, "spec.onUnprotected: Kill", "use Report"),
    ];
    match missing.into_iter().find(|(used, ..)| *used) {
        Some((_, field, instead)) => Err(AcceptError::NotYet { field, instead }),
        None => Ok(()),
    }
}

fn action(
    action: entries::Action,
    signal: Option<&k8s_openapi::apimachinery::pkg::util::intstr::IntOrString>,
    class: &'static str,
) -> Result<Action, AcceptError> {
    match (action, signal) {
        (entries::Action::Signal, Some(signal)) => {
            signals::number(signal).map(Action::Signal).ok_or(AcceptError::BadSignal { class })
        }
        (entries::Action::Signal, None) | (_, Some(_)) => Err(AcceptError::SignalAndAction { class }),
        (entries::Action::Ignore, None) => Ok(Action::Ignore),
        (entries::Action::Count, None) => Ok(Action::Count),
        (entries::Action::Report, None) => Ok(Action::Report),
        (entries::Action::Freeze, None) => {
            Err(AcceptError::NotYet { field: "action: Freeze", instead: "use Signal or Report" })
        }
    }
}

#[cfg(test)]
mod tests {
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
            Err(error) => error.to_string(),
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
        for (spec, words) in [
            ("{arm: {at: Settled}}", "spec.arm.at: Settled is not supported"),
            ("{entries: {syscall: {action: Freeze}}}", "action: Freeze is not supported"),
            ("{entries: {machineCheck: {action: Freeze}}}", "action: Freeze is not supported"),
            (
                "{entries: {interrupt: {action: Report, budget: {entries: 1, per: 1m}}}}",
                "budget is not supported",
            ),
            ("{mode: Enforce, enforceFor: 1h}", "spec.enforceFor is not supported"),
            ("{cores: {sharedCpus: 1}}", "spec.cores.sharedCpus is not supported"),
            ("{cores: {smt: OneThread}}", "spec.cores.smt: OneThread is not supported"),
            ("{cores: {nohz: Required}}", "spec.cores.nohz: Required is not supported"),
            ("{onUnprotected: Kill}", "spec.onUnprotected: Kill is not supported"),
        ] {
            let error = accept(&serde_saphyr::from_str(spec).unwrap(), source()).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("quietcore 0."), "{error}");
        }
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
            expect![
                "spec.entries.interrupt.signal: not a signal that would be noticed; use a name such as SIGUSR1 or 35 to 64"
            ],
        );
        check(
            "{entries: {machineCheck: {action: Signal, signal: SIGKILL}}}",
            expect![
                "spec.entries.machineCheck: the hardware's doing is never signalled; use Ignore, Count or Report"
            ],
        );
        check(
            "{entries: {syscall: {action: Report, except: [nope]}}}",
            expect!["spec.entries.syscall.except: nope is no x86-64 system call"],
        );
    }
}
