//! Step 2: can this agent keep that policy? Pure.
//!
//! The schema's rules are checked again, because an object may be older than the schema. What this version
//! does not do yet is refused in words, never accepted and ignored: every struct of the spec is taken apart
//! field by field, so that a new field that nobody looks at does not compile.

use std::{fmt, time::Duration};

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use quietcore_crd::{
    entries::{self, Budget, Entries, Entry, SyscallEntry},
    policy::{self as crd, DataplanePolicySpec},
};

use super::{
    effective::{self, Action, ArmAfter, ArmAt, Class, CoresWanted, Effective, Nohz, PolicyRef},
    signals, syscalls,
};

#[cfg(test)]
mod tests;

/// Exceptions of a program armed at its exec count after this long without one.
const EXEC_SETTLES_AFTER: Duration = Duration::from_millis(500);

/// As the schema has it.
const MAX_SHARED: u32 = 64;

/// The longest list of names in a message: objects older than the schema may hold any number.
const MAX_NAMED: usize = 8;

/// All that is wrong with a policy, so that its author needs one round and not one for each. Never empty.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", join(.0, "; "))]
pub struct NotAccepted(Vec<Problem>);

impl NotAccepted {
    pub fn problems(&self) -> &[Problem] {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("{field} is not supported by quietcore {version}: {instead}", version = env!("CARGO_PKG_VERSION"))]
    NotYet { field: String, instead: &'static str },
    #[error("spec.entries.{class}: signal is required exactly when action is Signal", class = .0.name())]
    SignalAndAction(Class),
    #[error(
        "spec.entries.{class}.signal: {signal} is not a signal that would be noticed; use a name such as SIGUSR1, \
         or 35 to 64",
        class = .class.name()
    )]
    BadSignal { class: Class, signal: String },
    #[error(
        "spec.entries.machineCheck: the hardware's doing is never signalled; use Ignore, Count or Report"
    )]
    MachineCheckSignals,
    #[error("spec.entries.syscall.except: no x86-64 system call is named {}", some_of(.0))]
    UnknownSyscalls(Vec<String>),
    #[error("spec.arm.settleFor is only for arm.at Settled: leave it out")]
    SettleForAlone,
    #[error("{field}: {text} is not a time longer than 0; write it like 500ms, 30s or 1h30m")]
    BadTime { field: String, text: String },
    #[error("spec.enforceFor is only for mode Enforce: leave it out")]
    EnforceForAlone,
    #[error("spec.entries.{class}.budget: it softens Report, Signal or Freeze; leave it out, or change the action",
        class = .0.name())]
    BudgetOfNothing(Class),
    #[error("spec.entries.{class}.budget.entries: {entries} is not from 1 to 1,000,000", class = .class.name())]
    BadBudget { class: Class, entries: i64 },
    #[error("spec.cores.sharedCpus: {0} is not from 0 to {MAX_SHARED}")]
    BadSharedCpus(i64),
    #[error(
        "spec.arm.at: Exec arms the program's first thread, which spec.cores.sharedCpus keeps off the granted cores; \
         use Prctl or Settled, or leave sharedCpus at 0"
    )]
    ExecIsShared,
    #[error(
        "spec.cores.{0} is not for spec.cores.from: Runtime, where somebody else chooses the CPUs: leave it out"
    )]
    ChosenByRuntime(&'static str),
    #[error("spec.cores.wakeupLatencyMicroseconds: {0} is not from 0 to 1,000,000")]
    BadLatency(i64),
}

pub fn accept(spec: &DataplanePolicySpec, source: PolicyRef) -> Result<Effective, NotAccepted> {
    let DataplanePolicySpec { mode, enforce_for, entries, arm, cores, locked, on_unprotected } = spec;
    let Entries { syscall, exception, interrupt, machine_check } = entries;
    let SyscallEntry { except, .. } = syscall;
    let rules = [
        Rule::of_syscall(syscall),
        Rule::of(Class::Exception, exception),
        Rule::of(Class::Interrupt, interrupt),
        Rule::of(Class::MachineCheck, machine_check),
    ];
    let mut problems = Problems::default();
    let budgets = rules.each_ref().map(|rule| problems.note(rule.budget()).flatten());
    let actions = rules.map(|rule| problems.note(rule.action()));
    let except = problems.note(numbers(except));
    let enforce = *mode == crd::Mode::Enforce;
    let enforce_for = enforce_for.as_deref().and_then(|text| problems.note(time("spec.enforceFor", text)));
    if enforce_for.is_some() && !enforce {
        problems.0.push(Problem::EnforceForAlone);
    }
    let (arm_at, arm_after, settle_for) = judge_arm(arm, &mut problems);
    let cores = judge_cores(cores, &mut problems);
    if arm_at == ArmAt::Exec && cores.shared != 0 {
        problems.0.push(Problem::ExecIsShared);
    }
    let kills = *on_unprotected == crd::OnUnprotected::Kill;
    problems.not_yet(kills, "spec.onUnprotected: Kill", "use Report");
    match (actions, except, arm_at, problems.0.is_empty()) {
        (
            [Some(syscall), Some(exception), Some(interrupt), Some(machine_check)],
            Some(except),
            arm_at,
            true,
        ) => Ok(Effective {
            source: Some(source),
            enforce,
            enforce_for,
            actions: [syscall, exception, interrupt, machine_check],
            budgets,
            except,
            arm_at,
            arm_after,
            settle_for,
            locked: *locked,
            cores,
        }),
        _ => Err(NotAccepted(problems.0)),
    }
}

/// For cores without an annotation: everything is reported, nothing is signalled.
pub fn node_default() -> Effective {
    Effective {
        source: None,
        enforce: false,
        enforce_for: None,
        actions: [Action::Report; 4],
        budgets: [None; 4],
        except: Vec::new(),
        arm_at: ArmAt::Prctl,
        arm_after: ArmAfter::OneShot,
        settle_for: EXEC_SETTLES_AFTER,
        locked: false,
        cores: CoresWanted::default(),
    }
}

// === impl Problems ===

#[derive(Default)]
struct Problems(Vec<Problem>);

impl Problems {
    fn note<T>(&mut self, result: Result<T, Problem>) -> Option<T> {
        result.map_err(|problem| self.0.push(problem)).ok()
    }

    fn not_yet(&mut self, used: bool, field: impl Into<String>, instead: &'static str) {
        if used {
            self.0.push(Problem::NotYet { field: field.into(), instead });
        }
    }
}

/// `Effective::settle_for` where the policy does not say.
pub fn settles_after(at: ArmAt) -> Duration {
    match at {
        ArmAt::Prctl | ArmAt::Exec => EXEC_SETTLES_AFTER,
        ArmAt::Settled => Duration::from_secs(1),
    }
}

fn judge_arm(arm: &crd::Arm, problems: &mut Problems) -> (ArmAt, ArmAfter, Duration) {
    let crd::Arm { at, settle_for, after } = arm;
    let asked = settle_for.as_deref().and_then(|text| problems.note(time("spec.arm.settleFor", text)));
    let at = match at {
        crd::ArmAt::Prctl => ArmAt::Prctl,
        crd::ArmAt::Exec => ArmAt::Exec,
        crd::ArmAt::Settled => ArmAt::Settled,
    };
    if at != ArmAt::Settled && settle_for.is_some() {
        problems.0.push(Problem::SettleForAlone);
    }
    let after = match after {
        crd::ArmAfter::OneShot => ArmAfter::OneShot,
        crd::ArmAfter::Continuous => ArmAfter::Continuous,
    };
    (at, after, asked.unwrap_or(settles_after(at)))
}

fn judge_cores(cores: &crd::Cores, problems: &mut Problems) -> CoresWanted {
    let crd::Cores { from, smt, nohz, shared_cpus, wakeup_latency_microseconds, governor } = cores;
    let from_runtime = *from == crd::CoresFrom::Runtime;
    for (used, field) in [(*shared_cpus != 0, "sharedCpus"), (*smt == crd::Smt::OneThread, "smt: OneThread")]
    {
        if from_runtime && used {
            problems.0.push(Problem::ChosenByRuntime(field));
        }
    }
    let wakeup_latency_us = wakeup_latency_microseconds
        .and_then(|latency| problems.note(u32::try_from(latency).map_err(|_| Problem::BadLatency(latency))));
    let shared = u32::try_from(*shared_cpus).ok().filter(|n| *n <= MAX_SHARED);
    let shared = problems.note(shared.ok_or(Problem::BadSharedCpus(*shared_cpus)));
    CoresWanted {
        from_runtime,
        one_thread: *smt == crd::Smt::OneThread,
        nohz: match nohz {
            crd::Nohz::Required => Nohz::Required,
            crd::Nohz::Preferred => Nohz::Preferred,
            crd::Nohz::Ignored => Nohz::Ignored,
        },
        shared: shared.unwrap_or(0),
        wakeup_latency_us,
        governor: governor.map(|governor| {
            match governor {
                crd::Governor::Performance => "performance",
                crd::Governor::Powersave => "powersave",
                crd::Governor::Schedutil => "schedutil",
            }
            .to_owned()
        }),
    }
}

// === impl Rule ===

/// What the spec says of one class, whichever of the two structs says it.
struct Rule<'a> {
    class: Class,
    action: entries::Action,
    signal: Option<&'a IntOrString>,
    budget: Option<&'a Budget>,
}

impl<'a> Rule<'a> {
    fn of(class: Class, entry: &'a Entry) -> Rule<'a> {
        let Entry { action, signal, budget } = entry;
        Rule { class, action: *action, signal: signal.as_ref(), budget: budget.as_ref() }
    }

    fn of_syscall(entry: &'a SyscallEntry) -> Rule<'a> {
        let SyscallEntry { action, signal, except: _, budget } = entry;
        Rule { class: Class::Syscall, action: *action, signal: signal.as_ref(), budget: budget.as_ref() }
    }

    fn action(&self) -> Result<Action, Problem> {
        use entries::Action as Asked;
        match (self.action, self.signal) {
            (Asked::Signal | Asked::Freeze, _) if self.class == Class::MachineCheck => {
                Err(Problem::MachineCheckSignals)
            }
            (Asked::Signal, Some(signal)) => {
                let bad = || Problem::BadSignal { class: self.class, signal: text(signal) };
                signals::number(signal).map(Action::Signal).ok_or_else(bad)
            }
            (Asked::Signal, None) | (_, Some(_)) => Err(Problem::SignalAndAction(self.class)),
            (Asked::Ignore, None) => Ok(Action::Ignore),
            (Asked::Count, None) => Ok(Action::Count),
            (Asked::Report, None) => Ok(Action::Report),
            (Asked::Freeze, None) => Ok(Action::Freeze),
        }
    }

    fn budget(&self) -> Result<Option<effective::Budget>, Problem> {
        let Some(Budget { entries, per }) = self.budget else { return Ok(None) };
        if matches!(self.action, entries::Action::Ignore | entries::Action::Count) {
            return Err(Problem::BudgetOfNothing(self.class));
        }
        let allowed = u32::try_from(*entries).ok().filter(|n| (1..=1_000_000).contains(n));
        let entries = allowed.ok_or(Problem::BadBudget { class: self.class, entries: *entries })?;
        let per = time(&format!("spec.entries.{}.budget.per", self.class.name()), per)?;
        Ok(Some(effective::Budget { entries, per }))
    }
}

/// As Go writes it, which is how the schema has it.
fn time(field: &str, text: &str) -> Result<Duration, Problem> {
    let parsed =
        text.parse::<kube::core::Duration>().ok().filter(|time| !time.is_negative()).map(Duration::from);
    let bad = || Problem::BadTime { field: field.to_owned(), text: shortened(text) };
    parsed.filter(|time| !time.is_zero()).ok_or_else(bad)
}

/// Sorted, each once.
fn numbers(names: &[String]) -> Result<Vec<u16>, Problem> {
    let unknown: Vec<String> =
        names.iter().filter(|name| syscalls::number(name).is_none()).cloned().collect();
    if !unknown.is_empty() {
        return Err(Problem::UnknownSyscalls(unknown));
    }
    let mut numbers: Vec<u16> = names.iter().filter_map(|name| syscalls::number(name)).collect();
    numbers.sort_unstable();
    numbers.dedup();
    Ok(numbers)
}

fn text(signal: &IntOrString) -> String {
    match signal {
        IntOrString::Int(number) => number.to_string(),
        IntOrString::String(text) => shortened(text),
    }
}

fn some_of(names: &[String]) -> String {
    let named = names.iter().take(MAX_NAMED).map(|name| shortened(name)).collect::<Vec<_>>();
    match names.len().saturating_sub(MAX_NAMED) {
        0 => named.join(", "),
        n_more => format!("{}, and {n_more} more", named.join(", ")),
    }
}

/// Quoted, for it may hold anything.
fn shortened(text: &str) -> String {
    format!("{:?}", text.chars().take(32).collect::<String>())
}

fn join(problems: &[impl fmt::Display], separator: &str) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join(separator)
}
