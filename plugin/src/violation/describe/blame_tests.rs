use expect_test::{Expect, expect};

use crate::{
    guard::abi,
    violation::{
        describe::describe,
        happening::Happening,
        scene::{Scene, Ticks},
        symbolize::place::{NoFunction, NoModule, Place},
    },
};

const FLUSH: u64 = 0xffff_ffff_8107_0000;
const VMSTAT: u64 = 0xffff_ffff_8123_0000;

fn function(name: &str) -> Place {
    Place::Function { name: name.into(), offset: 0x1c, source: None }
}

fn scene() -> Scene {
    let mut scene = Scene::at(function("fwd_loop"));
    scene.functions.insert(FLUSH, "flush_tlb_func".into());
    scene.functions.insert(VMSTAT, "vmstat_update".into());
    scene.cgroups.insert(9, "pod 2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11".into());
    scene
}

fn c_string(text: &str) -> [std::ffi::c_char; 16] {
    let mut bytes = [0; 16];
    for (to, from) in bytes.iter_mut().zip(text.bytes()) {
        *to = from.cast_signed();
    }
    bytes
}

fn record(kind: u32) -> abi::qc_record {
    abi::qc_record {
        kind: kind.try_into().unwrap(),
        class: abi::QC_INTERRUPT.try_into().unwrap(),
        cpu: 5,
        pids: [4711, 31, 0, 0],
        tgids: [4711, 31, 0, 0],
        pid_level: 1,
        comm: c_string("l2fwd"),
        cgroup: 7,
        ..Default::default()
    }
}

fn task(comm: &str, tgid: u32, tid: u32, cgroup: u64) -> abi::qc_task {
    abi::qc_task { comm: c_string(comm), tgid, tid, cgroup }
}

fn by(by: abi::qc_task, function: u64) -> abi::qc_blame {
    let context = abi::QC_IN_TASK.try_into().unwrap();
    abi::qc_blame { by, cpu: 2, function, known: 1, context, ..Default::default() }
}

#[track_caller]
fn check_in(scene: &Scene, record: abi::qc_record, expect: Expect) {
    expect.assert_eq(&describe(&Happening::try_from(&record).unwrap(), scene, &|_| Some("write")));
}

#[track_caller]
fn check(record: abi::qc_record, expect: Expect) {
    check_in(&scene(), record, expect);
}

#[test]
fn an_ipi_names_its_sender_and_what_it_wants_run() {
    let call = |blame| abi::qc_record { blame, ..record(abi::QC_KIND_CALL_FUNCTION) };
    check(
        call(by(task("mapper", 4711, 4712, 7), FLUSH)),
        expect![
            "interrupt function-call IPI (flush_tlb_func) from thread mapper (host tid 4712, cpu 2) of the same process at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        call(by(task("sh", 800, 800, 1), FLUSH)),
        expect![
            "interrupt function-call IPI (flush_tlb_func) from sh (pid 800, cpu 2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        call(by(task("curl", 800, 801, 9), 0xffff_ffff_8100_beef)),
        expect![
            "interrupt function-call IPI (0xffffffff8100beef) from curl (pid 800, tid 801, cpu 2, pod 2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        call(by(task("kubelet-probe", 800, 800, 7), FLUSH)),
        expect![
            "interrupt function-call IPI (flush_tlb_func) from process 800 kubelet-probe, cpu 2, started in this container by exec or a probe at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        call(abi::qc_blame { others: 2, ..by(task("sh", 800, 800, 1), 0) }),
        expect![
            "interrupt function-call IPI from sh (pid 800, cpu 2), and 2 more at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
}

#[test]
fn a_task_that_was_only_interrupted_is_not_accused() {
    let blame = by(task("bash", 800, 800, 1), 0);
    let from = |context: u32| abi::qc_record {
        blame: abi::qc_blame { context: context.try_into().unwrap(), ..blame },
        ..record(abi::QC_KIND_RESCHEDULE)
    };
    check(
        from(abi::QC_IN_INTERRUPT),
        expect![
            "interrupt reschedule IPI from an interrupt on cpu 2 that hit bash (pid 800) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check(
        from(abi::QC_CONTEXT_UNKNOWN),
        expect![
            "interrupt reschedule IPI from cpu 2, which ran bash (pid 800) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
}

#[test]
fn an_irq_work_names_its_function() {
    let blame = abi::qc_blame { cpu: 5, ..by(task("l2fwd", 4711, 4711, 7), FLUSH) };
    check(
        abi::qc_record { blame, ..record(abi::QC_KIND_IRQ_WORK) },
        expect![
            "interrupt irq_work IPI (flush_tlb_func) from thread l2fwd (host tid 4711, cpu 5) of the same process at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
}

#[test]
fn nobody_known_is_nobody_named() {
    check(
        record(abi::QC_KIND_RESCHEDULE),
        expect!["interrupt reschedule IPI at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
}

#[test]
fn a_tick_says_why_there_is_one() {
    let tick =
        |bits| abi::qc_record { tick_dependency: bits | abi::QC_TICK_KNOWN, ..record(abi::QC_KIND_TICK) };
    let with = |ticks| Scene { ticks, ..scene() };
    check_in(
        &with(Ticks::WhenNeeded),
        record(abi::QC_KIND_TICK),
        expect!["interrupt local timer tick at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
    check_in(
        &with(Ticks::OnEveryCpu),
        tick(0),
        expect![
            "interrupt local timer tick (this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check_in(
        &with(Ticks::OnThisCpu),
        tick(0),
        expect![
            "interrupt local timer tick (cpu 5 is not in nohz_full) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check_in(
        &with(Ticks::WhenNeeded),
        tick(0),
        expect![
            "interrupt local timer tick (a timer was due) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check_in(
        &with(Ticks::WhenNeeded),
        tick(4),
        expect![
            "interrupt local timer tick (kept by the scheduler (a second runnable task, a CFS quota or a deadline server)) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check_in(
        &with(Ticks::WhenNeeded),
        tick(0b1_0010),
        expect![
            "interrupt local timer tick (kept by a perf event and RCU) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
    check_in(
        &with(Ticks::WhenNeeded),
        tick(1 << 9),
        expect![
            "interrupt local timer tick (kept by dependency 0x200) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"
        ],
    );
}

#[test]
fn a_timer_that_is_not_the_tick_is_named() {
    const TICK: u64 = 0xffff_ffff_8143_0000;
    const SERVER: u64 = 0xffff_ffff_8110_0000;
    let mut scene = Scene { ticks: Ticks::WhenNeeded, ..scene() };
    scene.functions.extend([(TICK, "tick_nohz_handler".into()), (SERVER, "dl_task_timer".into())]);
    let due = |timers| abi::qc_record {
        timers,
        tick_dependency: 4 | abi::QC_TICK_KNOWN,
        ..record(abi::QC_KIND_TICK)
    };
    let tick = "interrupt local timer tick (kept by the scheduler (a second runnable task, a CFS quota or a deadline server))";
    let starts = |timers, words: &str| {
        let note = describe(&Happening::try_from(&due(timers)).unwrap(), &scene, &|_| None);
        assert!(note.starts_with(&format!("{words} at fwd_loop")), "{note}");
    };
    starts([SERVER, 0], "interrupt local timer (dl_task_timer, not the tick)");
    starts([TICK, 0], tick);
    starts([TICK, SERVER], &format!("{tick} and timer dl_task_timer"));
    // Nobody can say of a hidden address whether it is the tick's.
    starts([FLUSH + 1, 0], tick);
}

#[test]
fn who_took_the_core_is_named_with_who_queued_it() {
    let came =
        |came, came_flags, blame| abi::qc_record { came, came_flags, blame, ..record(abi::QC_KIND_CAME_ON) };
    let nobody = abi::qc_blame::default();
    let queuer = by(task("sh", 800, 800, 1), 0);
    check(
        came(task("hog", 900, 900, 1), 0, queuer),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by hog (pid 900), queued by sh (pid 800, cpu 2)"
        ],
    );
    check(
        came(task("hog", 900, 900, 9), 0, nobody),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by hog (pid 900, pod 2f1c6a6e-74f0-4b6f-a0c5-8c2b5f0c9d11)"
        ],
    );
    check(
        came(task("helper", 4711, 4712, 7), abi::QC_CAME_WATCHED, nobody),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by thread helper (host tid 4712) of the same process"
        ],
    );
    check(
        came(task("worker", 900, 900, 7), abi::QC_CAME_WATCHED, nobody),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by worker (pid 900), a process of the same program"
        ],
    );
    check(
        came(task("cat", 900, 900, 7), 0, nobody),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by process 900 cat, started in this container by exec or a probe"
        ],
    );
    check(
        came(task("ksoftirqd/5", 40, 40, 1), abi::QC_CAME_KTHREAD, by(task("l2fwd", 4711, 4711, 7), 0)),
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by kernel thread ksoftirqd/5 (pid 40), queued by the interrupt itself"
        ],
    );
    let worker = came(task("kworker/5:1", 44, 44, 1), abi::QC_CAME_KTHREAD, queuer);
    check(
        abi::qc_record { came_to: VMSTAT, ..worker },
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by kernel thread kworker/5:1 (pid 44), to run vmstat_update, queued by sh (pid 800, cpu 2)"
        ],
    );
    check(
        worker,
        expect![
            "core taken at fwd_loop+0x1c from (l2fwd, tid 31, cpu 5) by kernel thread kworker/5:1 (pid 44), queued by sh (pid 800, cpu 2)"
        ],
    );
}

#[test]
fn an_unseen_entry_that_ends_in_a_switch_names_who_came_on() {
    let came = task("hog", 900, 900, 1);
    check(
        abi::qc_record { came, ..record(abi::QC_KIND_SWITCH) },
        expect!["interrupt switched out by hog (pid 900) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported"],
    );
}

#[test]
fn callers_are_named_as_far_as_they_are_known() {
    let callers = vec![
        function("poll_once"),
        Place::Module { name: "libstripped.so".into(), offset: 0x120, why: NoFunction::NoSymbol },
        Place::Address { ip: 0x7f00_0000_1000, why: NoModule::Anonymous },
    ];
    let call = abi::qc_record { detail: 1, class: 0, ..record(abi::QC_KIND_SYSCALL) };
    check_in(
        &Scene { callers, ..scene() },
        call,
        expect![
            "syscall write(2) at fwd_loop+0x1c (l2fwd, tid 31, cpu 5): reported; args 0x0 0x0 0x0; called by poll_once+0x1c <- libstripped.so+0x120 [file offset: no symbol there] <- 0x7f0000001000 [code without a file]"
        ],
    );
}

#[test]
fn names_that_others_chose_stay_harmless() {
    let hostile = task("\x1b[2J\nx", 900, 900, 9);
    let mut scene = scene();
    scene.cgroups.insert(9, "cgroup /\n\x1b".repeat(100));
    let record = abi::qc_record { came: hostile, ..record(abi::QC_KIND_CAME_ON) };
    let words = describe(&Happening::try_from(&record).unwrap(), &scene, &|_| None);
    assert!(words.len() <= 1024 && words.bytes().all(|b| (0x20..0x7f).contains(&b)), "{words}");
}
