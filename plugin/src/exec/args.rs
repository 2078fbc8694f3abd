//! The command line of `quietcore exec`, and the policy that it makes. Pure.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::{
    args::{Format, parse_timeout},
    cores::set::CpuSet,
    guard::detector::Allowed,
    policy::{
        accept::{node_default, settles_after},
        effective::{Action, ArmAfter, ArmAt, Class, Effective},
        signals,
    },
};

const ABOUT_RUN: &str = "\
EXAMPLES
  A program that arms itself; SIGUSR1 at each system call, ticks only counted:
    quietcore exec --cpu 1 --syscall Signal:SIGUSR1 --interrupt Count -- ./poll-loop
  What disturbs a program that knows nothing of quietcore, for 10 s, as JSON:
    quietcore exec --arm exec --after continuous --for 10s -o json -- ./app
  The same from when it has started up, each thread by itself:
    quietcore exec --arm settled --settle-for 2s --after continuous --interrupt Count -- ./app
  In CI: fail when the pods' policy was not kept:
    quietcore exec --policy policy.yaml --fail-on-violation -- ./app

HOW IT RUNS
  CMD starts on the chosen CPU, watched from before its first instruction, with no_new_privs set where it arms
  itself by prctl: the seccomp filter that answers prctl(48) needs that, so setuid programs such as sudo gain
  nothing below it. Interrupts that can be moved are moved off the CPU and come back afterwards; what cannot be
  kept away is said at the start, with its remedy. When quietcore itself is killed, CMD is killed with it.

WHAT IT PRINTS
  Each violation of Report or above, one line on stderr, as it comes; at the end a table. A stretch is the time
  from one recorded entry of an armed thread to the next. Classes of action Ignore are not recorded.
  -o json: stdout holds one JSON object a line, and CMD's own stdout goes to stderr:
    {\"type\": \"violation\", \"seconds\", \"class\", \"cause\", \"place\", \"comm\", \"tid\", \"hostTid\", \"cpu\", \"ip\", \"disarmed\", \"note\"}
    {\"type\": \"armRefused\" | \"leftCore\", ... as above without class, cause and disarmed}
    {\"type\": \"notSettled\", \"seconds\", \"tid\", \"hostTid\", \"note\"}
    {\"type\": \"summary\", \"cpus\", \"seconds\", \"status\", \"detector\", \"provider\", \"verdict\": \"quiet\" | \"violated\" | \"notProved\",
     \"armings\", \"quietSeconds\", \"longestQuietSeconds\", \"unknownStretches\", \"signals\", \"lost\", \"unwatched\", \"notPrinted\",
     \"classes\": [{\"class\", \"action\", \"entries\", \"whileArmed\", \"causes\": [{\"cause\", \"count\"}]}],
     \"stretches\": [{\"fromUs\", \"toUs\", \"count\", \"seconds\"}], \"couldNot\": [{\"what\", \"remedy\"}]}
  entries: of all watched threads, armed or not. whileArmed: null where the action is Ignore. lost: records that the
  ring had no room for; causes and stretches are then incomplete, counts are not.

EXIT STATUS
  CMD's own; 128+n when signal n killed it; 0 when it was --for's SIGTERM; 125 when quietcore failed and CMD did
  not run; with --fail-on-violation 3 when CMD ended with 0 and the run was not quiet, or proved nothing because no
  thread was ever armed or records were lost.

PRIVILEGES
  Root, or CAP_BPF and CAP_PERFMON (CAP_SYS_PTRACE to name functions of programs of other users).";

#[derive(Debug, Args)]
#[command(after_long_help = ABOUT_RUN)]
pub struct ExecArgs {
    /// CPUs to run on: 3 or 2-3. Default: the first isolated CPU, else the first in nohz_full, else the last one
    /// that quietcore may use
    #[arg(long, value_name = "LIST")]
    pub cpu: Option<CpuSet>,
    /// A DataplanePolicy, as for pods
    #[arg(long, value_name = "FILE", conflicts_with_all = ["syscall", "exception", "interrupt"])]
    pub policy: Option<PathBuf>,
    /// What a system call of an armed thread means: Ignore, Count, Report, Freeze or Signal:NAME [default: Report]
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    pub syscall: Option<Action>,
    /// The same for page faults and other exceptions
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    pub exception: Option<Action>,
    /// The same for ticks, IPIs and device interrupts
    #[arg(long, value_name = "ACTION", value_parser = parse_action)]
    pub interrupt: Option<Action>,
    /// When strictness begins: when a thread calls prctl(PR_TASK_ISOLATION), at CMD's first instruction, or, for a
    /// program that nobody prepared, once a thread has been quiet for --settle-for [default: the policy's, else prctl]
    #[arg(long, value_enum, value_name = "WHEN")]
    pub arm: Option<Arm>,
    /// With --arm settled: how long without an entry that is reported: 500ms, 5s [default: 1s]
    #[arg(long, value_name = "TIME", value_parser = parse_timeout, requires = "arm")]
    pub settle_for: Option<Duration>,
    /// Does the first signal disarm the thread? [default: the policy's, else one-shot]
    #[arg(long, value_enum, value_name = "HOW")]
    pub after: Option<After>,
    /// How entries may be seen while CMD runs
    #[arg(long, value_enum, value_name = "WHICH", default_value = "auto")]
    pub detector: Allowed,
    /// End CMD after this time, by SIGTERM and 2 s later by SIGKILL: 10s, 5m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_timeout)]
    pub time: Option<Duration>,
    /// Lines for people, or JSON objects on stdout
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
    /// Exit with 3 when CMD ended with 0 and its threads were not quiet, or nothing was proved
    #[arg(long)]
    pub fail_on_violation: bool,
    /// Where an agent of this machine has its pins
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore", hide = true)]
    pub pin_dir: PathBuf,
    /// The command to run, with its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    pub command: Vec<OsString>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Arm {
    Prctl,
    Exec,
    Settled,
}

impl From<Arm> for ArmAt {
    fn from(arm: Arm) -> ArmAt {
        match arm {
            Arm::Prctl => ArmAt::Prctl,
            Arm::Exec => ArmAt::Exec,
            Arm::Settled => ArmAt::Settled,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum After {
    OneShot,
    Continuous,
}

impl ExecArgs {
    /// `file` is the policy of `--policy`, as `accept` took it.
    pub fn effective(&self, file: Option<Effective>) -> Effective {
        // Who names a signal on the command line wants it sent.
        let mut policy = file.unwrap_or_else(|| Effective { enforce: true, ..node_default() });
        for (class, action) in [
            (Class::Syscall, self.syscall),
            (Class::Exception, self.exception),
            (Class::Interrupt, self.interrupt),
        ] {
            policy.actions[class.index()] = action.unwrap_or(policy.actions[class.index()]);
        }
        if let Some(arm) = self.arm {
            let at = arm.into();
            // A file's own time, where it means the same.
            if policy.arm_at != at {
                policy.settle_for = settles_after(at);
            }
            policy.arm_at = at;
            policy.settle_for = self.settle_for.unwrap_or(policy.settle_for);
        }
        match self.after {
            Some(After::OneShot) => policy.arm_after = ArmAfter::OneShot,
            Some(After::Continuous) => policy.arm_after = ArmAfter::Continuous,
            None => {}
        }
        policy
    }
}

fn parse_action(text: &str) -> Result<Action, String> {
    let (word, signal) = match text.split_once(':') {
        Some((word, signal)) => (word, Some(signal)),
        None => (text, None),
    };
    match (word.to_ascii_lowercase().as_str(), signal) {
        ("ignore", None) => Ok(Action::Ignore),
        ("count", None) => Ok(Action::Count),
        ("report", None) => Ok(Action::Report),
        ("freeze", None) => Ok(Action::Freeze),
        ("signal", Some(name)) => {
            let number = signals::number(&IntOrString::String(name.to_ascii_uppercase()));
            number.map(Action::Signal).ok_or_else(|| {
                format!(
                    "{name:?} is not a signal that would be noticed: use a name such as SIGUSR1, or 35 to 64"
                )
            })
        }
        _ => {
            Err("choose one of Ignore, Count, Report, Freeze, or Signal:NAME such as Signal:SIGUSR1"
                .to_owned())
        }
    }
}

/// As it is written on the command line.
pub(super) fn action_text(action: Action) -> String {
    match action {
        Action::Ignore => "Ignore".to_owned(),
        Action::Count => "Count".to_owned(),
        Action::Report => "Report".to_owned(),
        Action::Freeze => "Freeze".to_owned(),
        Action::Signal(number) => format!("Signal:{}", signals::name(number.into())),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parse(flags: &[&str]) -> Result<Box<ExecArgs>, String> {
        let words = ["quietcore", "exec"].iter().chain(flags).chain(&["--", "./app", "-x", "--", "y"]);
        match Cli::try_parse_from(words).map_err(|error| error.to_string())?.command {
            Command::Exec(args) => Ok(args),
            other => Err(format!("{other:?}")),
        }
    }

    #[test]
    fn without_flags_everything_is_reported_and_the_command_is_taken_whole() {
        let args = parse(&[]).unwrap();
        assert_eq!(args.command, ["./app", "-x", "--", "y"]);
        assert_eq!(args.effective(None), Effective { enforce: true, ..node_default() });
    }

    #[test]
    fn flags_are_the_policy() {
        let flags = ["--syscall", "signal:sigusr1", "--exception", "COUNT", "--interrupt", "Signal:40"];
        let args = parse(&[&flags[..], &["--arm", "exec", "--after", "continuous"]].concat()).unwrap();
        let policy = args.effective(None);
        let expect = [Action::Signal(10), Action::Count, Action::Signal(40), Action::Report];
        assert_eq!((policy.actions, policy.enforce), (expect, true));
        assert_eq!((policy.arm_at, policy.arm_after), (ArmAt::Exec, ArmAfter::Continuous));
    }

    #[test]
    fn settling_takes_its_own_time_unless_one_is_given() {
        let settle_for = |flags: &[&str]| {
            let policy = parse(flags).unwrap().effective(None);
            assert_eq!(policy.arm_at, ArmAt::Settled);
            policy.settle_for
        };
        assert_eq!(settle_for(&["--arm", "settled"]), Duration::from_secs(1));
        assert_eq!(settle_for(&["--arm", "settled", "--settle-for", "250ms"]), Duration::from_millis(250));
        assert!(parse(&["--settle-for", "1s"]).unwrap_err().contains("--arm"));
    }

    #[test]
    fn a_file_keeps_what_the_flags_do_not_say() {
        let file = Effective { arm_after: ArmAfter::Continuous, locked: true, ..node_default() };
        let args = parse(&["--policy", "p.yaml", "--arm", "exec"]).unwrap();
        let policy = args.effective(Some(file.clone()));
        assert_eq!(policy, Effective { arm_at: ArmAt::Exec, ..file });
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_the_choices() {
        for (flags, words) in [
            (&["--syscall", "Kill"][..], "choose one of Ignore, Count, Report, Freeze, or Signal:NAME"),
            (&["--syscall", "Signal"], "choose one of"),
            (&["--syscall", "Report:SIGUSR1"], "choose one of"),
            (&["--syscall", "Signal:SIGSTOP"], "\"SIGSTOP\" is not a signal that would be noticed"),
            (&["--policy", "p.yaml", "--syscall", "Count"], "cannot be used with"),
            (&["--cpu", "x"], "is not a CPU list"),
            (&["--arm", "later"], "possible values: prctl, exec, settled"),
        ] {
            let error = parse(flags).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
    }

    #[test]
    fn actions_are_told_as_they_are_written() {
        for text in ["Ignore", "Count", "Report", "Signal:SIGUSR1"] {
            assert_eq!(action_text(parse_action(text).unwrap()), text);
        }
    }
}
