//! Step 7: a guard just attached is asked to see what a thread of the agent's own does, before it is trusted
//! with a container.
//!
//! A kernel whose interrupt entries lie deeper on the stack than thread.bpf.h expects would go half guarded
//! without a word: here it is refused. The thread runs on a CPU that the agent may use, in slot 0, which no
//! container gets; nothing here touches another CPU.

use std::{
    io,
    time::{Duration, Instant},
};

use libbpf_rs::{Object, ProgramInput};
use memmap2::MmapMut;
use nix::sys::signal::SigSet;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use super::{
    abi,
    slots::{Slot, Slots},
};
use crate::policy::effective::Class;

pub(super) const WATCH_SELF: &str = "qc_watch_self";
const N_CALLS: u64 = 64;
const N_PAGES: usize = 16;
/// Every kernel that is not in nohz_full ticks at least 100 times a second.
const TICK_WITHIN: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    #[error("prepare the thread that tests the guard")]
    Prepare(#[source] io::Error),
    #[error("watch the thread that tests the guard")]
    Watch(#[source] libbpf_rs::Error),
    #[error("the thread that tests the guard did not start")]
    Thread,
    #[error(
        "this kernel is not one the guard can watch: of {made} entries of class {class} that the self-test made it \
         counted {counted}"
    )]
    Miscounted { class: &'static str, made: u64, counted: u64 },
    #[error(
        "this kernel is not one the guard can watch: it saw no interrupt of user mode on CPU {cpu} for {TICK_WITHIN:?}"
    )]
    NoInterrupt { cpu: usize },
}

/// On a thread of its own, because it pins and watches itself.
pub(super) fn run(object: &Object, slots: &Slots) -> Result<(), SelfTestError> {
    std::thread::scope(|scope| {
        let tested = scope.spawn(|| {
            // A handler's return would be one system call too many.
            SigSet::all().thread_block().map_err(|errno| SelfTestError::Prepare(errno.into()))?;
            let cpu = pin_here().map_err(SelfTestError::Prepare)?;
            slots.open(Slot::SELF_TEST, entries_on(cpu));
            let result = watch_self(object, slots).and_then(|()| make_entries(slots, cpu));
            slots.close(Slot::SELF_TEST);
            result
        });
        tested.join().unwrap_or(Err(SelfTestError::Thread))
    })
}

fn pin_here() -> io::Result<usize> {
    let cpu = sched_getcpu();
    let mut only = CpuSet::new();
    only.set(cpu);
    sched_setaffinity(None, &only)?;
    Ok(cpu)
}

fn entries_on(cpu: usize) -> abi::qc_grant {
    let mut rules = abi::qc_grant::default();
    if let Some(word) = rules.cpus.get_mut(cpu / 64) {
        *word |= 1 << (cpu % 64);
    }
    rules
}

/// By a program that runs in this very thread: pidfds of threads need Linux 6.9.
fn watch_self(object: &Object, slots: &Slots) -> Result<(), SelfTestError> {
    let program =
        object.progs_mut().find(|program| program.name() == WATCH_SELF).ok_or(SelfTestError::Thread)?;
    let mut generation = u64::from(slots.generation(Slot::SELF_TEST)).to_ne_bytes();
    let input = ProgramInput { context_in: Some(&mut generation), ..ProgramInput::default() };
    program.test_run(input).map(|_| ()).map_err(SelfTestError::Watch)
}

fn make_entries(slots: &Slots, cpu: usize) -> Result<(), SelfTestError> {
    let counted = |class: Class| slots.counts(Slot::SELF_TEST).entries[class.index()];
    let mut pages = MmapMut::map_anon(N_PAGES * 4096).map_err(SelfTestError::Prepare)?;

    let before = counted(Class::Syscall);
    for _ in 0..N_CALLS {
        let _ = rustix::process::getppid();
    }
    expect(Class::Syscall, N_CALLS..=N_CALLS, counted(Class::Syscall) - before)?;

    let before = counted(Class::Exception);
    pages.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    // Not one a page: the kernel may map several at once, and this code's own pages may come in here.
    expect(Class::Exception, 1..=u64::MAX, counted(Class::Exception) - before)?;

    let (before, began) = (counted(Class::Interrupt), Instant::now());
    while counted(Class::Interrupt) == before {
        if TICK_WITHIN < began.elapsed() {
            return Err(SelfTestError::NoInterrupt { cpu });
        }
        std::hint::spin_loop();
    }
    Ok(())
}

fn expect(class: Class, made: std::ops::RangeInclusive<u64>, counted: u64) -> Result<(), SelfTestError> {
    if made.contains(&counted) {
        return Ok(());
    }
    Err(SelfTestError::Miscounted { class: class.name(), made: *made.start(), counted })
}
