//! What a violation's signal carries: its class and its cause, as the program reads them by the crate that is made
//! for it.

use std::collections::BTreeSet;

use quietcore::{
    guard::{abi, abi::qc_record, support::Kernel},
    policy::effective::Action,
};
use quietcore_abi::{Cause, Class, Violation};

use crate::{
    blame::{end, on},
    counts::only,
    stand::{Run, Stand, number, story},
};

const NR_WRITE: u16 = 1;
const NR_GETPPID: u16 = 110;
const SIGILL: u16 = 4;

/// What the record of the same entry says.
fn recorded(record: &qc_record) -> Violation {
    let class = match u32::from(record.class) {
        abi::QC_SYSCALL => Class::Syscall,
        abi::QC_EXCEPTION => Class::Exception,
        abi::QC_INTERRUPT => Class::Interrupt,
        class => panic!("class {class} has no signal"),
    };
    let number = u16::try_from(record.detail).ok();
    let cause = match u32::from(record.kind) {
        abi::QC_KIND_SYSCALL if record.flags & abi::QC_F_COMPAT != 0 => Cause::Syscall32(number),
        abi::QC_KIND_SYSCALL => Cause::Syscall(number),
        // arch/x86/include/asm/trap_pf.h
        abi::QC_KIND_PAGE_FAULT => Cause::PageFault {
            protection: record.code & 1 != 0,
            write: record.code & 2 != 0,
            fetch: record.code & 16 != 0,
        },
        abi::QC_KIND_TRAP => Cause::Trap(number.unwrap()),
        abi::QC_KIND_TICK => Cause::Tick,
        abi::QC_KIND_RESCHEDULE => Cause::Reschedule,
        abi::QC_KIND_CALL_FUNCTION => Cause::CallFunction,
        abi::QC_KIND_IRQ_WORK => Cause::IrqWork,
        abi::QC_KIND_DEVICE_IRQ => Cause::Device(number),
        abi::QC_KIND_VECTOR => Cause::Vector(number.unwrap()),
        abi::QC_KIND_SWITCH => Cause::Switch,
        kind => panic!("kind {kind} is no entry that is signalled"),
    };
    Violation { class, cause }
}

/// bpf_send_signal_task: since 6.13.
pub(crate) fn kernel_can_carry() -> bool {
    Kernel::probe().unwrap().has_function("bpf_send_signal_task")
}

/// Of each signal, in the order in which they came; `None` where the kernel cannot carry it.
fn carried(run: &Run) -> Vec<Option<Violation>> {
    let values = run.list("carried");
    values.into_iter().map(|value| Violation::from_value(value.try_into().unwrap())).collect()
}

/// Where one was sent late and another waited, too, its value says the class alone.
#[track_caller]
pub(crate) fn check_values<'a>(run: &Run, sent: impl IntoIterator<Item = &'a qc_record>) {
    const SI_KERNEL: u64 = 0x80;
    assert_eq!(number(&run.told("code")), SI_KERNEL);
    let (can_carry, carried, sent) = (kernel_can_carry(), carried(run), Vec::from_iter(sent));
    assert_eq!(carried.len(), sent.len());
    for (carried, record) in carried.into_iter().zip(sent) {
        let exact = recorded(record);
        let late = record.flags & abi::QC_F_SEND_FAILED != 0;
        let unknown = Violation { cause: Cause::Unknown, ..exact };
        let right = carried == can_carry.then_some(exact) || late && carried == Some(unknown);
        assert!(right, "{carried:?}: {record:?}");
    }
}

/// The causes of the signals, in order.
#[track_caller]
fn check(class: u32, day: &str, n: u32, expected: &[Cause]) {
    let stand = Stand::new();
    let run = stand.run_entries(&only(class, Action::Report), day, n);
    let sent: Vec<_> = run.records.iter().filter(|record| record.kind < 16 && record.signal != 0).collect();
    check_values(&run, sent.iter().copied());
    let causes: Vec<_> = sent.iter().map(|record| recorded(record).cause).collect();
    assert_eq!((causes.as_slice(), run.list("told").len()), (expected, expected.len()), "{}", run.output);
}

#[test]
fn siginfo_carries_the_number_of_a_system_call() {
    check(abi::QC_SYSCALL, "signal-each-call", 2, &[Cause::Syscall(Some(NR_GETPPID)); 2]);
}

#[test]
fn siginfo_tells_a_32_bit_call_and_one_that_does_not_exist_from_write() {
    const I386_UMASK: u16 = 60;
    let one = [Cause::Syscall32(Some(I386_UMASK)), Cause::Syscall(None), Cause::Syscall(Some(NR_WRITE))];
    check(abi::QC_SYSCALL, "signal-strange-calls", 2, &[one, one].concat());
}

#[test]
fn siginfo_carries_how_a_page_was_touched() {
    let written = Cause::PageFault { write: true, fetch: false, protection: false };
    check(abi::QC_EXCEPTION, "signal-each-fault", 3, &[written; 3]);
}

#[test]
fn siginfo_carries_the_signal_that_a_trap_became() {
    let read = Cause::PageFault { write: false, fetch: false, protection: false };
    let one = [Cause::Trap(SIGILL), read];
    check(abi::QC_EXCEPTION, "signal-each-trap", 2, &[one, one].concat());
}

#[test]
fn where_an_exception_has_a_signal_of_its_own_ours_comes_before_its_handler() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(abi::QC_EXCEPTION, Action::Report), "signal-each-trap", 10);
    assert_eq!(run.list("told"), vec![number(&run.told("resume_there")); 20]);
}

#[test]
fn a_call_that_would_sleep_is_interrupted_by_its_signal() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(abi::QC_SYSCALL, Action::Report), "signal-a-sleep", 0);
    let call = run.only(abi::QC_KIND_SYSCALL);
    assert_eq!((run.told("ret").as_str(), run.list("told")), ("-4", vec![call.ip]), "EINTR");
}

/// Siblings wake tasks on the core and call functions there, a task comes on, and a core without nohz_full ticks.
#[test]
fn siginfo_tells_the_interrupts_apart() {
    let stand = Stand::new();
    let policy = only(abi::QC_INTERRUPT, Action::Report);
    let run = stand.start_entries(&policy, "signal-each-interrupt", 2_000);
    // Beside it the tick could not stop, and the core would not be ready.
    stand.wait_until("it is armed", |records| story(records).contains(&abi::QC_KIND_ARMED));
    let hog = on("1", &["sh", "-c", "while :; do :; done"]);
    let run = run.finish(&stand);
    end(hog);
    let sent: Vec<_> = run.records.iter().filter(|record| record.kind < 16).collect();
    check_values(&run, sent.iter().copied());
    let causes: BTreeSet<_> = sent.iter().map(|record| recorded(record).to_string()).collect();
    for cause in ["timer tick", "reschedule IPI", "function call IPI"] {
        assert!(causes.contains(cause), "no {cause} in {causes:?}");
    }
}

#[test]
fn the_published_form_carries_the_same() {
    let stand = Stand::new();
    let run = stand.run_entries(&only(abi::QC_MACHINE_CHECK, Action::Ignore), "one-signal", 12);
    let sent = run.records.iter().filter(|record| record.flags & abi::QC_F_SIGNALLED != 0);
    check_values(&run, sent);
}
