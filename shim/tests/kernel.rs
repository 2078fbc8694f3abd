//! Step 5 against this machine's kernel: what stops the shim before it looks for the program, the filter as
//! the kernel runs it, and the file that goes into the container.
#![expect(clippy::unwrap_used, reason = "a test's own steps: a panic is the report")]

mod stand;

use std::{env, fs, io, path::Path, process::Command, thread};

use nix::{
    libc,
    unistd::{Gid, Uid, geteuid, setgid, setgroups, setuid},
};
use quietcore_abi::{BAD_SIGNALS, CHALLENGE, CLASSES, ENABLE, ON_EXEC, set_sig, signals};
use quietcore_shim::{filter, plan::CpuMask};
use stand::{Answer, Start, own_cpus, plan};

#[track_caller]
fn check_failure(start: &Start, expect: &str) {
    let end = start.run();
    assert_eq!((end.code, end.stderr.as_str()), (Some(125), format!("quietcore-shim: {expect}\n").as_str()));
    assert_eq!(end.became, None, "the program never runs");
}

fn with_argv(argv: &[&str]) -> Start {
    let argv = argv.iter().map(|arg| arg.as_bytes().to_vec()).collect();
    Start { argv, ..Start::command(&[]) }
}

fn with_plan(plan: &str) -> Start {
    with_argv(&["/.quietcore/shim", plan, "--", "/bin/true"])
}

#[test]
fn it_is_not_run_by_hand() {
    let plan = plan("none", "prctl");
    let cases: [&[&str]; 6] = [
        &[],
        &["shim"],
        &["shim", &plan],
        &["shim", &plan, "--"],
        &["shim", &plan, "/bin/true"],
        &["shim", "--", &plan, "/bin/true"],
    ];
    for argv in cases {
        let expect = "this is quietcore's first program of a strict container; it is not run by hand";
        check_failure(&with_argv(argv), expect);
    }
}

#[test]
fn a_plan_of_another_version_is_refused() {
    for plan in ["", "v1 cpus=0 shared=none provider=none arm=prctl locked=no", &plan("none", "never")] {
        let expect =
            "the plan in argv[1] is not one of this version; the agent wrote it, or nobody should have";
        check_failure(&with_plan(plan), expect);
    }
}

#[test]
fn more_or_fewer_cpus_than_granted_are_refused() {
    let own = CpuMask::parse(own_cpus().as_bytes()).unwrap();
    for cpus in ["8191".to_owned(), format!("{own},8191")] {
        let expect = format!(
            "this thread may run on CPUs {own}, its container's are {cpus}; another component changed the cpuset"
        );
        check_failure(
            &with_plan(&format!("v2 cpus={cpus} shared=none provider=none arm=prctl locked=no")),
            &expect,
        );
    }
}

#[test]
fn an_affinity_that_nobody_may_read_is_refused() {
    let expect = "sched_getaffinity: operation not permitted; does a seccomp profile deny it?";
    let before = || stand::deny(u32::try_from(libc::SYS_sched_getaffinity).unwrap());
    check_failure(&Start { before, ..with_plan(&plan("none", "prctl")) }, expect);
}

/// The last CPU that this test may run on, as a grant, and all others, as shared ones.
fn granted_and_shared() -> (String, String) {
    let own = own_cpus();
    let (others, last) = own.rsplit_once(',').expect("a second CPU to run on");
    (last.to_owned(), others.to_owned())
}

fn with_shared(cpus: &str, shared: &str) -> Start {
    with_plan(&format!("v2 cpus={cpus} shared={shared} provider=none arm=prctl locked=no"))
}

#[test]
fn the_alarm_is_proved_on_the_grant_and_the_program_begins_on_the_shared_cpus() {
    let (granted, shared) = granted_and_shared();
    let end = with_shared(&granted, &shared).run();
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
    assert_eq!((end.asked.as_slice(), end.asked_on), ([CHALLENGED].as_slice(), vec![granted]));
    let shared = CpuMask::parse(shared.as_bytes()).unwrap().to_string();
    assert_eq!(end.became.expect("the program runs").cpus(), shared);
}

#[test]
fn a_grant_that_came_without_its_shared_cpus_is_refused() {
    let own = CpuMask::parse(own_cpus().as_bytes()).unwrap();
    let expect = format!(
        "this thread may run on CPUs {own}, its container's are {own},8191; another component changed the cpuset"
    );
    check_failure(&with_shared(&own.to_string(), "8191"), &expect);
}

#[test]
fn a_profile_that_denies_moving_is_named() {
    let (granted, shared) = granted_and_shared();
    let before = || stand::deny(u32::try_from(libc::SYS_sched_setaffinity).unwrap());
    let expect = format!(
        "sched_setaffinity to CPUs {granted}: operation not permitted; does a seccomp profile deny it?"
    );
    check_failure(&Start { before, ..with_shared(&granted, &shared) }, &expect);
}

/// Who may install a filter only with no_new_privs: nobody special.
fn without_privileges() -> io::Result<()> {
    if geteuid().is_root() {
        setgroups(&[])?;
        setgid(Gid::from_raw(65534))?;
        setuid(Uid::from_raw(65534))?;
    }
    Ok(())
}

#[test]
fn a_filter_without_no_new_privs_is_refused_and_with_it_installed() {
    let expect = "arming by prctl needs no_new_privs; set securityContext.allowPrivilegeEscalation: false";
    let start = Start { before: without_privileges, ..with_plan(&plan("seccomp", "prctl")) };
    check_failure(&start, expect);
    let before = || {
        without_privileges()?;
        Ok(nix::sys::prctl::set_no_new_privs()?)
    };
    let end = Start { before, ..start }.run();
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
}

#[test]
fn a_profile_that_denies_seccomp_is_named() {
    let expect = "seccomp filter: operation not permitted; does a seccomp profile deny seccomp(2)?";
    let before = || stand::deny(u32::try_from(libc::SYS_seccomp).unwrap());
    check_failure(&Start { before, ..with_plan(&plan("seccomp", "prctl")) }, expect);
}

const NOT_WATCHED: &str =
    "the alarm did not go off: the guard does not watch this thread; delete the pod and see the agent's log";
const CHALLENGED: (u64, u64) = (CHALLENGE as u64, 64);

#[test]
fn an_unwatched_thread_runs_nothing() {
    for provider in ["none", "seccomp"] {
        let before = || Ok(nix::sys::prctl::set_no_new_privs()?);
        let start = Start { before, answer: Answer::Nobody, ..with_plan(&plan(provider, "exec")) };
        check_failure(&start, NOT_WATCHED);
        assert_eq!(start.run().asked, [CHALLENGED]);
    }
}

#[test]
fn signals_that_waited_before_the_challenge_prove_nothing() {
    let before = || stand::queue_blocked(64, 7);
    check_failure(
        &Start { before, answer: Answer::Nobody, ..with_plan(&plan("none", "prctl")) },
        NOT_WATCHED,
    );
}

#[test]
fn an_alarm_that_another_process_plays_is_not_believed() {
    let start = Start { answer: Answer::AnotherProcess, ..with_plan(&plan("none", "prctl")) };
    check_failure(&start, NOT_WATCHED);
}

#[test]
fn the_challenge_is_heard_through_the_filter_and_arming_at_exec_comes_last() {
    let before = || Ok(nix::sys::prctl::set_no_new_privs()?);
    let on_exec = (u64::from(ENABLE | CLASSES | ON_EXEC), 0);
    for provider in ["none", "seccomp"] {
        let asked = |arm| Start { before, ..with_plan(&plan(provider, arm)) }.run().asked;
        assert_eq!(asked("prctl"), [CHALLENGED]);
        assert_eq!(asked("exec"), [CHALLENGED, on_exec]);
    }
}

const BY_CLASS: u64 = (ENABLE | CLASSES) as u64;

/// Filters are a thread's own: each table gets a thread.
fn check_filter(locked: bool, table: Vec<([u64; 4], i32)>) {
    let run = move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        stand::install(filter::build(locked).instructions()).unwrap();
        for (args, expect) in table {
            assert_eq!(stand::task_isolation(args), expect, "{args:x?}");
        }
    };
    thread::spawn(run).join().unwrap();
}

#[test]
fn the_kernel_alone_does_not_know_the_number() {
    for bits in [0, u64::from(ENABLE), BY_CLASS, u64::from(CHALLENGE)] {
        assert_eq!(stand::task_isolation([bits, 0, 0, 0]), libc::EINVAL);
    }
}

#[test]
fn the_filter_answers_what_the_arguments_decide() {
    let mut table = vec![
        ([0, 0, 0, 0], 0),
        ([1, 0, 0, 0], 0),
        ([BY_CLASS, 0, 0, 0], 0),
        ([BY_CLASS, signals(10, 12, 64), 0, 0], 0),
        ([u64::from(ENABLE | set_sig(10)), 0, 0, 0], 0),
        ([u64::from(CHALLENGE), 64, 0, 0], libc::EPERM),
        ([u64::from(ENABLE | CLASSES | ON_EXEC), 0, 0, 0], libc::EPERM),
        ([1 << 4, 0, 0, 0], libc::EINVAL),
        ([1 << 15, 0, 0, 0], libc::EINVAL),
        ([1 << 32, 0, 0, 0], libc::EINVAL),
        ([1, 0, 1, 0], libc::EINVAL),
        ([1, 0, 1 << 32, 0], libc::EINVAL),
        ([1, 0, 0, 1], libc::EINVAL),
        ([1, 0, 0, 1 << 63], libc::EINVAL),
        ([0, 10, 0, 0], libc::EINVAL),
        ([1, 10, 0, 0], libc::EINVAL),
        ([u64::from(CLASSES), 0, 0, 0], libc::EINVAL),
        ([u64::from(set_sig(10)), 0, 0, 0], libc::EINVAL),
        ([BY_CLASS, 1 << 24, 0, 0], libc::EINVAL),
        ([BY_CLASS, 1 << 32, 0, 0], libc::EINVAL),
        ([BY_CLASS, 65, 0, 0], libc::EINVAL),
        ([u64::from(ENABLE | set_sig(65)), 0, 0, 0], libc::EINVAL),
    ];
    for signal in 0..=64u8 {
        let expect = if BAD_SIGNALS.contains(&signal) { libc::EINVAL } else { 0 };
        table.push(([u64::from(ENABLE | set_sig(signal)), 0, 0, 0], expect));
        for all in [signals(signal, 0, 0), signals(0, signal, 0), signals(0, 0, signal)] {
            table.push(([BY_CLASS, all, 0, 0], expect));
        }
    }
    check_filter(false, table);
}

#[test]
fn the_filter_of_a_locked_program_lets_it_arm_and_nothing_else() {
    check_filter(
        true,
        vec![
            ([BY_CLASS, 0, 0, 0], 0),
            ([0, 0, 0, 0], libc::EPERM),
            ([1, 0, 0, 0], libc::EPERM),
            ([BY_CLASS, 10, 0, 0], libc::EPERM),
            ([BY_CLASS | 10 << 8, 0, 0, 0], libc::EPERM),
            ([u64::from(CHALLENGE), 64, 0, 0], libc::EPERM),
            ([1 << 4, 0, 0, 0], libc::EINVAL),
        ],
    );
}

#[test]
fn the_filter_leaves_other_prctls_to_the_kernel() {
    let run = || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        stand::install(filter::build(true).instructions()).unwrap();
        assert_eq!(nix::sys::prctl::get_no_new_privs(), Ok(true));
        assert_eq!(stand::prctl(0x7fff_0000, [0; 4]), libc::EINVAL);
        // `int option`: the upper half is not looked at, by the kernel nor by the filter.
        assert_eq!(stand::prctl(1 << 32 | 48, [BY_CLASS, 0, 0, 0]), 0);
    };
    thread::spawn(run).join().unwrap();
}

/// Built as plugin/build.rs does; nothing of this test's own profile goes in.
#[test]
fn the_file_in_the_container_is_small_and_needs_no_loader() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("release-shim");
    let built = Command::new(env!("CARGO"))
        .args(["build", "--quiet", "--release", "--package", "quietcore-shim", "--target-dir"])
        .arg(&folder)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let file = fs::read(folder.join("x86_64-unknown-linux-gnu/release/quietcore-shim")).unwrap();
    assert!(file.len() <= 64 * 1024, "{} bytes", file.len());
    assert_eq!(
        program_header_types(&file).iter().find(|kind| [2, 3].contains(kind)),
        None,
        "PT_DYNAMIC, PT_INTERP"
    );
}

/// p_type of each program header, elf(5).
fn program_header_types(file: &[u8]) -> Vec<u32> {
    let half = |at: usize| usize::from(u16::from_le_bytes(file[at..at + 2].try_into().unwrap()));
    let first = usize::try_from(u64::from_le_bytes(file[32..40].try_into().unwrap())).unwrap();
    let (size, count) = (half(54), half(56));
    assert_ne!(count, 0);
    let at = |idx: usize| first + idx * size;
    (0..count).map(|idx| u32::from_le_bytes(file[at(idx)..at(idx) + 4].try_into().unwrap())).collect()
}
