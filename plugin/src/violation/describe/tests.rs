use expect_test::{Expect, expect};

use crate::{
    guard::abi,
    violation::{describe::describe, happening::Happening, scene::Scene, symbolize::place::Place},
};

fn names(number: u64) -> Option<&'static str> {
    match number {
        1 => Some("write"),
        9 => Some("mmap"),
        39 => Some("getpid"),
        _ => None,
    }
}

fn in_fwd_loop() -> Scene {
    Scene::at(Place::Function { name: "fwd_loop".into(), offset: 0x1c, source: None })
}

fn c_string(text: &str) -> [std::ffi::c_char; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from.cast_signed();
    }
    bytes
}

fn record(kind: u32, class: u32, flags: u32) -> abi::qc_record {
    abi::qc_record {
        kind: kind.try_into().unwrap(),
        class: class.try_into().unwrap(),
        flags,
        ip: 0x40_101c,
        cpu: 5,
        pids: [4711, 31, 0, 0],
        tgids: [4711, 31, 0, 0],
        pid_level: 1,
        signal: 10,
        comm: c_string("l2fwd"),
        ..Default::default()
    }
}

#[track_caller]
fn check(record: abi::qc_record, expect: Expect) {
    let words = Happening::try_from(&record)
        .map_or_else(|e| e.to_string(), |happening| describe(&happening, &in_fwd_loop(), &names));
    expect.assert_eq(&words);
}

fn write_call(flags: u32) -> abi::qc_record {
    abi::qc_record {
        detail: 1,
        args: [1, 0x7ffd_0000_1000, 6, 0xdead, 0xbeef, 0],
        ..record(abi::QC_KIND_SYSCALL, abi::QC_SYSCALL, flags)
    }
}

#[test]
fn a_system_call_names_call_place_thread_and_signal() {
    check(
        write_call(abi::QC_F_SIGNALLED),
        expect![
            "syscall write(2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; args 0x1 0x7ffd00001000 0x6"
        ],
    );
}

#[test]
fn a_frozen_process_comes_with_what_to_do_about_it() {
    let frozen =
        abi::qc_record { action: abi::QC_FREEZE.try_into().unwrap(), ..write_call(abi::QC_F_SIGNALLED) };
    check(
        abi::qc_record { signal: 19, detail: 39, ..frozen },
        expect![
            "syscall getpid(2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): process frozen; on its node gdb -p 4711 or gcore 4711 show where it stands, and kill -CONT 4711, or quietcore resume POD in the agent's container, lets it go on"
        ],
    );
}

#[test]
fn arguments_are_as_many_as_the_call_has() {
    let call = |detail| abi::qc_record { detail, ..write_call(abi::QC_F_SIGNALLED) };
    check(call(39), expect!["syscall getpid(2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent"]);
    check(
        call(9),
        expect![
            "syscall mmap(2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; args 0x1 0x7ffd00001000 0x6 0xdead 0xbeef 0x0"
        ],
    );
    check(
        call(999),
        expect![
            "syscall 999 at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; args 0x1 0x7ffd00001000 0x6"
        ],
    );
}

#[test]
fn a_call_of_another_table_does_not_borrow_a_name() {
    check(
        write_call(abi::QC_F_SIGNALLED | abi::QC_F_COMPAT),
        expect![
            "syscall 1 of the 32-bit table (int 0x80) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; args 0x1 0x7ffd00001000 0x6"
        ],
    );
    check(
        write_call(abi::QC_F_SIGNALLED | abi::QC_F_X32),
        expect![
            "syscall write(2) by the x32 entry at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; args 0x1 0x7ffd00001000 0x6"
        ],
    );
}

#[test]
fn debug_information_adds_file_and_line() {
    let place = Place::Function { name: "fwd_loop".into(), offset: 0, source: Some("l2fwd.c:31".into()) };
    let happening = Happening::try_from(&record(abi::QC_KIND_TICK, abi::QC_INTERRUPT, 0)).unwrap();
    expect!["interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x0 (l2fwd, tid 31, cpu 5, l2fwd.c:31): reported"]
        .assert_eq(&describe(&happening, &Scene::at(place), &names));
}

#[test]
fn a_denied_call_says_so() {
    check(
        write_call(abi::QC_F_DENIED),
        expect![
            "syscall write(2) (denied by seccomp) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported; args 0x1 0x7ffd00001000 0x6"
        ],
    );
}

#[test]
fn what_became_of_the_signal_is_always_said() {
    let tick = |flags| record(abi::QC_KIND_TICK, abi::QC_INTERRUPT, flags);
    check(
        tick(0),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        tick(abi::QC_F_AUDIT | abi::QC_F_DISARMED),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): Audit: SIGUSR1 not sent; disarmed until the program arms again"
        ],
    );
    check(
        tick(abi::QC_F_SIGNALLED | abi::QC_F_ESCALATED | abi::QC_F_DISARMED),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGKILL sent instead of SIGUSR1 (init of a PID namespace ignores it)"
        ],
    );
    check(
        tick(abi::QC_F_SIGNALLED | abi::QC_F_BLOCKED),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent, blocked: stays pending"
        ],
    );
    check(
        tick(abi::QC_F_SIGNALLED | abi::QC_F_IGNORED),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent, ignored by the program (SIG_IGN)"
        ],
    );
    check(
        tick(abi::QC_F_SEND_FAILED),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 not sent yet: tried again at the next entry"
        ],
    );
    check(
        abi::qc_record { signal: 40, ..tick(abi::QC_F_SIGNALLED) },
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): signal 40 sent"
        ],
    );
}

#[test]
fn a_page_fault_tells_access_address_and_kind() {
    let fault = |code| abi::qc_record {
        detail: 0x7f12_3456_7000,
        code,
        ..record(abi::QC_KIND_PAGE_FAULT, abi::QC_EXCEPTION, abi::QC_F_SIGNALLED | abi::QC_F_DISARMED)
    };
    check(
        fault(6),
        expect![
            "exception page fault writing 0x7f1234567000 (not present) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; disarmed until the program arms again"
        ],
    );
    check(
        fault(5),
        expect![
            "exception page fault reading 0x7f1234567000 (not permitted) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; disarmed until the program arms again"
        ],
    );
    check(
        fault(0x14),
        expect![
            "exception page fault executing 0x7f1234567000 (not present) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent; disarmed until the program arms again"
        ],
    );
}

#[test]
fn an_interrupt_names_who_caused_it() {
    let irq = |kind| record(kind, abi::QC_INTERRUPT, 0);
    check(
        irq(abi::QC_KIND_RESCHEDULE),
        expect!["interrupt reschedule IPI at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check(
        irq(abi::QC_KIND_CALL_FUNCTION),
        expect!["interrupt function-call IPI at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check(
        irq(abi::QC_KIND_IRQ_WORK),
        expect!["interrupt irq_work IPI at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check(
        abi::qc_record { detail: 24, who: c_string("virtio0-input.0"), ..irq(abi::QC_KIND_DEVICE_IRQ) },
        expect!["interrupt irq 24 (virtio0-input.0) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check(
        abi::qc_record {
            came: abi::qc_task { tid: 44, tgid: 44, comm: c_string("kworker/1:1"), cgroup: 0 },
            ..irq(abi::QC_KIND_SWITCH)
        },
        expect![
            "interrupt switched out by kworker/1:1 (pid 44) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
}

#[test]
fn the_hardware_is_reported_and_never_signals() {
    check(
        record(abi::QC_KIND_NMI, abi::QC_MACHINE_CHECK, 0),
        expect!["machineCheck NMI at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check(
        record(abi::QC_KIND_MCE, abi::QC_MACHINE_CHECK, 0),
        expect!["machineCheck MCE at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
}

#[test]
fn a_refused_arming_says_what_to_do() {
    let refused =
        |detail: u32| abi::qc_record { detail: detail.into(), ..record(abi::QC_KIND_ARM_REFUSED, 0, 0) };
    check(
        refused(abi::QC_REFUSED_AFFINITY),
        expect![
            "prctl at fwd_loop+0x1c (l2fwd, tid 31, cpu 5) refused: its affinity is not exactly one CPU of the grant; pin the thread to one (sched_setaffinity) before it arms"
        ],
    );
    check(
        refused(abi::QC_REFUSED_LOCKED),
        expect![
            "prctl at fwd_loop+0x1c (l2fwd, tid 31, cpu 5) refused: the policy is locked, so the program may neither choose signals nor disarm; call it with ENABLE | CLASSES and no signals, or set locked: false in the policy"
        ],
    );
    check(
        refused(abi::QC_REFUSED_ARGUMENT),
        expect![
            "prctl at fwd_loop+0x1c (l2fwd, tid 31, cpu 5) refused: bad argument; only ENABLE and CLASSES with signals 1 to 64 are known, and arg4 and arg5 must be 0"
        ],
    );
    check(
        refused(abi::QC_REFUSED_SEAT),
        expect![
            "thread (l2fwd, tid 31, cpu 5) is never armed: the guard can watch 1024 threads of a container and 4095 of a node until they settle, and has no place free; run fewer threads under policies with arm.at: Settled"
        ],
    );
    check(
        abi::qc_record { tick_dependency: 4 | abi::QC_TICK_KNOWN, ..refused(abi::QC_REFUSED_TICK) },
        expect![
            "prctl at fwd_loop+0x1c (l2fwd, tid 31, cpu 5) answered EAGAIN: cpu 5 ticks (kept by the scheduler (a second runnable task, a CFS quota or a deadline server)), and a tick would bring a signal; the program should try again until the tick stops"
        ],
    );
}

#[test]
fn leaving_the_core_says_what_to_do() {
    check(
        record(abi::QC_KIND_LEFT_CORE, 0, 0),
        expect![
            "thread (l2fwd, tid 31, cpu 5) left its core: its affinity is no longer exactly one CPU of the grant; disarmed until the program pins the thread to one and arms again"
        ],
    );
}

#[test]
fn a_record_of_the_future_is_an_error_by_name() {
    check(record(77, 0, 0), expect!["record of slot 0 has kind 77, which this agent does not know"]);
    check(record(0, 9, 0), expect!["record of slot 0 has class 9, which this agent does not know"]);
    check(
        abi::qc_record { detail: 9, ..record(abi::QC_KIND_ARM_REFUSED, 0, 0) },
        expect!["record of slot 0 has refusal 9, which this agent does not know"],
    );
}

#[test]
fn hostile_names_stay_harmless_and_the_note_short() {
    let mut hostile = write_call(abi::QC_F_SIGNALLED);
    hostile.comm = c_string("\x1b[2J\nxxxxxxxxxxxxxxxxx");
    hostile.pid_level = 99;
    let happening = Happening::try_from(&hostile).unwrap();
    let place = Place::Function { name: "f\n".repeat(2000), offset: 1, source: None };
    let words = describe(&happening, &Scene::at(place), &names);
    assert!(words.len() <= 1024, "{}", words.len());
    assert!(words.bytes().all(|b| (0x20..0x7f).contains(&b)), "{words}");
}

#[test]
fn a_trap_is_told_by_its_signal_and_a_rare_interrupt_by_its_vector() {
    check(
        abi::qc_record { detail: 4, ..record(abi::QC_KIND_TRAP, abi::QC_EXCEPTION, abi::QC_F_SIGNALLED) },
        expect!["exception trap (SIGILL) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): SIGUSR1 sent"],
    );
    let vector = |detail| abi::qc_record { detail, ..record(abi::QC_KIND_VECTOR, abi::QC_INTERRUPT, 0) };
    check(vector(0xfa), expect!["interrupt vector 0xfa at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"]);
    check(vector(0), expect!["interrupt unknown vector at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"]);
}
