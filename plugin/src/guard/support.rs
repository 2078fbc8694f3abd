//! Step 7: what this kernel offers the guard. Facts first, then the rule; features are tested for, never
//! kernel versions.

use std::io;

use super::detector::Detector;
use libbpf_rs::btf::{
    Btf,
    types::{Func, Typedef},
};

/// Tracepoints without which entries would be missed, or counted twice. The others (NMI, machine checks, rare
/// vectors) exist where the hardware's support was built in.
const REQUIRED: [&str; 14] = [
    "page_fault_user",
    "local_timer_entry",
    "reschedule_entry",
    "call_function_entry",
    "call_function_single_entry",
    "irq_work_entry",
    "irq_work_exit",
    "irq_handler_entry",
    "sched_switch",
    "sched_process_fork",
    "sched_process_exec",
    "sched_migrate_task",
    "signal_generate",
    "signal_deliver",
];

#[derive(Debug, thiserror::Error)]
pub enum SupportError {
    #[error("this kernel has no BTF at /sys/kernel/btf/vmlinux: it needs CONFIG_DEBUG_INFO_BTF=y")]
    NoBtf(#[source] libbpf_rs::Error),
    #[error("this kernel has no tracepoint {0}: the guard would miss entries of its class")]
    NoTracepoint(&'static str),
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
        let entries = match detector {
            Detector::Edge => ["user_exit", "user_enter"],
            Detector::Tracepoint => ["sys_enter", "sys_exit"],
        };
        match REQUIRED.into_iter().chain(entries).find(|name| !self.has_tracepoint(name)) {
            Some(missing) => Err(SupportError::NoTracepoint(missing)),
            None => Ok(()),
        }
    }
}
