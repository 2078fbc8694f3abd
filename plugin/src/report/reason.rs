//! Step 9: the reasons of our Events.

/// PascalCase as in the API conventions; stands in the Event's `reason`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    KernelEntry,
    ArmRefused,
    LeftCore,
    RecordsLost,
    EventsDropped,
    PolicyChanged,
    PolicyStale,
    PolicyRefused,
    CoresUnavailable,
    Unprotected,
    NotSettled,
    EnforceExpired,
    Released,
    StrictPodsRunning,
}

impl Reason {
    pub fn text(self) -> &'static str {
        match self {
            Reason::KernelEntry => "KernelEntry",
            Reason::ArmRefused => "ArmRefused",
            Reason::LeftCore => "LeftCore",
            Reason::RecordsLost => "RecordsLost",
            Reason::EventsDropped => "EventsDropped",
            Reason::PolicyChanged => "PolicyChanged",
            Reason::PolicyStale => "PolicyStale",
            Reason::PolicyRefused => "PolicyRefused",
            Reason::CoresUnavailable => "CoresUnavailable",
            Reason::Unprotected => "Unprotected",
            Reason::NotSettled => "NotSettled",
            Reason::EnforceExpired => "EnforceExpired",
            Reason::Released => "Released",
            Reason::StrictPodsRunning => "StrictPodsRunning",
        }
    }
}
