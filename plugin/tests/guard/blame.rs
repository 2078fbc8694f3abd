//! Who is named for what comes from elsewhere. Each disturber runs on CPU 0, as a node's own processes do.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use quietcore::{
    guard::{
        abi::{QC_INTERRUPT, QC_KIND_ARMED, QC_KIND_CALL_FUNCTION, QC_KIND_CAME_ON, QC_KIND_TICK, qc_record},
        record::text,
    },
    policy::effective::{Action, Effective},
    violation::{blame::Relation, happening::Happening, kernel_symbols::KernelSymbols},
};

use crate::{
    counts::only,
    stand::{Running, Stand, number},
};

pub(crate) fn report_interrupts() -> Effective {
    only(QC_INTERRUPT, Action::Report)
}

fn kernel_function(address: u64) -> String {
    static KERNEL: Mutex<Option<KernelSymbols>> = Mutex::new(None);
    let mut kernel = KERNEL.lock().unwrap();
    let kernel = kernel.get_or_insert_with(|| KernelSymbols::new(PathBuf::from("/proc/kallsyms")));
    kernel.name(address).unwrap_or_else(|| format!("{address:#x}"))
}

pub(crate) fn is(record: &qc_record, kind: u32) -> bool {
    u32::from(record.kind) == kind
}

/// Sender and function of each function-call IPI that names a sender.
pub(crate) fn calls(records: &[qc_record]) -> Vec<(String, u32, String)> {
    let calls = records.iter().filter(|record| is(record, QC_KIND_CALL_FUNCTION) && record.blame.known == 1);
    calls
        .map(|record| {
            let by = &record.blame.by;
            (text(&by.comm), by.tgid, kernel_function(record.blame.function))
        })
        .collect()
}

/// A program that spins on its core, armed, until it is killed.
pub(crate) fn spin(stand: &Stand) -> Running {
    let mut run = stand.start_entries(&report_interrupts(), "spin-till-killed", 0);
    run.wait_for("inner=");
    stand.wait_until("it is armed", |records| records.iter().any(|record| is(record, QC_KIND_ARMED)));
    run
}

pub(crate) fn on(cpu: &str, program: &[&str]) -> Child {
    Command::new("taskset").args(["-c", cpu]).args(program).stdin(Stdio::piped()).spawn().unwrap()
}

fn sh(script: &str) -> Child {
    on("0", &["sh", "-c", script])
}

pub(crate) fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[track_caller]
fn check_sibling(day: &str, function: &str) {
    let is_siblings = |record: &&qc_record| text(&record.blame.by.comm) == "sibling";
    let stand = Stand::new();
    let run = stand.start_entries(&report_interrupts(), day, 0);
    stand.wait_until("its sibling interrupted it often", |records| {
        100 <= records.iter().filter(is_siblings).count()
    });
    let run = run.kill(&stand);
    let tgid = run.only(QC_KIND_ARMED).tgids[0];
    let calls = calls(&run.records);
    let siblings: Vec<_> = calls.iter().filter(|(comm, ..)| comm == "sibling").collect();
    assert!(siblings.iter().all(|(_, by, ran)| *by == tgid && ran == function), "{siblings:?}");
    let blamed = run.of_kind(QC_KIND_CALL_FUNCTION).into_iter().find(is_siblings).unwrap();
    let sender = Happening::try_from(blamed).unwrap().blame.sender.unwrap();
    assert_eq!((sender.relation, sender.cpu), (Relation::SameProcess, 0));
}

#[test]
fn a_siblings_munmap_is_blamed_with_its_thread_and_function() {
    check_sibling("sibling-munmap", "flush_tlb_func");
}

#[test]
fn a_siblings_mprotect_is_blamed_with_its_thread_and_function() {
    check_sibling("sibling-mprotect", "flush_tlb_func");
}

#[test]
fn a_siblings_membarrier_is_blamed_with_its_thread_and_function() {
    check_sibling("sibling-membarrier", "ipi_mb");
}

/// With it a timer stays on the CPU where it was set, also on one in nohz_full (kernel/sched/core.c,
/// get_nohz_timer_target).
struct TimersStay(String);

const TIMER_MIGRATION: &str = "/proc/sys/kernel/timer_migration";

impl TimersStay {
    fn new() -> TimersStay {
        let before = fs::read_to_string(TIMER_MIGRATION).unwrap();
        fs::write(TIMER_MIGRATION, "0").unwrap();
        TimersStay(before)
    }
}

impl Drop for TimersStay {
    fn drop(&mut self) {
        fs::write(TIMER_MIGRATION, &self.0).unwrap();
    }
}

#[test]
fn a_timer_that_is_not_the_tick_is_named_by_its_function() {
    let _stay = TimersStay::new();
    let stand = Stand::new();
    let run = stand.start_entries(&report_interrupts(), "own-timer", 0);
    let functions = |record: &qc_record| record.timers.map(kernel_function);
    let is_alarm =
        |record: &qc_record| is(record, QC_KIND_TICK) && functions(record).contains(&"it_real_fn".to_owned());
    stand.wait_until("its alarm came often", |records| {
        100 <= records.iter().filter(|record| is_alarm(record)).count()
    });
    let run = run.kill(&stand);
    let ticks = run.of_kind(QC_KIND_TICK);
    let unnamed = ticks.iter().filter(|record| record.timers[0] == 0).count();
    assert_eq!(unnamed, 0, "of {}", ticks.len());
}

#[test]
fn a_worker_is_blamed_with_its_function_and_who_queued_it() {
    let stand = Stand::new();
    let run = spin(&stand);
    let queuer = sh("while :; do echo 1 > /proc/sys/vm/stat_refresh; sleep 0.01; done");
    let pid = queuer.id();
    stand.wait_until("the worker came on", |records| {
        records.iter().any(|record| {
            is(record, QC_KIND_CAME_ON) && kernel_function(record.came_to) == "refresh_vm_stats"
        })
    });
    end(queuer);
    let run = run.kill(&stand);
    let workers = run.of_kind(QC_KIND_CAME_ON).into_iter();
    let workers = workers.filter(|record| kernel_function(record.came_to) == "refresh_vm_stats");
    let told: Vec<_> = workers
        .map(|record| Happening::try_from(record).unwrap().blame)
        .map(|blame| (blame.came.unwrap(), blame.sender))
        .collect();
    assert!(
        told.iter()
            .all(|(came, _)| came.relation == Relation::Kernel && came.task.comm.starts_with("kworker/1:")),
        "{told:?}"
    );
    let named = |task: &quietcore::violation::blame::Task| (task.comm.as_str(), task.tgid) == ("sh", pid);
    assert!(told.iter().any(|(_, by)| by.as_ref().is_some_and(|by| named(&by.task))), "{told:?}");
}

#[test]
fn whatever_the_kernels_knobs_send_to_the_core_is_blamed_by_name() {
    let stand = Stand::new();
    let run = spin(&stand);
    let script =
        "for i in 1 2 3; do echo 1 > /proc/sys/vm/compact_memory; echo 1 > /proc/sys/vm/drop_caches; done";
    assert!(sh(script).wait().unwrap().success());
    let run = run.kill(&stand);
    let n_calls = run.of_kind(QC_KIND_CALL_FUNCTION).len();
    let calls = calls(&run.records);
    assert_eq!(calls.len(), n_calls);
    assert!(calls.iter().all(|(comm, _, ran)| !comm.is_empty() && !ran.starts_with("0x")), "{calls:?}");
    println!("{} function calls, {} of them by sh", n_calls, calls.iter().filter(|c| c.0 == "sh").count());
}

#[test]
fn a_task_that_somebody_put_on_the_core_is_named() {
    let stand = Stand::new();
    let run = spin(&stand);
    let hog = on("1", &["sh", "-c", "while :; do :; done"]);
    let tid = hog.id();
    stand.wait_until("the hog came on", |records| {
        records.iter().any(|record| is(record, QC_KIND_CAME_ON) && record.came.tid == tid)
    });
    end(hog);
    let run = run.kill(&stand);
    let came = run.of_kind(QC_KIND_CAME_ON).into_iter().filter(|record| record.came.tid == tid);
    let came: Vec<_> = came.map(|record| Happening::try_from(record).unwrap().blame.came.unwrap()).collect();
    assert!(came.iter().all(|came| came.relation == Relation::Elsewhere && came.function.is_none()));
    // It begins as a child of this test, and execs twice: taskset, then sh.
    assert!(came.iter().any(|came| ["sh", "taskset"].contains(&came.task.comm.as_str())), "{came:?}");
}

#[test]
fn who_wakes_a_task_on_the_core_is_named_with_it() {
    let stand = Stand::new();
    let mut sleeper = on("1", &["cat"]);
    let tid = sleeper.id();
    let run = spin(&stand);
    let us = std::process::id();
    let mut bell = sleeper.stdin.take().unwrap();
    for n in 0.. {
        assert!(n < 1000, "nobody was named in {n} times");
        bell.write_all(b".").unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test that waits for another process")]
        std::thread::sleep(std::time::Duration::from_millis(5));
        let seen = stand.records();
        let mut named = seen.iter().filter(|record| is(record, QC_KIND_CAME_ON) && record.came.tid == tid);
        if named.any(|record| record.blame.by.tgid == us) {
            break;
        }
    }
    end(sleeper);
    run.kill(&stand);
}

/// A static key is turned by patching the kernel's text, and every CPU must know: so does attaching a program to a
/// tracepoint that had none.
#[test]
fn who_patches_the_kernels_text_is_blamed_by_name() {
    const KEY: &str = "/proc/sys/kernel/bpf_stats_enabled";
    let stand = Stand::new();
    let run = spin(&stand);
    let patcher = sh(&format!("while :; do echo 1 > {KEY}; echo 0 > {KEY}; sleep 0.01; done"));
    let expected = ("sh".to_owned(), patcher.id(), "do_sync_core".to_owned());
    stand.wait_until("it was blamed", |records| calls(records).contains(&expected));
    end(patcher);
    std::fs::write(KEY, "0").unwrap();
    run.kill(&stand);
}

/// A cgroup of the cpuset controller, as the runtime makes one for a container.
struct Container {
    dir: PathBuf,
}

impl Container {
    fn new() -> Container {
        let v1 = Path::new("/sys/fs/cgroup/cpuset");
        let is_v1 = v1.join("cpuset.cpus").exists();
        let root = if is_v1 { v1 } else { Path::new("/sys/fs/cgroup") };
        let dir = root.join(format!("quietcore-test-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("cpuset.cpus"), "1").unwrap();
        if is_v1 {
            std::fs::write(dir.join("cpuset.mems"), "0").unwrap();
        }
        Container { dir }
    }

    fn enter(&self, pid: u32) {
        std::fs::write(self.dir.join("cgroup.procs"), pid.to_string()).unwrap();
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        for _ in 0..100 {
            if std::fs::remove_dir(&self.dir).is_ok() {
                return;
            }
            #[expect(clippy::disallowed_methods, reason = "a test that waits for another process")]
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
}

#[test]
fn what_exec_or_a_probe_puts_on_the_core_is_told_as_such() {
    let container = Container::new();
    let stand = Stand::new();
    let run = spin(&stand);
    container.enter(run.pid().cast_unsigned());
    // Where it runs its cgroup says.
    let exec = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
    let tid = exec.id();
    container.enter(tid);
    let told_so = |record: &qc_record| {
        let came = Happening::try_from(record).unwrap().blame.came;
        came.is_some_and(|came| came.task.tid == tid && came.relation == Relation::SameContainer)
    };
    stand.wait_until("it was told", |records| records.iter().any(told_so));
    end(exec);
    run.kill(&stand);
}

#[test]
fn the_user_stack_leads_to_the_callers() {
    let stand = Stand::new();
    let mut run = spin(&stand);
    run.wait_for("outer=");
    // An interrupt also where the core has no tick.
    let hog = on("1", &["sleep", "0.01"]);
    stand.wait_until("it was interrupted", |records| {
        2 < records.iter().filter(|record| record.kind < 16).count()
    });
    end(hog);
    let run = run.kill(&stand);
    let [inner, outer, outermost] = ["inner", "outer", "spin"].map(|name| number(&run.told(name)));
    let spinning: Vec<_> =
        run.records.iter().filter(|record| record.kind < 16 && (inner..outer).contains(&record.ip)).collect();
    assert!(!spinning.is_empty());
    for record in spinning {
        let frames = record.frames;
        assert!(
            (outer..outermost).contains(&frames[0]) && (outermost..outermost + 256).contains(&frames[1]),
            "{frames:x?} {}",
            run.output
        );
        assert!(frames[record.n_frames as usize..].iter().all(|ip| *ip == 0), "{frames:x?}");
    }
}
