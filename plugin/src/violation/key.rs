//! Step 8: what makes two happenings "the same thing again". Pure.

use std::sync::Arc;

use crate::{
    policy::effective::Class,
    violation::happening::{Cause, Happening, Refused, Story, SyscallAbi},
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
    Reschedule,
    CallFunction,
    IrqWork,
    Device(u64),
    SwitchTo(Arc<str>),
    Vector(u64),
}

impl What {
    /// `None`: nothing to tell anybody.
    pub fn of(happening: &Happening) -> Option<What> {
        let ip = happening.ip;
        let entry = match &happening.story {
            Story::Armed | Story::Disarmed => return None,
            Story::ArmRefused(refused) => return Some(What::ArmRefused(*refused)),
            Story::LeftCore => return Some(What::LeftCore),
            Story::Entry(entry) => entry,
        };
        let interrupt = |kind| What::Interrupt { kind };
        Some(match &entry.cause {
            Cause::Syscall { number, abi, .. } => What::Syscall { number: *number, abi: *abi, ip },
            Cause::PageFault { .. } | Cause::Trap { .. } => What::Exception { ip },
            Cause::Tick => interrupt(InterruptKind::Tick),
            Cause::Reschedule => interrupt(InterruptKind::Reschedule),
            Cause::CallFunction => interrupt(InterruptKind::CallFunction),
            Cause::IrqWork => interrupt(InterruptKind::IrqWork),
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

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Topic {
    Entry(Class),
    Arming,
    LeftCore,
    Told(&'static str),
}
