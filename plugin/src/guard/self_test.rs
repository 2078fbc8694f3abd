//! Step 7: a guard just attached is asked to see what a thread of the agent's own does, before it is trusted
//! with a container.
//!
//! A kernel whose interrupt entries lie deeper on the stack than thread.bpf.h expects would go half guarded
//! without a word: here it is refused. The thread runs in slot 0, which no container gets.

use std::{
    io,
    time::{Duration, Instant},
};

use libbpf_rs::{Object, ProgramInput};
use memmap2::MmapMut;
use nix::{errno::Errno, sys::signal::SigSet, unistd::Pid};
use rustix::thread::{self, sched_getcpu};

use super::{
    abi,
    detector::Detector,
    object::{self, WATCH_SELF},
    rules::set_bit,
    slots::{Slot, Slots},
};
use crate::{
    cores::{
        affinity,
        set::{CpuId, CpuSet},
    },
    policy::effective::Class,
};

const N_CALLS: u64 = 64;
const N_PAGES: usize = 16;
/// Every kernel that is not in nohz_full ticks at least 100 times a second.
const TICK_WITHIN: Duration = Duration::from_secs(2);

const BETWEEN_IPIS: Duration = Duration::from_millis(1);

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
    NoInterrupt { cpu: u32 },
}

pub(super) fn run(
    object: &Object,
    slots: &Slots,
    detector: Detector,
    cores: &CpuSet,
) -> Result<(), SelfTestError> {
    on_watched_core(object, slots, detector, cores, |cpu| make_entries(slots, cpu))
}

/// On a thread of its own, because it pins and watches itself.
pub(super) fn on_watched_core<T: Send>(
    object: &Object,
    slots: &Slots,
    detector: Detector,
    cores: &CpuSet,
    test: impl FnOnce(CpuId) -> Result<T, SelfTestError> + Send,
) -> Result<T, SelfTestError> {
    thread::membarrier(thread::MembarrierCommand::RegisterPrivateExpedited)
        .map_err(|errno| SelfTestError::Prepare(errno.into()))?;
    std::thread::scope(|scope| {
        let tested = scope.spawn(|| {
            // A handler's return would be one system call too many.
            SigSet::all().thread_block().map_err(|errno| SelfTestError::Prepare(errno.into()))?;
            let cpu = pin(detector, cores).map_err(SelfTestError::Prepare)?;
            slots.open(Slot::SELF_TEST, entries_on(cpu));
            let result = watch_self(object, slots).and_then(|()| test(cpu));
            slots.close(Slot::SELF_TEST);
            result
        });
        // An interrupt for the tested thread, where there is no tick: it is an IPI to our running threads.
        while !tested.is_finished() {
            let _ = thread::membarrier(thread::MembarrierCommand::PrivateExpedited);
            std::thread::park_timeout(BETWEEN_IPIS);
        }
        tested.join().unwrap_or(Err(SelfTestError::Thread))
    })
}

/// Edge sees nothing on a CPU that is not in nohz_full, so its test runs on a core that no container has yet.
fn pin(detector: Detector, cores: &CpuSet) -> io::Result<CpuId> {
    let cpu = match detector {
        Detector::Edge => cores.first(),
        Detector::Tracepoint => {
            u32::try_from(sched_getcpu()).ok().and_then(CpuId::new).ok_or(Errno::ERANGE)?
        }
    };
    affinity::restrict(Pid::from_raw(0), &cpu.into())?;
    Ok(cpu)
}

fn entries_on(cpu: CpuId) -> abi::qc_grant {
    let mut rules = abi::qc_grant::default();
    set_bit(&mut rules.cpus, cpu.number());
    rules
}

/// By a program that runs in this very thread: pidfds of threads need Linux 6.9.
fn watch_self(object: &Object, slots: &Slots) -> Result<(), SelfTestError> {
    let program = object::program(object, WATCH_SELF).ok_or(SelfTestError::Thread)?;
    let mut generation = u64::from(slots.generation(Slot::SELF_TEST)).to_ne_bytes();
    let input = ProgramInput { context_in: Some(&mut generation), ..ProgramInput::default() };
    program.test_run(input).map(|_| ()).map_err(SelfTestError::Watch)
}

fn make_entries(slots: &Slots, cpu: CpuId) -> Result<(), SelfTestError> {
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
            return Err(SelfTestError::NoInterrupt { cpu: cpu.number() });
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
