//! The running command, with the two threads that look at it: one reads records, arms who has settled and keeps
//! the tally; the other prints.

use std::{
    cell::RefCell,
    io,
    os::fd::AsFd as _,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::{
    args::ExecArgs,
    child,
    print::{Printer, Told, say},
    run::ExecError,
    tally::{Seen, Tally},
};
use crate::{
    args::Format,
    arm::{
        plan::shim_plan,
        settle::{Clocks, Settler, Turn},
    },
    cores::set::CpuSet,
    guard::{
        abi::{QC_SIGNAL, qc_grant, qc_record},
        load::{Guard, GuardError},
        ring::POLL_INTERVAL,
        rules::rules,
        slots::Slot,
    },
    policy::effective::{Action, Class, Effective},
    violation::happening::{Happening, Story},
};

/// Lines that wait for their symbols; what comes faster is counted only.
const WAITING_LINES: usize = 4096;

/// There is one command.
pub(super) fn slot() -> Slot {
    Slot::all().next().unwrap_or_else(|| unreachable!("slots begin with 1"))
}

#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pid: Pid,
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Result<Tally, GuardError>>,
    printer: JoinHandle<()>,
    not_printed: Arc<AtomicU64>,
}

impl Watched {
    pub(super) fn start(
        args: &ExecArgs,
        guard: &Arc<Guard>,
        policy: &Effective,
        cpus: &CpuSet,
        start: Duration,
    ) -> Result<Watched, ExecError> {
        let stdout = match args.output {
            Format::Text => Stdio::inherit(),
            Format::Json => io::stderr().as_fd().try_clone_to_owned().map_err(ExecError::Stdout)?.into(),
        };
        let plan = shim_plan(cpus, None, policy, guard.provider);
        let pid = child::start(cpus, &plan, &args.command, stdout)?;
        guard.slots.open(slot(), rules_of_run(policy, cpus));
        let go = guard.watch(pid.as_raw(), slot()).map_err(ExecError::from).and_then(|_threads| {
            let watched = start_threads(guard, policy, pid, args.output, start)?;
            kill(pid, Signal::SIGCONT)?;
            Ok(watched)
        });
        go.inspect_err(|_| {
            // It stands still and would for ever.
            let _ = kill(pid, Signal::SIGKILL);
        })
    }

    /// `at`: when the command was seen to have ended.
    pub(super) fn finish(self, at: Duration) -> Result<(Seen, u64), ExecError> {
        self.stop.store(true, Ordering::Release);
        let tally = self.reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        self.printer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        Ok((tally.end(at), self.not_printed.load(Ordering::Acquire)))
    }
}

/// A class that is only counted makes no records, and causes and stretches come from records: here it makes them,
/// and does not break the quiet that settling needs.
fn rules_of_run(policy: &Effective, cpus: &CpuSet) -> qc_grant {
    let actions = policy.actions.map(|action| if action == Action::Count { Action::Report } else { action });
    let recorded = Effective { actions, ..policy.clone() };
    qc_grant { restless: rules(policy, cpus).restless, ..rules(&recorded, cpus) }
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

fn start_threads(
    guard: &Arc<Guard>,
    policy: &Effective,
    pid: Pid,
    format: Format,
    start: Duration,
) -> Result<Watched, ExecError> {
    let (told, to_tell) = sync_channel(WAITING_LINES);
    let printer = Printer::new(format, start);
    let printer = std::thread::spawn(move || printer.run(&to_tell));
    let (stop, not_printed) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let records = guard.records()?;
    let (guard, policy) = (Arc::clone(guard), policy.clone());
    let (stopped, dropped) = (Arc::clone(&stop), Arc::clone(&not_printed));
    let reader = std::thread::spawn(move || {
        let own_pid_level = guard.own_pid_level;
        let reader = Reader { policy, main: pid.as_raw(), own_pid_level, told, not_printed: dropped };
        let tally = RefCell::new(Tally::default());
        let settler = Settler::new(&guard);
        let mut looked = Instant::now();
        let stop = || {
            if POLL_INTERVAL <= looked.elapsed() {
                looked = Instant::now();
                reader.settle(&settler, &mut tally.borrow_mut());
            }
            stopped.load(Ordering::Acquire)
        };
        records.drain_closely_until(stop, |record| reader.note(&record, &mut tally.borrow_mut()))?;
        Ok(tally.into_inner())
    });
    Ok(Watched { pid, stop, reader, printer, not_printed })
}

struct Reader {
    policy: Effective,
    /// The command's first thread.
    main: i32,
    own_pid_level: usize,
    told: SyncSender<Told>,
    not_printed: Arc<AtomicU64>,
}

impl Reader {
    fn note(&self, record: &qc_record, tally: &mut Tally) {
        let happening = match Happening::try_from(record) {
            Ok(happening) => happening,
            Err(error) => return say(&error.to_string()),
        };
        let pid = record.pids.get(self.own_pid_level).and_then(|pid| i32::try_from(*pid).ok());
        let pid = pid.filter(|pid| *pid != 0);
        let reported = is_reported(&self.policy, record, &happening.story);
        tally.note(&happening, pid == Some(self.main), reported);
        if reported {
            self.tell(Told::Happened { happening: Box::new(happening), pid });
        }
    }

    fn settle(&self, settler: &Settler<'_>, tally: &mut Tally) {
        let clocks = Clocks::now();
        settler.poll(clocks, |sitter, turn| match turn {
            Turn::Armed => self.note(&sitter.armed(clocks.monotonic), tally),
            Turn::NotSettled(why) => self.tell(Told::NotSettled {
                at: clocks.monotonic,
                tid: sitter.tid(),
                host_tid: sitter.seat.pids[0],
                why: why.words(sitter.settle_for),
            }),
        });
    }

    fn tell(&self, told: Told) {
        if let Err(TrySendError::Full(_)) = self.told.try_send(told) {
            self.not_printed.fetch_add(1, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::accept::node_default;

    #[test]
    fn what_is_only_counted_is_recorded_not_reported_and_breaks_no_quiet() {
        let actions = [Action::Count, Action::Ignore, Action::Signal(10), Action::Report];
        let policy = Effective { actions, ..node_default() };
        let rules = rules_of_run(&policy, &"1".parse().unwrap());
        assert_eq!((rules.actions, rules.restless), ([2, 0, 3, 2], [0, 0, 1, 1]));
        let reported = |class: u8, action: u32| {
            let record =
                qc_record { class, action: action.try_into().unwrap(), kind: 2, ..qc_record::default() };
            is_reported(&policy, &record, &Happening::try_from(&record).unwrap().story)
        };
        assert!(!reported(0, 2), "Count");
        assert!(reported(0, QC_SIGNAL), "a signal by the program's own prctl");
        assert!(reported(2, QC_SIGNAL) && reported(3, 2));
    }
}
