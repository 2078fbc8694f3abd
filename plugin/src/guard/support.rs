//! Step 7: what this kernel offers the guard. Facts first, then the rule; features are tested for, never
//! kernel versions.

use std::io;

use super::{
    detector::Detector,
    tracepoints::{GROUPS, Group},
};
use libbpf_rs::btf::{
    Btf,
    types::{Func, Typedef},
};

#[derive(Debug, thiserror::Error)]
pub enum SupportError {
    #[error("this kernel has no BTF at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf(#[source] libbpf_rs::Error),
    #[error("this kernel has no tracepoint {name}, and {why}: {remedy}")]
    NoTracepoint { name: &'static str, why: &'static str, remedy: &'static str },
    #[error("{path} is not on a bpffs: mount one (mount -t bpf bpf /sys/fs/bpf)")]
    NoBpffs { path: String },
    #[error("look at the file system of {path}")]
    Statfs { path: String, source: io::Error },
}

/// The kernel's tracepoints, by the typedef that BTF has for each (include/trace/bpf_probe.h).
#[derive(Debug)]
pub struct Kernel {
    btf: Btf<'static>,
}

impl Kernel {
    pub fn probe() -> Result<Kernel, SupportError> {
        Ok(Kernel { btf: Btf::from_vmlinux().map_err(SupportError::NoBtf)? })
    }

    pub fn has_tracepoint(&self, name: &str) -> bool {
        self.btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}")).is_some()
    }

    /// A function that BPF programs may call; plain functions are in BTF too.
    pub fn has_function(&self, name: &str) -> bool {
        self.btf.type_by_name::<Func<'_>>(name).is_some()
    }

    pub fn can_guard(&self, detector: Detector) -> Result<(), SupportError> {
        let needed = GROUPS.iter().filter(|group| group.need.is_of(detector));
        let missing =
            |group: &Group| group.tracepoints.iter().copied().find(|name| !self.has_tracepoint(name));
        match needed.filter_map(|group| Some((group, missing(group)?))).next() {
            Some((&Group { why, remedy, .. }, name)) => Err(SupportError::NoTracepoint { name, why, remedy }),
            None => Ok(()),
        }
    }
}
