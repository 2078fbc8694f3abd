//! What is told of one thing that matters: is it as it should be, why does it matter, what to do. Pure.

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    Good,
    Missing,
    NotHere,
    Unknown,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Missing => "missing",
            State::NotHere => "not here",
            State::Unknown => "unknown",
        }
    }
}

/// In the order in which they are told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Group {
    Detecting,
    Scheduler,
    Interrupts,
    Memory,
    Power,
    Kubernetes,
}

impl Group {
    pub fn name(self) -> &'static str {
        match self {
            Group::Detecting => "detecting",
            Group::Scheduler => "scheduler",
            Group::Interrupts => "interrupts",
            Group::Memory => "memory",
            Group::Power => "power",
            Group::Kubernetes => "kubernetes",
        }
    }
}

/// One thing that a node may have or not.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    pub group: Group,
    pub name: &'static str,
    pub why: &'static str,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    pub group: Group,
    pub item: &'static str,
    pub state: State,
    pub found: String,
    pub why: &'static str,
    pub remedy: String,
    /// What it lets into the core that has most of it. `None`: not measured, or nothing that enters a core comes of it.
    pub entries_per_minute: Option<f64>,
}

impl Item {
    pub fn is(&self, state: State, found: impl Into<String>, remedy: impl Into<String>) -> Finding {
        Finding {
            group: self.group,
            item: self.name,
            state,
            found: found.into(),
            why: self.why,
            remedy: remedy.into(),
            entries_per_minute: None,
        }
    }

    pub fn good_or_missing(
        &self,
        good: bool,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Finding {
        self.is(if good { State::Good } else { State::Missing }, found, remedy)
    }

    pub fn not_here(&self, found: impl Into<String>) -> Finding {
        self.is(State::NotHere, found, NOTHING_TO_DO)
    }
}

pub const NOTHING_TO_DO: &str = "nothing needs to change";
