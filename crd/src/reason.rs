//! Every reason that an Event or a condition can have: the only place where they are named.

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// An armed thread entered the kernel.
    KernelEntry,
    /// A thread asked to be armed and could not be.
    ArmRefused,
    /// An armed thread's affinity is no longer one granted CPU; it was disarmed.
    LeftCore,
    /// The guard's ring had no room for records of this container.
    RecordsLost,
    /// Events were dropped because the API server was away too long.
    EventsDropped,
    /// The policy of a running container was edited or deleted; it keeps what it started with.
    PolicyChanged,
    /// The agent restarted and found a container that should be strict and is not.
    Unprotected,
}

impl Reason {
    pub const ALL: [Reason; 7] = [
        Reason::KernelEntry,
        Reason::ArmRefused,
        Reason::LeftCore,
        Reason::RecordsLost,
        Reason::EventsDropped,
        Reason::PolicyChanged,
        Reason::Unprotected,
    ];

    /// As Events, conditions and metrics carry it.
    pub fn text(self) -> &'static str {
        match self {
            Reason::KernelEntry => "KernelEntry",
            Reason::ArmRefused => "ArmRefused",
            Reason::LeftCore => "LeftCore",
            Reason::RecordsLost => "RecordsLost",
            Reason::EventsDropped => "EventsDropped",
            Reason::PolicyChanged => "PolicyChanged",
            Reason::Unprotected => "Unprotected",
        }
    }

    /// An Event's `type`.
    pub fn event_type(self) -> &'static str {
        match self {
            Reason::PolicyChanged => "Normal",
            _ => "Warning",
        }
    }

    /// What the agent did, an Event's `action`.
    pub fn action(self) -> &'static str {
        match self {
            Reason::KernelEntry | Reason::LeftCore => "Watching",
            Reason::ArmRefused => "Arming",
            Reason::RecordsLost | Reason::EventsDropped => "Reporting",
            Reason::PolicyChanged | Reason::Unprotected => "Checking",
        }
    }
}
