//! Step 7: the guard's tracepoints, by what they are for, and what a kernel lacks that lacks them. Without those that
//! are needed entries would be missed, or counted twice; the others exist where the hardware's support was built in.
//! Pure.

use super::detector::Detector;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Always,
    Edge,
    Tracepoint,
    Optional,
}

impl Need {
    pub fn is_of(self, detector: Detector) -> bool {
        match self {
            Need::Always => true,
            Need::Edge => detector == Detector::Edge,
            Need::Tracepoint => detector == Detector::Tracepoint,
            Need::Optional => false,
        }
    }
}

#[derive(Debug)]
pub struct Group {
    pub item: &'static str,
    pub need: Need,
    pub tracepoints: &'static [&'static str],
    pub why: &'static str,
    pub remedy: &'static str,
}

pub const GROUPS: [Group; 7] = [
    Group {
        item: "tracepoints of system calls",
        need: Need::Tracepoint,
        tracepoints: &["sys_enter", "sys_exit"],
        why: "the Tracepoint detector sees system calls by them",
        remedy: "use a kernel with CONFIG_FTRACE_SYSCALLS=y",
    },
    Group {
        item: "tracepoint of page faults",
        need: Need::Always,
        tracepoints: &["page_fault_user"],
        why: "page faults of strict threads are seen by it",
        remedy: "use an x86-64 kernel with CONFIG_TRACEPOINTS=y",
    },
    Group {
        item: "tracepoints of interrupts",
        need: Need::Always,
        tracepoints: &[
            "local_timer_entry",
            "local_timer_exit",
            "reschedule_entry",
            "call_function_entry",
            "call_function_single_entry",
            "irq_work_entry",
            "irq_work_exit",
            "irq_handler_entry",
        ],
        why: "interrupts of strict threads are seen and named by them",
        remedy: "use an x86-64 kernel with CONFIG_TRACEPOINTS=y and CONFIG_SMP=y",
    },
    Group {
        item: "tracepoints of scheduler and signals",
        need: Need::Always,
        tracepoints: &[
            "sched_switch",
            "sched_process_fork",
            "sched_process_exec",
            "sched_migrate_task",
            "signal_generate",
            "signal_deliver",
        ],
        why: "threads are followed, and signals excepted, by them",
        remedy: "use a kernel with CONFIG_TRACEPOINTS=y",
    },
    Group {
        item: "tracepoints of context tracking",
        need: Need::Edge,
        tracepoints: &["user_enter", "user_exit"],
        why: "the Edge detector sees every entry by them, at no cost to other CPUs",
        remedy: "use a kernel with CONFIG_NO_HZ_FULL=y",
    },
    Group {
        item: "tracepoint of NMIs",
        need: Need::Optional,
        tracepoints: &["nmi_handler"],
        why: "NMIs are named by it",
        remedy: "nothing needs to change",
    },
    Group {
        item: "tracepoint of machine checks",
        need: Need::Optional,
        tracepoints: &["mce_record"],
        why: "machine checks are named by it",
        remedy: "nothing needs to change",
    },
];
