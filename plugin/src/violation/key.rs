//! Step 8: what makes two happenings "the same thing again". Pure.

use std::sync::Arc;

use crate::{
    policy::effective::Class,
    violation::{
        blame::Blame,
        happening::{Cause, Happening, Refused, Story, SyscallAbi},
    },
};

/// Equal keys are "the same thing again".
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    pub whom: Whom,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Whom {
    Container { pod_uid: Arc<str>, container: Arc<str> },
    Node,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum What {
    /// By number and place.
    Syscall {
        number: u64,
        abi: SyscallAbi,
        ip: u64,
    },
    Exception {
        ip: u64,
    },
    /// An interrupt is not the interrupted instruction's doing: one series wherever it hits.
    Interrupt {
        kind: InterruptKind,
    },
    Hardware {
        mce: bool,
    },
    ArmRefused(Refused),
    LeftCore,
    /// What other steps have to say: by reason and text.
    Told {
        reason: &'static str,
        note: Arc<str>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum InterruptKind {
    Tick,
    Ipi { kind: Ipi, by: Option<Arc<str>>, function: Option<u64> },
    Device(u64),
    SwitchTo(Arc<str>),
    CameOn(Arc<str>),
    Vector(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ipi {
    Reschedule,
    CallFunction,
    IrqWork,
}

impl What {
    /// `None`: nothing to tell anybody.
    pub fn of(happening: &Happening) -> Option<What> {
        let ip = happening.ip;
        let interrupt = |kind| What::Interrupt { kind };
        let entry = match &happening.story {
            Story::Armed | Story::Disarmed => return None,
            Story::ArmRefused(refused) => return Some(What::ArmRefused(*refused)),
            Story::LeftCore => return Some(What::LeftCore),
            Story::CameOn => {
                let came = happening.blame.came.as_ref()?;
                return Some(interrupt(InterruptKind::CameOn(came.task.comm.as_str().into())));
            }
            Story::Entry(entry) => entry,
        };
        Some(match &entry.cause {
            Cause::Syscall { number, abi, .. } => What::Syscall { number: *number, abi: *abi, ip },
            Cause::PageFault { .. } | Cause::Trap { .. } => What::Exception { ip },
            Cause::Tick => interrupt(InterruptKind::Tick),
            Cause::Reschedule => interrupt(ipi(Ipi::Reschedule, &happening.blame)),
            Cause::CallFunction => interrupt(ipi(Ipi::CallFunction, &happening.blame)),
            Cause::IrqWork => interrupt(ipi(Ipi::IrqWork, &happening.blame)),
            Cause::DeviceIrq { irq, .. } => interrupt(InterruptKind::Device(*irq)),
            Cause::Switch { comm, .. } => interrupt(InterruptKind::SwitchTo(comm.as_str().into())),
            Cause::Vector(vector) => interrupt(InterruptKind::Vector(*vector)),
            Cause::Nmi => What::Hardware { mce: false },
            Cause::MachineCheck => What::Hardware { mce: true },
        })
    }

    /// What shares a bucket.
    pub(super) fn topic(&self) -> Topic {
        match self {
            What::Syscall { .. } => Topic::Entry(Class::Syscall),
            What::Exception { .. } => Topic::Entry(Class::Exception),
            What::Interrupt { .. } => Topic::Entry(Class::Interrupt),
            What::Hardware { .. } => Topic::Entry(Class::MachineCheck),
            What::ArmRefused(_) => Topic::Arming,
            What::LeftCore => Topic::LeftCore,
            What::Told { reason, .. } => Topic::Told(reason),
        }
    }
}

/// Whoever sends another one, or for another purpose, does another thing.
fn ipi(kind: Ipi, blame: &Blame) -> InterruptKind {
    let sender = blame.sender.as_ref();
    InterruptKind::Ipi {
        kind,
        by: sender.map(|sender| sender.task.comm.as_str().into()),
        function: sender.and_then(|sender| sender.function),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Entry(Class),
    Arming,
    LeftCore,
    Told(&'static str),
}
