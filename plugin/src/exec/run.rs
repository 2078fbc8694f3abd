//! Wires one run together, in the order of mod.rs, and waits for the command.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use nix::errno::Errno;

use super::{
    args::ExecArgs,
    child::{ChildError, OUR_FAILURE},
    cpu::{self, CpuError, Machine},
    print::{say, say_json},
    privileges::{self, Unprivileged},
    shield::Shield,
    summary::{Run, Summary, Verdict},
    wait::{self, Ended, Signals},
    watched::{self, Watched},
};
use crate::{
    agent::housekeeping::{self, HousekeepingError},
    args::Format,
    arm::settle::Clocks,
    cores::set::CpuSet,
    guard::{
        detector::{Detector, NotEdge},
        load::{Guard, GuardError},
        support::{Kernel, SupportError},
    },
    policy::{
        dir::{self, DirError},
        effective::{ArmAt, Effective},
    },
};

/// CMD ended with 0, and was not quiet, or nobody knows.
const NOT_QUIET: u8 = 3;

#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    #[error(transparent)]
    Unprivileged(#[from] Unprivileged),
    #[error(transparent)]
    Policy(#[from] DirError),
    #[error("{path} holds {found} policies: exec takes one")]
    NotOne { path: PathBuf, found: usize },
    #[error("policy of {path} is not accepted: {why}")]
    NotAccepted { path: PathBuf, why: String },
    #[error("policy of {path}: cores.sharedCpus is for pods, exec has --cpu alone: leave it out")]
    SharedCpus { path: PathBuf },
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
    Detector(#[from] NotEdge),
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
    let policy = args.effective(file);
    let machine = Machine::read(Path::new("/sys"), &args.pin_dir)?;
    let cpus = cpu::choose(args.cpu.as_ref(), &machine).map_err(CpuError::from)?;
    if policy.arm_at == ArmAt::Exec && 1 < cpus.iter().count() {
        return Err(ExecError::ExecOnSeveral { cpus });
    }
    housekeeping::stay_off(&cpus)?;
    // Before a second thread exists, so that all of them leave signals to the one that waits.
    let signals = Signals::take()?;
    let detector =
        Detector::choose_of(args.detector, &Kernel::probe()?, &cpus, machine.topology.nohz_full.as_ref())?;
    let guard = Arc::new(Guard::start_private(detector, &cpus)?);
    let shield = Shield::raise(Path::new("/proc"), &cpus, &machine);
    if args.output == Format::Text {
        shield.could_not.iter().for_each(|item| say(&format!("{}; {}", item.what, item.remedy)));
    }
    let start = Clocks::now().monotonic;
    let watched = Watched::start(args, &guard, &policy, &cpus, start)?;
    let ended = wait::wait(watched.pid, &signals, args.time)?;
    let (time, status) = (Clocks::now().monotonic.saturating_sub(start), status_of(&ended));
    let (seen, not_printed) = watched.finish(Clocks::now().monotonic)?;
    let could_not = shield.could_not.clone();
    drop(shield);
    let (detector, provider) = (guard.detector, guard.provider);
    let run = Run { cpus: cpus.to_string(), detector, provider, time, status, not_printed, could_not };
    let summary = Summary::new(run, &policy, &guard.slots.counts(watched::slot()), seen);
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
        [known] => match known.verdict().clone() {
            Ok(policy) if policy.cores.shared != 0 => Err(ExecError::SharedCpus { path }),
            verdict => verdict.map_err(|why| ExecError::NotAccepted { path, why }),
        },
        several => Err(ExecError::NotOne { path, found: several.len() }),
    }
}

fn status_of(ended: &Ended) -> u8 {
    match *ended {
        Ended::Exited(code) => u8::try_from(code & 0xff).unwrap_or(OUR_FAILURE),
        Ended::Killed { by_our_deadline: true, .. } => 0,
        Ended::Killed { signal, .. } => u8::try_from(128 + signal).unwrap_or(OUR_FAILURE),
    }
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
    fn a_policy_file_holds_one_policy_that_this_version_accepts() {
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
        assert!(refused.contains("cores.sharedCpus is for pods"), "{refused}");
        let refused = read(policy("p", "{cores: {sharedCpus: -1}}")).unwrap_err();
        assert!(refused.contains("is not accepted: spec.cores.sharedCpus"), "{refused}");
    }
}
