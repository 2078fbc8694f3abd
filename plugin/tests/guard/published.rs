//! The acceptance list of the selftest that was published with the patches of 2017 (tools/testing/selftests/
//! task_isolation/isolation.c, v16): its programs need no change.

use quietcore::{
    arm::plan::Provider,
    guard::{
        abi::{
            QC_EXCEPTION, QC_F_SIGNALLED, QC_INTERRUPT, QC_KIND_ARM_REFUSED, QC_KIND_CALL_FUNCTION,
            QC_REFUSED_AFFINITY, QC_SYSCALL, qc_record,
        },
        detector::Detector,
    },
    policy::effective::Action,
};

use crate::stand::{Run, Stand, enforce};

const EINVAL: &str = "-22";
const SIGKILL: i32 = 9;
const SIGUSR1: u32 = 10;

/// Under v16 every class has its signal: the policy's actions are for those who ask for nothing.
fn run(stand: &Stand, day: &str, signal: u32) -> Run {
    stand.run_entries(&enforce([Action::Ignore; 4]), day, signal)
}

#[track_caller]
fn signalled(run: &Run) -> qc_record {
    let records: Vec<_> =
        run.records.iter().filter(|record| record.flags & QC_F_SIGNALLED != 0).copied().collect();
    assert_eq!(records.len(), 1, "one-shot: {records:?}");
    records[0]
}

/// On a core that ticks, a tick may have come first.
#[track_caller]
fn check_class(stand: &Stand, record: &qc_record, class: u32) {
    let ticks = stand.guard().detector == Detector::Tracepoint;
    let class_found = u32::from(record.class);
    assert!(class_found == class || ticks && class_found == QC_INTERRUPT, "{record:?}");
}

#[track_caller]
fn check_kills(day: &str, class: u32) {
    let stand = Stand::new();
    let run = run(&stand, day, 0);
    assert_eq!(run.signal, Some(SIGKILL));
    assert!(!run.output.contains("alive"), "{}", run.output);
    let record = signalled(&run);
    assert_eq!(record.signal, 9);
    check_class(&stand, &record, class);
}

#[track_caller]
fn check_signals(day: &str, class: u32) {
    let stand = Stand::new();
    let run = run(&stand, day, SIGUSR1);
    assert_eq!((run.code, run.told("signals").as_str()), (Some(0), "1"));
    let record = signalled(&run);
    assert_eq!(record.signal, SIGUSR1);
    check_class(&stand, &record, class);
}

#[test]
fn a_thread_that_is_not_affine_to_one_granted_cpu_gets_einval_where_the_kernel_can_say_it() {
    let stand = Stand::new();
    let run = stand.run_entries(&enforce([Action::Report; 4]), "unaffine", 0);
    let expect = if stand.guard().provider == Provider::Seccomp { "0" } else { EINVAL };
    assert_eq!(run.told("ret"), expect);
    assert_eq!(run.only(QC_KIND_ARM_REFUSED).detail, u64::from(QC_REFUSED_AFFINITY));
}

#[test]
fn a_fault_on_an_unpopulated_mapping_kills() {
    check_kills("published-fault", QC_EXCEPTION);
}

#[test]
fn a_fault_on_an_unpopulated_mapping_signals() {
    check_signals("published-fault", QC_EXCEPTION);
}

#[test]
fn a_write_kills() {
    check_kills("published-write", QC_SYSCALL);
}

#[test]
fn a_write_signals() {
    check_signals("published-write", QC_SYSCALL);
}

#[test]
fn a_tlb_flush_by_another_threads_munmap_kills() {
    check_kills("published-tlb-flush", QC_INTERRUPT);
}

#[test]
fn a_tlb_flush_by_another_threads_munmap_signals() {
    let stand = Stand::new();
    let run = run(&stand, "published-tlb-flush", SIGUSR1);
    assert_eq!((run.code, run.told("signals").as_str()), (Some(0), "1"));
    let record = signalled(&run);
    if stand.guard().detector == Detector::Edge {
        assert_eq!(u32::from(record.kind), QC_KIND_CALL_FUNCTION, "nothing else comes on such a core");
    }
    check_class(&stand, &record, QC_INTERRUPT);
}

#[test]
fn once_it_is_off_a_write_is_a_write() {
    let stand = Stand::new();
    let run = run(&stand, "published-off", SIGUSR1);
    assert_eq!((run.code, run.told("signals").as_str()), (Some(0), "0"));
    assert!(run.records.iter().all(|record| record.flags & QC_F_SIGNALLED == 0));
}
