//! Step 8: a happening in words, as they stand in the Event's note.
//!
//! Names entry, cause, place and answer, in this order and always the same words: people grep them.
//! Pure. The result has at most 1,024 bytes.

use std::fmt::Write as _;

use crate::{
    guard::abi::{QC_SEATS, QC_SEATS_EACH},
    violation::{
        blame::Blame,
        happening::{Answer, Cause, Entry, Happening, Refused, Story, SyscallAbi, Thread},
        scene::Scene,
        symbolize::place::Place,
        text::{fit_note, printable},
    },
};

mod blame;
mod page_fault;
mod syscall;
#[cfg(test)]
mod tests;

/// A kernel's comm has 15 characters, an interrupt's name is cut to as many by the guard.
const COMM_MAX: usize = 16;

/// `names` gives the name of an x86-64 system call.
pub fn describe(happening: &Happening, scene: &Scene, names: &dyn Fn(u64) -> Option<&'static str>) -> String {
    let (thread, place, blame) = (&happening.thread, &scene.place, &happening.blame);
    fit_note(match &happening.story {
        Story::Entry(entry) => entry_note(entry, thread, blame, scene, names),
        Story::CameOn => match &blame.came {
            Some(came) => blame::taken_words(came, blame.sender.as_ref(), thread, scene),
            None => format!("core taken at {place} from {}", who(thread, place)),
        },
        Story::Armed => format!("armed {}", who(thread, place)),
        Story::Disarmed => format!("disarmed by the program: {}", who(thread, place)),
        Story::ArmRefused(refused) => refused_note(*refused, thread, blame, place),
        Story::LeftCore => format!(
            "thread {} left its core: its affinity is no longer exactly one CPU of the grant; disarmed until the \
             program pins the thread to one and arms again",
            who(thread, place)
        ),
    })
}

pub use blame::TICKS;

/// A local timer interrupt, and what it served.
pub fn local_timer(happening: &Happening, scene: &Scene) -> String {
    blame::tick_words(&happening.blame, happening.thread.cpu, scene)
}

fn entry_note(
    entry: &Entry,
    thread: &Thread,
    blame: &Blame,
    scene: &Scene,
    names: &dyn Fn(u64) -> Option<&'static str>,
) -> String {
    let place = &scene.place;
    let name = match &entry.cause {
        // The number of an x32 call carries the bit that says so (__X32_SYSCALL_BIT).
        Cause::Syscall { number, abi: SyscallAbi::X64 | SyscallAbi::X32, .. } => names(number & !(1 << 30)),
        _ => None,
    };
    let mut note = format!(
        "{} {} at {place} {}: {}",
        entry.class.name(),
        full_cause_words(entry, name, thread, blame, scene),
        who(thread, place),
        answer_words(entry.answer, thread),
    );
    let dead = matches!(entry.answer, Answer::Sent(9) | Answer::Escalated(_));
    if entry.disarmed && !dead {
        note.push_str("; disarmed until the program arms again");
    }
    if let Cause::Syscall { args, .. } = &entry.cause {
        let count = name.map_or(syscall::ARGUMENTS_OF_UNKNOWN, syscall::arguments);
        if 0 < count {
            note.push_str("; args");
        }
        for arg in &args[..count] {
            // Writing to a String cannot fail.
            let _ = write!(note, " {arg:#x}");
        }
    }
    for (n, caller) in scene.callers.iter().enumerate() {
        let _ = write!(note, "{} {caller}", if n == 0 { "; called by" } else { " <-" });
    }
    note
}

/// The cause, and who is behind it.
fn full_cause_words(
    entry: &Entry,
    name: Option<&str>,
    thread: &Thread,
    blame: &Blame,
    scene: &Scene,
) -> String {
    let mut words = match (&entry.cause, &blame.came) {
        (Cause::Tick, _) => blame::tick_words(blame, thread.cpu, scene),
        (Cause::Switch { .. }, Some(came)) => format!("switched out by {}", blame::came_words(came, scene)),
        (cause, _) => cause_words(cause, name),
    };
    if let Some(sender) = &blame.sender {
        words.push_str(&blame::sender_words(sender, scene));
    }
    words
}

fn who(thread: &Thread, place: &Place) -> String {
    let source = place.source().map(|source| format!(", {source}")).unwrap_or_default();
    format!("({}, tid {}, cpu {}{source})", printable(&thread.comm, COMM_MAX), thread.tid, thread.cpu)
}

fn cause_words(cause: &Cause, name: Option<&str>) -> String {
    match cause {
        Cause::Syscall { number, abi, denied, .. } => {
            let call = match name {
                // Section 2 of the manual, where its reader finds the call.
                Some(name) => format!("{name}(2)"),
                None => number.to_string(),
            };
            let by = match abi {
                SyscallAbi::X64 => "",
                SyscallAbi::Compat => " of the 32-bit table (int 0x80)",
                SyscallAbi::X32 => " by the x32 entry",
            };
            let denied = if *denied { " (denied by seccomp)" } else { "" };
            format!("{call}{by}{denied}")
        }
        Cause::PageFault { address, code } => page_fault::words(*address, *code),
        Cause::Tick => "local timer tick".into(),
        Cause::Reschedule => "reschedule IPI".into(),
        Cause::CallFunction => "function-call IPI".into(),
        Cause::IrqWork => "irq_work IPI".into(),
        Cause::DeviceIrq { irq, name } if name.is_empty() => format!("irq {irq}"),
        Cause::DeviceIrq { irq, name } => format!("irq {irq} ({})", printable(name, COMM_MAX)),
        Cause::Switch { comm, tid } => {
            format!("switched out by {} (tid {tid})", printable(comm, COMM_MAX))
        }
        Cause::Vector(0) => "unknown vector".into(),
        Cause::Vector(vector) => format!("vector {vector:#x}"),
        Cause::Trap { signal } => match u32::try_from(*signal).unwrap_or_default() {
            0 => "exception that the kernel fixed up".into(),
            signal => format!("trap ({})", signal_name(signal)),
        },
        Cause::Nmi => "NMI".into(),
        Cause::MachineCheck => "MCE".into(),
    }
}

fn answer_words(answer: Answer, thread: &Thread) -> String {
    match answer {
        Answer::Reported => "reported".into(),
        Answer::Audit(0) => "Audit: signal not sent".into(),
        Answer::Audit(signal) => format!("Audit: {} not sent", signal_name(signal)),
        Answer::Expired(signal) => format!("enforceFor is over: {} not sent", signal_name(signal)),
        Answer::Sent(signal) => format!("{} sent", signal_name(signal)),
        Answer::Frozen => {
            let pid = thread.host_tgid;
            format!(
                "process frozen; on its node gdb -p {pid} or gcore {pid} show where it stands, and kill -CONT {pid}, or \
                 quietcore resume POD in the agent's container, lets it go on"
            )
        }
        Answer::Escalated(9 | 0) => {
            "SIGKILL sent (init of a PID namespace ignores the policy's signal)".into()
        }
        Answer::Escalated(signal) => {
            format!("SIGKILL sent instead of {} (init of a PID namespace ignores it)", signal_name(signal))
        }
        Answer::Pending(signal) => format!("{} sent, blocked: stays pending", signal_name(signal)),
        Answer::Ignored(signal) => format!("{} sent, ignored by the program (SIG_IGN)", signal_name(signal)),
        Answer::NotYet(signal) => {
            format!("{} not sent yet: tried again at the next entry", signal_name(signal))
        }
    }
}

fn refused_note(refused: Refused, thread: &Thread, blame: &Blame, place: &Place) -> String {
    let who = who(thread, place);
    let why = match refused {
        Refused::Affinity => {
            "its affinity is not exactly one CPU of the grant; pin the thread to one (sched_setaffinity) \
             before it arms"
        }
        Refused::Locked => {
            "the policy is locked, so the program may neither choose signals nor disarm; call it with \
             ENABLE | CLASSES and no signals, or set locked: false in the policy"
        }
        Refused::Argument => {
            "bad argument; only ENABLE and CLASSES with signals 1 to 64 are known, and arg4 and arg5 must be 0"
        }
        Refused::Tick => {
            let why = blame.tick.map(blame::kept_by).unwrap_or_else(|| "its tick does not stop".to_owned());
            return format!(
                "prctl at {place} {who} answered EAGAIN: cpu {} ticks ({why}), and a tick would bring a signal; the \
                 program should try again until the tick stops",
                thread.cpu
            );
        }
        Refused::Seat => {
            return format!(
                "thread {who} is never armed: the guard can watch {QC_SEATS_EACH} threads of a container and {} of a node \
                 until they settle, and has no place free; run fewer threads under policies with arm.at: Settled",
                QC_SEATS - 1
            );
        }
    };
    format!("prctl at {place} {who} refused: {why}")
}

/// "SIGUSR1", or "signal 40" for real-time signals, whose names depend on the libc.
fn signal_name(signal: u32) -> String {
    let named = i32::try_from(signal).ok().and_then(|n| nix::sys::signal::Signal::try_from(n).ok());
    named.map_or_else(|| format!("signal {signal}"), |s| s.as_str().into())
}
