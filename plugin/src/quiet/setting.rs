//! Step 3: one setting: a file of the kernel, what it must say, and what it is called. Pure.

use std::{io, path::PathBuf};

use nix::errno::Errno;
use serde::{Deserialize, Serialize};

use super::want::Want;
use crate::cores::set::CpuSet;

/// What a setting is about: who is told of it, and in which part of the node's object it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Area {
    /// One interrupt's affinity.
    Interrupt,
    /// Something of the whole node.
    Node,
    /// Something of one granted core.
    Core,
    /// A container's cgroup, or one above it.
    Cgroup,
    /// A cgroup of somebody else.
    OthersCgroup,
}

impl Area {
    pub fn is_cgroup(self) -> bool {
        matches!(self, Area::Cgroup | Area::OthersCgroup)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub area: Area,
    /// As people know it: vm.stat_interval, interrupt 24 (nvme0q1).
    pub name: String,
    pub file: PathBuf,
    pub want: Want,
    /// Where the kernel says what it made of it: an interrupt that it places by itself may be elsewhere all the same.
    pub effective: Option<PathBuf>,
    /// The granted CPUs that hang on it.
    pub cpus: CpuSet,
}

/// How it stands with a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It needed nothing, or was set.
    Kept {
        before: String,
        now: String,
    },
    /// This kernel, or this device, has no such file.
    Absent,
    Refused {
        found: String,
        why: String,
    },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    pub setting: Setting,
    pub state: State,
}

/// Somebody else changed what is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    pub setting: Setting,
    pub found: String,
    pub wanted: String,
    /// Why it could not be set again.
    pub refused: Option<String>,
}

/// What an error of a read or a write means for a setting. `None`: there is no such thing here.
pub(super) fn why(error: &io::Error, area: Area) -> Option<String> {
    let errno = error.raw_os_error().map(Errno::from_raw);
    let words = match (errno, area) {
        // A device without such a queue says EINVAL or EOPNOTSUPP where its file is read.
        // A daemon that died left its socket.
        (Some(Errno::ENOENT | Errno::ENODEV | Errno::ENXIO | Errno::EOPNOTSUPP | Errno::ECONNREFUSED), _) => {
            return None;
        }
        (Some(Errno::EROFS), _) => {
            "it is read-only here: give the agent the host's /proc and /sys writable (--host-root)".to_owned()
        }
        // kernel/irq/proc.c: a managed interrupt says EPERM or EIO, by kernel.
        (Some(Errno::EIO | Errno::EPERM), Area::Interrupt) => {
            "the kernel places it by itself (managed interrupt): boot with isolcpus=managed_irq".to_owned()
        }
        (Some(Errno::EPERM | Errno::EACCES), _) => {
            format!("{error}: kernel lockdown, or a missing privilege of the agent")
        }
        _ => error.to_string(),
    };
    Some(words)
}
