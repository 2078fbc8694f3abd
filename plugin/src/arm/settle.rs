//! Step 6: `arm.at: Settled`: who is armed because it has been quiet for long enough.
//!
//! A program that nobody prepared cannot say when it is ready. The guard notes in mapped memory when each of its
//! threads last entered the kernel; whoever drives a `Settler` looks there from a housekeeping CPU and arms by a
//! store. No system call, no IPI: a thread that is quiet stays quiet. Nothing is kept here, so that the next agent
//! goes on where the one before ended.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

use crate::{
    guard::{
        abi::{QC_KIND_ARMED, qc_record, qc_seat},
        load::Guard,
        slots::Slot,
    },
    policy::effective::Class,
};

#[cfg(test)]
mod tests;

/// How long a thread may try before its owner hears of it.
pub const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Arm,
    Wait,
    Overdue(InTheWay),
}

/// Why a thread does not settle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum InTheWay {
    /// It keeps entering the kernel; its last entry was of this class.
    Class(Class),
    /// It is quiet, and may run on more than one CPU.
    Affinity,
}

impl InTheWay {
    /// After the words that name the thread.
    pub fn words(self, settle_for: Duration) -> String {
        let patience = PATIENCE.as_secs();
        match self {
            InTheWay::Class(class) => {
                let class = class.name();
                format!(
                    "it kept entering the kernel by class {class} for {patience} s, never {settle_for:?} without; it \
                     is armed once that ends; where such entries are allowed, choose action Count for class {class}"
                )
            }
            InTheWay::Affinity => {
                "it has been quiet, and may run on more than one CPU, or on one that is not granted; \
                                   it is armed once it is pinned to one granted CPU (sched_setaffinity)"
                    .to_owned()
            }
        }
    }
}

/// What became of a thread at one look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    Armed,
    /// Told once for each thread.
    NotSettled(InTheWay),
}

/// A thread and its container.
#[derive(Debug, Clone, Copy)]
pub struct Sitter {
    /// A slot and which of its holders in turn.
    pub holder: (Slot, u32),
    pub settle_for: Duration,
    pub seat: qc_seat,
}

impl Sitter {
    /// In the thread's own PID namespace: the number its program knows.
    pub fn tid(&self) -> u32 {
        let own = self.seat.pids.get(usize::from(self.seat.pid_level));
        own.copied().unwrap_or(self.seat.pids[0])
    }

    /// The line of the thread's story that the guard writes where it is the one that arms. Without comm and CPU,
    /// which nobody knows from outside.
    pub fn armed(&self, now: Duration) -> qc_record {
        let qc_seat { start_ns, pids, tgid, pid_level, slot, generation, .. } = self.seat;
        qc_record {
            at_ns: u64::try_from(now.as_nanos()).unwrap_or(u64::MAX),
            start_ns,
            slot,
            generation,
            pids,
            tgids: [tgid, 0, 0, 0],
            pid_level: u32::from(pid_level),
            kind: u16::try_from(QC_KIND_ARMED).unwrap_or_default(),
            ..qc_record::default()
        }
    }
}

/// `now` and the times in a seat are CLOCK_MONOTONIC.
pub fn decide(seat: &qc_seat, now: Duration, settle_for: Duration) -> Decision {
    let is_armed = seat.armed != 0 || seat.arm_ns == seat.last_ns;
    if is_armed || seat.done != 0 {
        return Decision::Wait;
    }
    let for_as_long = |since: u64| settle_for <= now.saturating_sub(Duration::from_nanos(since));
    let in_user_mode = seat.inside_ns == 0;
    let is_quiet = for_as_long(seat.last_ns);
    let on_core = seat.on_core != 0;
    if is_quiet && on_core && in_user_mode {
        return Decision::Arm;
    }
    // Not running: it neither breaks a promise nor keeps one.
    let is_away = !in_user_mode && (is_quiet || for_as_long(seat.inside_ns));
    let is_late = PATIENCE <= now.saturating_sub(Duration::from_nanos(seat.restless_ns));
    match seat.told == 0 && is_late && !is_away {
        false => Decision::Wait,
        true if is_quiet => Decision::Overdue(InTheWay::Affinity),
        true => Decision::Overdue(InTheWay::Class(class(seat.in_class))),
    }
}

fn class(number: u8) -> Class {
    Class::ALL.get(usize::from(number)).copied().unwrap_or(Class::Syscall)
}

/// Arms the threads of one guard. Any loop of a housekeeping CPU may drive it: the agent's that reads records, or
/// that of a single run with a guard of its own.
#[derive(Debug)]
pub struct Settler<'guard> {
    guard: &'guard Guard,
}

impl<'guard> Settler<'guard> {
    pub fn new(guard: &'guard Guard) -> Settler<'guard> {
        Settler { guard }
    }

    /// One look at every thread that waits; as often as a thread may be armed late, such as each 50 ms. Tells each
    /// thread that was armed, and, once, each that does not settle.
    pub fn poll(&self, clocks: Clocks, mut tell: impl FnMut(&Sitter, Turn)) {
        let Guard { seats, slots, .. } = self.guard;
        if !slots.any_settles() {
            return;
        }
        for seated in seats.taken() {
            let Some(sitter) = self.sitter(seated.seat) else { continue };
            match decide(&sitter.seat, clocks.monotonic, sitter.settle_for) {
                Decision::Wait => {}
                Decision::Arm => {
                    seats.arm(&seated);
                    slots.armed_from_outside(sitter.holder.0, clocks.boottime);
                    tell(&sitter, Turn::Armed);
                }
                Decision::Overdue(why) => {
                    seats.told(&seated);
                    tell(&sitter, Turn::NotSettled(why));
                }
            }
        }
    }

    /// `None`: the thread has outlived its container's slot.
    fn sitter(&self, seat: qc_seat) -> Option<Sitter> {
        let slot = u8::try_from(seat.slot).ok().and_then(Slot::new)?;
        let rules = self.guard.slots.rules(slot);
        let is_its_own = rules.live != 0 && rules.generation == seat.generation;
        let settle_for = Duration::from_nanos(rules.settle_ns);
        is_its_own.then_some(Sitter { holder: (slot, seat.generation), settle_for, seat })
    }
}

/// The time, as the guard's two clocks have it.
#[derive(Debug, Clone, Copy)]
pub struct Clocks {
    pub monotonic: Duration,
    pub boottime: Duration,
}

impl Clocks {
    pub fn now() -> Clocks {
        // Neither is ever before the boot.
        let read = |clock| Duration::try_from(clock_gettime(clock)).unwrap_or_default();
        Clocks { monotonic: read(ClockId::Monotonic), boottime: read(ClockId::Boottime) }
    }
}
