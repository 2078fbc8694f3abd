//! Every reason that an Event or a condition can have: the only place where they are named.

/// Why an Event was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// An armed thread entered the kernel.
    KernelEntry,
    /// A thread asked to be armed and could not be.
    ArmRefused,
    /// A thread that is armed once it is quiet was not for a minute.
    NotSettled,
    /// The policy's `enforceFor` is over: from here on the container is only reported.
    EnforcementEnded,
    /// An armed thread's affinity is no longer one granted CPU; it was disarmed.
    LeftCore,
    /// The guard's ring had no room for records of this container.
    RecordsLost,
    /// Events were dropped because the API server was away too long.
    EventsDropped,
    /// The policy of a running container was edited or deleted; it keeps what it started with.
    PolicyChanged,
    /// A container was created under a remembered policy, while the API server was away.
    PolicyStale,
    /// The agent restarted and found a container that should be strict and is not.
    Unprotected,
    /// A setting that keeps a granted core quiet was changed by somebody else, and set again.
    DriftRepaired,
    /// A setting that keeps a granted core quiet was changed by somebody else, and cannot be set again.
    DriftRefused,
    /// A container's cores are no longer there.
    CoresUnavailable,
    /// A container was granted cores that lack what its policy prefers.
    NotAsQuiet,
    /// What `kubectl exec` or a probe started in the container may run on its cores.
    VisitorOnCore,
}

impl Reason {
    pub const ALL: [Reason; 15] = [
        Reason::KernelEntry,
        Reason::ArmRefused,
        Reason::NotSettled,
        Reason::EnforcementEnded,
        Reason::LeftCore,
        Reason::RecordsLost,
        Reason::EventsDropped,
        Reason::PolicyChanged,
        Reason::PolicyStale,
        Reason::Unprotected,
        Reason::DriftRepaired,
        Reason::DriftRefused,
        Reason::CoresUnavailable,
        Reason::NotAsQuiet,
        Reason::VisitorOnCore,
    ];

    /// As Events and metrics carry it.
    pub fn text(self) -> &'static str {
        match self {
            Reason::KernelEntry => "KernelEntry",
            Reason::ArmRefused => "ArmRefused",
            Reason::NotSettled => "NotSettled",
            Reason::EnforcementEnded => "EnforcementEnded",
            Reason::LeftCore => "LeftCore",
            Reason::RecordsLost => "RecordsLost",
            Reason::EventsDropped => "EventsDropped",
            Reason::PolicyChanged => "PolicyChanged",
            Reason::PolicyStale => "PolicyStale",
            Reason::Unprotected => "Unprotected",
            Reason::DriftRepaired => "DriftRepaired",
            Reason::DriftRefused => "DriftRefused",
            Reason::CoresUnavailable => "CoresUnavailable",
            Reason::NotAsQuiet => "NotAsQuiet",
            Reason::VisitorOnCore => "VisitorOnCore",
        }
    }

    /// An Event's `type`.
    pub fn event_type(self) -> &'static str {
        match self {
            Reason::EnforcementEnded
            | Reason::PolicyChanged
            | Reason::PolicyStale
            | Reason::DriftRepaired => "Normal",
            Reason::KernelEntry
            | Reason::ArmRefused
            | Reason::NotSettled
            | Reason::LeftCore
            | Reason::RecordsLost
            | Reason::EventsDropped
            | Reason::Unprotected
            | Reason::DriftRefused
            | Reason::CoresUnavailable
            | Reason::NotAsQuiet
            | Reason::VisitorOnCore => "Warning",
        }
    }

    /// What the agent did, an Event's `action`.
    pub fn action(self) -> &'static str {
        match self {
            Reason::KernelEntry | Reason::LeftCore | Reason::EnforcementEnded => "Watching",
            Reason::ArmRefused | Reason::NotSettled => "Arming",
            Reason::RecordsLost | Reason::EventsDropped => "Reporting",
            Reason::PolicyChanged | Reason::PolicyStale | Reason::Unprotected | Reason::VisitorOnCore => {
                "Checking"
            }
            Reason::DriftRepaired | Reason::DriftRefused | Reason::CoresUnavailable | Reason::NotAsQuiet => {
                "Quieting"
            }
        }
    }
}

/// Why a condition of a `DataplanePolicy` or `DataplaneNode` is as it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConditionReason {
    /// Policy, Accepted=True: agents can keep it.
    PolicyAccepted,
    /// Policy, Accepted=False: pods that name it are not created; the message says what to change.
    PolicyRefused,
    /// Node, Ready=True: pods can get cores.
    Serving,
    /// Node, Ready=False: another node publishes the cores of this machine.
    StandBy,
    /// Node, Ready=False: not connected to the container runtime.
    NoRuntime,
    /// Node, Ready=False: the runtime's NRI cannot start strict pods.
    RuntimeTooOld,
    /// Node, Ready=False: not registered with the kubelet.
    NoKubelet,
    /// Node, Ready=False and Released=False: asked to let go; nothing strict runs, and nothing strict starts.
    Cordoned,
    /// Node, Ready=False and Released=True: given back.
    Released,
    /// Node, Released=False: strict pods still run; the message names them.
    StrictPodsRunning,
    /// Node, Quiet=True: everything this kernel can keep away from granted cores is kept away.
    AllKept,
    /// Node, Quiet=False: the message names what is not, and what to do.
    NotAllKept,
    /// Node, RebootRequired=False: the boot settings that were written are in force, or none were.
    InForce,
    /// Node, RebootRequired=Unknown: what `quietcore node apply` wrote down cannot be read; the message says why.
    NotKnown,
    /// Node, RebootRequired=True: the message names what is not in force yet.
    NotInForce,
    /// Node, Conflicted=False.
    NobodyElse,
    /// Node, Conflicted=True: somebody else sets cpusets here; the message names who, and what to change.
    OthersSetCpus,
}

impl ConditionReason {
    pub const ALL: [ConditionReason; 17] = [
        ConditionReason::PolicyAccepted,
        ConditionReason::PolicyRefused,
        ConditionReason::Serving,
        ConditionReason::StandBy,
        ConditionReason::NoRuntime,
        ConditionReason::RuntimeTooOld,
        ConditionReason::NoKubelet,
        ConditionReason::Cordoned,
        ConditionReason::Released,
        ConditionReason::StrictPodsRunning,
        ConditionReason::AllKept,
        ConditionReason::NotAllKept,
        ConditionReason::InForce,
        ConditionReason::NotInForce,
        ConditionReason::NotKnown,
        ConditionReason::NobodyElse,
        ConditionReason::OthersSetCpus,
    ];

    pub fn text(self) -> &'static str {
        match self {
            ConditionReason::PolicyAccepted => "PolicyAccepted",
            ConditionReason::PolicyRefused => "PolicyRefused",
            ConditionReason::Serving => "Serving",
            ConditionReason::StandBy => "StandBy",
            ConditionReason::NoRuntime => "NoRuntime",
            ConditionReason::RuntimeTooOld => "RuntimeTooOld",
            ConditionReason::NoKubelet => "NoKubelet",
            ConditionReason::Cordoned => "Cordoned",
            ConditionReason::Released => "Released",
            ConditionReason::StrictPodsRunning => "StrictPodsRunning",
            ConditionReason::AllKept => "AllKept",
            ConditionReason::NotAllKept => "NotAllKept",
            ConditionReason::InForce => "InForce",
            ConditionReason::NotKnown => "NotKnown",
            ConditionReason::NotInForce => "NotInForce",
            ConditionReason::NobodyElse => "NobodyElse",
            ConditionReason::OthersSetCpus => "OthersSetCpus",
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// metav1.Condition's own pattern allows more; Events have no pattern at all.
    #[test]
    fn a_reason_is_one_word_in_pascal_case_and_no_two_are_the_same() {
        let texts: Vec<&str> = Reason::ALL
            .into_iter()
            .map(Reason::text)
            .chain(ConditionReason::ALL.into_iter().map(ConditionReason::text))
            .collect();
        for text in &texts {
            assert!(text.starts_with(|first: char| first.is_ascii_uppercase()), "{text}");
            assert!(text.chars().all(|letter| letter.is_ascii_alphanumeric()), "{text}");
        }
        assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len());
    }
}
