//! Wires one run together, in the order of mod.rs, and waits for the command.

use std::{
    io,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use nix::errno::Errno;
use rustix::time::{ClockId, clock_gettime};

use super::{
    args::ExecArgs,
    child::{self, ChildError, OUR_FAILURE},
    cpu::{self, CpuError, Machine},
    print::{Printer, Told, say, say_json},
    privileges::{self, Unprivileged},
    shield::Shield,
    summary::{Run, Summary, Verdict},
    tally::{Seen, Tally},
    wait::{self, Ended, Signals},
};
use crate::{
    agent::housekeeping::{self, HousekeepingError},
    args::Format,
    arm::plan::shim_plan,
    cores::set::CpuSet,
    guard::{
        abi::{QC_SIGNAL, qc_record},
        detector::Detector,
        load::{Guard, GuardError},
        rules::rules,
        slots::Slot,
        support::{Kernel, SupportError},
    },
    policy::{
        dir::{self, DirError},
        effective::{Action, ArmAt, Class, Effective},
    },
    violation::happening::{Happening, Story},
};

/// Lines that wait for their symbols; what comes faster is counted only.
const WAITING_LINES: usize = 4096;
/// CMD ended with 0, and was not quiet, or nobody knows.
const NOT_QUIET: u8 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Unprivileged(#[from] Unprivileged),
    #[error(
        "arming at Settled is not supported by exec yet: use --arm prctl where the program arms itself, or --arm exec to \
         arm it at its first instruction"
    )]
    Settled,
    #[error(transparent)]
    Policy(#[from] DirError),
    #[error("{path} holds {found} policies: exec takes one")]
    NotOne { path: PathBuf, found: usize },
    #[error("policy of {path} is not accepted: {why}")]
    NotAccepted { path: PathBuf, why: String },
    #[error(
        "--arm exec arms a thread that may run on one CPU only, {cpus} are several: name one by --cpu, or let each \
         thread pin itself and arm by prctl"
    )]
    ExecOnSeveral { cpus: CpuSet },
    #[error(transparent)]
    Cpu(#[from] CpuError),
    #[error(transparent)]
    Housekeeping(#[from] HousekeepingError),
    #[error(transparent)]
    Guard(#[from] GuardError),
    #[error(transparent)]
    Kernel(#[from] SupportError),
    #[error(transparent)]
    Child(#[from] ChildError),
    #[error("wait for the command")]
    Wait(#[from] Errno),
    #[error("give the command quietcore's stderr")]
    Stdout(#[source] io::Error),
}

/// Returns the exit status.
pub fn run(args: &ExecArgs) -> Result<u8, ExecError> {
    privileges::check()?;
    let file = args.policy.as_deref().map(read_policy).transpose()?;
    let policy = can_keep(args.effective(file))?;
    let machine = Machine::read(Path::new("/sys"), &args.pin_dir)?;
    let cpus = cpu::choose(args.cpu.as_ref(), &machine).map_err(CpuError::from)?;
    if policy.arm_at == ArmAt::Exec && 1 < cpus.iter().count() {
        return Err(ExecError::ExecOnSeveral { cpus });
    }
    housekeeping::stay_off(&cpus)?;
    // Before a second thread exists, so that all of them leave signals to the one that waits.
    let signals = Signals::take()?;
    let detector = Detector::choose(&Kernel::probe()?, &cpus, machine.topology.nohz_full.as_ref());
    let guard = Guard::start_private(detector, &cpus)?;
    let shield = Shield::raise(Path::new("/proc"), &cpus, &machine);
    if args.output == Format::Text {
        shield.could_not.iter().for_each(|item| say(&format!("{}; {}", item.what, item.remedy)));
    }
    let start = now();
    let watched = Watched::start(args, &guard, &policy, &cpus, start)?;
    let ended = wait::wait(watched.pid, &signals, args.time)?;
    let (time, status) = (now().saturating_sub(start), status_of(&ended));
    let (seen, not_printed) = watched.finish(now())?;
    let could_not = shield.could_not.clone();
    drop(shield);
    let (detector, provider) = (guard.detector, guard.provider);
    let run = Run { cpus: cpus.to_string(), detector, provider, time, status, not_printed, could_not };
    let summary = Summary::new(run, &policy, &guard.slots.counts(slot()), seen);
    match args.output {
        Format::Text => say(&summary.table()),
        Format::Json => say_json(&summary),
    }
    let failed = args.fail_on_violation && status == 0 && summary.verdict != Verdict::Quiet;
    Ok(if failed { NOT_QUIET } else { status })
}

fn read_policy(path: &Path) -> Result<Effective, ExecError> {
    let path = path.to_owned();
    let policies = dir::read_file(&path)?;
    match &policies[..] {
        [known] => known.verdict().clone().map_err(|why| ExecError::NotAccepted { path, why }),
        several => Err(ExecError::NotOne { path, found: several.len() }),
    }
}

/// A policy of pods may hold what only the agent does.
fn can_keep(policy: Effective) -> Result<Effective, ExecError> {
    match policy.arm_at {
        ArmAt::Prctl | ArmAt::Exec => Ok(policy),
        ArmAt::Settled => Err(ExecError::Settled),
    }
}

/// There is one command.
fn slot() -> Slot {
    Slot::all().next().unwrap_or_else(|| unreachable!("slots begin with 1"))
}

fn now() -> Duration {
    let time = clock_gettime(ClockId::Monotonic);
    let part = |value: i64| u64::try_from(value).unwrap_or_default();
    Duration::from_secs(part(time.tv_sec)) + Duration::from_nanos(part(time.tv_nsec))
}

fn status_of(ended: &Ended) -> u8 {
    match *ended {
        Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(OUR_FAILURE),
        Ended::Killed { by_our_deadline: true, .. } => 0,
        Ended::Killed { signal, .. } => u8::try_from(128 + signal).unwrap_or(OUR_FAILURE),
    }
}

/// The running command, with the threads that read what the guard sees of it.
struct Watched {
    pid: nix::unistd::Pid,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Tally, GuardError>>,
    printer: JoinHandle<()>,
    not_printed: Arc<AtomicU64>,
}

impl Watched {
    fn start(
        args: &ExecArgs,
        guard: &Guard,
        policy: &Effective,
        cpus: &CpuSet,
        start: Duration,
    ) -> Result<Watched, ExecError> {
        let stdout = match args.output {
            Format::Text => Stdio::inherit(),
            Format::Json => io::stderr().as_fd().try_clone_to_owned().map_err(ExecError::Stdout)?.into(),
        };
        let plan = shim_plan(cpus, policy, guard.provider);
        let pid = child::start(cpus, &plan, &args.command, stdout)?;
        guard.slots.open(slot(), rules(&recorded(policy), cpus));
        let go = guard.watch(pid.as_raw(), slot()).map_err(ExecError::from).and_then(|_threads| {
            let reader = start_reader(guard, policy, pid.as_raw(), args.output, start)?;
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGCONT)?;
            Ok(reader)
        });
        go.inspect_err(|_| {
            // It stands still and would for ever.
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        })
    }

    /// `at`: when the command was seen to have ended.
    fn finish(self, at: Duration) -> Result<(Seen, u64), ExecError> {
        self.stop.store(true, Ordering::Release);
        let tally = self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.printer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((tally.end(at), self.not_printed.load(Ordering::Acquire)))
    }
}

/// A class that is only counted makes no records, and causes and stretches come from records.
fn recorded(policy: &Effective) -> Effective {
    let actions = policy.actions.map(|action| if action == Action::Count { Action::Report } else { action });
    Effective { actions, ..policy.clone() }
}

/// A line of the thread's own story is; an entry is by the policy as it was given, or by a signal that the program
/// chose itself.
fn is_reported(policy: &Effective, record: &qc_record, story: &Story) -> bool {
    let class = match story {
        Story::Entry(entry) => entry.class,
        Story::CameOn => Class::Interrupt,
        _ => return true,
    };
    Action::Report <= policy.actions[class.index()] || u32::from(record.action) == QC_SIGNAL
}

fn start_reader(
    guard: &Guard,
    policy: &Effective,
    main: i32,
    format: Format,
    start: Duration,
) -> Result<Watched, ExecError> {
    let (told, to_tell) = sync_channel(WAITING_LINES);
    let printer = Printer::new(format, start);
    let printer = std::thread::spawn(move || printer.run(&to_tell));
    let (stop, not_printed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (records, level, policy) = (guard.records()?, guard.own_pid_level, policy.clone());
    let (stopped, dropped) = (Arc::clone(&stop), Arc::clone(&not_printed));
    let reader = std::thread::spawn(move || {
        let mut tally = Tally::default();
        let handle = |record: qc_record| {
            let happening = match Happening::try_from(&record) {
                Ok(happening) => happening,
                Err(error) => return say(&error.to_string()),
            };
            let pid = record.pids.get(level).and_then(|pid| i32::try_from(*pid).ok()).filter(|pid| *pid != 0);
            let reported = is_reported(&policy, &record, &happening.story);
            tally.note(&happening, pid == Some(main), reported);
            if !reported {
                return;
            }
            if let Err(TrySendError::Full(_)) = told.try_send(Told { happening, pid }) {
                dropped.fetch_add(1, Ordering::AcqRel);
            }
        };
        records.drain_closely_until(|| stopped.load(Ordering::Acquire), handle)?;
        Ok(tally)
    });
    Ok(Watched { pid: nix::unistd::Pid::from_raw(main), stop, reader, printer, not_printed })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_a_shells() {
        let killed = |signal, by_our_deadline| status_of(&Ended::Killed { signal, by_our_deadline });
        assert_eq!((status_of(&Ended::Exited(0)), status_of(&Ended::Exited(7))), (0, 7));
        assert_eq!((killed(9, false), killed(15, true)), (137, 0));
    }

    #[test]
    fn what_is_only_counted_is_recorded_and_not_reported() {
        let actions = [Action::Count, Action::Ignore, Action::Signal(10), Action::Report];
        let policy = Effective { actions, ..crate::policy::accept::node_default() };
        let expect = [Action::Report, Action::Ignore, Action::Signal(10), Action::Report];
        assert_eq!(recorded(&policy).actions, expect);
        let reported = |class: u8, action: u32| {
            let record =
                qc_record { class, action: action.try_into().unwrap(), kind: 2, ..qc_record::default() };
            is_reported(&policy, &record, &Happening::try_from(&record).unwrap().story)
        };
        assert!(!reported(0, 2), "Count");
        assert!(reported(0, QC_SIGNAL), "a signal by the program's own prctl");
        assert!(reported(2, QC_SIGNAL) && reported(3, 2));
    }

    #[test]
    fn a_policy_file_holds_one_policy_that_this_version_can_keep() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        let policy = |name: &str, spec: &str| {
            format!(
                "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
            )
        };
        let read = |text: String| {
            std::fs::write(&file, text).unwrap();
            read_policy(&file).map_err(|error| error.to_string())
        };
        assert!(read(policy("p", "{mode: Enforce}")).unwrap().enforce);
        let two = read(format!("{}---\n{}", policy("p", "{}"), policy("q", "{}"))).unwrap_err();
        assert!(two.ends_with("holds 2 policies: exec takes one"), "{two}");
        let refused = read(policy("p", "{cores: {sharedCpus: 1}}")).unwrap_err();
        assert!(refused.contains("is not accepted: spec.cores.sharedCpus"), "{refused}");
        let settled = read(policy("p", "{arm: {at: Settled}}")).unwrap();
        let refused = can_keep(settled).unwrap_err().to_string();
        assert!(refused.contains("arming at Settled is not supported by exec yet"), "{refused}");
    }
}
