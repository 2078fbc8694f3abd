//! Step 5, the exec: the program gets what the runtime meant for it, and a command that cannot run is told as
//! runc would tell it.
#![expect(clippy::unwrap_used, reason = "a test's own steps: a panic is the report")]

mod stand;

use std::{
    fs::{self, File},
    os::{
        fd::IntoRawFd,
        unix::{ffi::OsStrExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    sys::{
        signal::{SigHandler, SigSet, SigmaskHow, Signal, sigprocmask},
        stat::{Mode, umask},
    },
    unistd::{Gid, Uid, chdir, dup, geteuid, setgid, setgroups, setuid},
};
use stand::{End, Start, os};

fn program(name: &str) -> Start {
    Start::command(&[name])
}

#[track_caller]
fn became(end: End) -> stand::Process {
    assert_eq!((end.code, end.stderr.as_str()), (Some(0), ""));
    end.became.expect("the program runs")
}

#[test]
fn arguments_arrive_byte_for_byte() {
    let mut start = program("/bin/true");
    let long = vec![b'x'; 100_000];
    for arg in [b"".as_slice(), b"a b", b"--", b"\xff\xfe", b"$PATH", &long, b""] {
        start.argv.push(arg.to_vec());
    }
    let arrived = became(start.run());
    assert_eq!(arrived.argv, start.argv[3..]);
    assert_eq!(arrived.executable, fs::canonicalize("/bin/true").unwrap());
}

#[test]
fn the_environment_arrives_in_order_with_its_doubles() {
    let mut start = program("/bin/true");
    let variables: [&[u8]; 7] =
        [b"PATH=/nowhere", b"A=1", b"PATH=/bin", b"A=2", b"EMPTY=", b"no equals sign", b"BYTES=\xff\xfe"];
    start.env = variables.map(<[u8]>::to_vec).into();
    assert_eq!(became(start.run()).kept.env, start.env);
}

#[test]
fn an_empty_environment_stays_empty() {
    let start = Start { env: vec![], ..program("/bin/true") };
    assert_eq!(became(start.run()).kept.env, [] as [Vec<u8>; 0]);
}

/// Nothing here is what a fresh process has.
fn unusual() -> std::io::Result<()> {
    umask(Mode::from_bits_truncate(0o137));
    chdir("/usr")?;
    let _kept_over_exec = dup(File::open("/etc/passwd")?)?.into_raw_fd();
    let mut blocked = SigSet::empty();
    blocked.add(Signal::SIGUSR1);
    blocked.add(Signal::SIGTERM);
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&blocked), None)?;
    nix::sys::signal::raise(Signal::SIGUSR1)?;
    ignore(Signal::SIGHUP)?;
    ignore(Signal::SIGPIPE)?;
    if geteuid().is_root() {
        setgroups(&[Gid::from_raw(1001), Gid::from_raw(1002)])?;
        setgid(Gid::from_raw(1003))?;
        setuid(Uid::from_raw(1004))?;
    }
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}

fn ignore(signal: Signal) -> nix::Result<()> {
    stand::disposition(signal, SigHandler::SigIgn)
}

#[test]
fn what_an_exec_keeps_is_kept() {
    let mut start = Start { before: unusual, ..program("/bin/true") };
    for (provider, arm) in [("none", "prctl"), ("seccomp", "prctl"), ("none", "exec"), ("seccomp", "exec")] {
        start.argv[1] = stand::plan(provider, arm).into_bytes();
        let end = start.run();
        // That the stand set the scene is part of the proof.
        let has =
            |line: &str| assert!(end.began.kept.status.iter().any(|l| l == line), "{line}: {:?}", end.began);
        has("Umask:\t0137");
        has("SigBlk:\t0000000000004200");
        let ignored = end.began.kept.status.iter().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
        assert_eq!(u64::from_str_radix(ignored, 16).unwrap() & 0x1001, 0x1001, "SIGHUP and SIGPIPE");
        has("NoNewPrivs:\t1");
        assert_eq!(end.began.kept.folder, "/usr");
        assert!(end.began.kept.files.iter().any(|(_, link)| link == "/etc/passwd"), "{:?}", end.began);
        assert_eq!(&end.began.kept, &end.became.as_ref().expect("the program runs").kept);
    }
}

#[test]
fn the_challenge_leaves_the_signal_mask_as_it_was() {
    for before in [|| Ok(()), || stand::queue_blocked(64, 0)] {
        let end = Start { before, ..program("/bin/true") }.run();
        assert_eq!(&end.began.kept, &end.became.expect("the program runs").kept);
    }
}

/// A folder of programs and of what only looks like one.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(folder.join("first/app")).unwrap();
    fs::create_dir_all(folder.join("second")).unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    file("first/data", "#!/bin/sh\n", 0o644);
    file("second/app", "#!/bin/sh\nexit 0\n", 0o755);
    file("second/data", "#!/bin/sh\nexit 0\n", 0o755);
    file("second/no-format", "this is no program\n", 0o755);
    file("second/no-interpreter", "#!/nowhere/sh\n", 0o755);
    folder
}

fn path_of(folder: &Path, parts: &[&str]) -> Vec<u8> {
    let parts: Vec<_> = parts.iter().map(|part| folder.join(part)).collect();
    let mut path = b"PATH=".to_vec();
    path.extend(parts.iter().map(|part| part.as_os_str().as_bytes()).collect::<Vec<_>>().join(&b':'));
    path
}

#[test]
fn path_is_searched_as_the_runtime_would() {
    let folder = folder("path-search");
    let both = path_of(&folder, &["first", "second"]);
    let first = path_of(&folder, &["first"]);
    let second = path_of(&folder, &["second"]);
    let unclean = path_of(&folder, &["first/..//second/."]);
    // A folder `app`, and a file `data` that nobody may execute, come first and are passed over.
    for (command, env) in [
        ("app", vec![both.clone()]),
        ("data", vec![both]),
        ("app", vec![first, b"PATHS=/".to_vec(), second]),
        ("app", vec![unclean]),
    ] {
        let arrived = became(Start { env, ..program(command) }.run());
        let script = folder.join("second").join(command);
        assert_eq!(arrived.argv, [b"/bin/sh".as_slice(), script.as_os_str().as_bytes()]);
    }
}

#[test]
fn argv_0_of_the_program_stays_as_the_pod_wrote_it() {
    let arrived = became(program("true").run());
    assert_eq!(arrived.argv, [b"true"]);
    assert_eq!(arrived.executable, fs::canonicalize("/bin/true").unwrap());
}

#[track_caller]
fn check_failure(command: &[u8], env: Vec<Vec<u8>>, expect: &str) {
    let mut start = Start { env, ..program("") };
    start.argv[3] = command.to_vec();
    let end = start.run();
    let mut shown = os(command).into_string().unwrap();
    if 256 < shown.len() {
        shown.truncate(256);
        shown.push_str("...");
    }
    let expect = format!("quietcore-shim: exec: \"{shown}\": {expect}\n");
    assert_eq!((end.code, end.stderr), (Some(125), expect));
    assert_eq!(end.became, None);
}

#[test]
fn a_command_that_cannot_run_is_named_with_the_reason() {
    let folder = folder("cannot-run");
    let missing = "executable file not found in $PATH";
    let second = vec![path_of(&folder, &["second"])];
    check_failure(b"missing", second.clone(), missing);
    check_failure(b"app", vec![], missing);
    check_failure(b"app", vec![b"PATH=".to_vec()], missing);
    check_failure(b"app", vec![second[0].clone(), b"PATH=/nowhere".to_vec()], missing);
    check_failure(b"data", vec![path_of(&folder, &["first"])], "found in $PATH, but permission denied");
    check_failure(b"", second.clone(), missing);
    check_failure(b"/nowhere/app", second.clone(), "no such file or directory");
    check_failure(&[b'x'; 5000], second.clone(), missing);

    let file = |name: &str| folder.join(name).into_os_string().into_encoded_bytes();
    check_failure(&file("first/data"), vec![], "permission denied");
    check_failure(&file("first/app"), vec![], "is a directory");
    check_failure(&file("second/app/below"), vec![], "not a directory");
    check_failure(&file("second/no-format"), vec![], "exec format error");
    check_failure(b"no-format", second, "exec format error");
    let interpreter = "no such file or directory: its interpreter or dynamic loader is not in the image";
    check_failure(&file("second/no-interpreter"), vec![], interpreter);
}

#[test]
fn the_current_directory_is_not_searched() {
    let expect = "found only relative to the current directory; use an absolute path";
    for path in ["PATH=.", "PATH=:/nowhere", "PATH=/nowhere:bin"] {
        let mut start = Start { env: vec![path.as_bytes().to_vec()], ..program("true") };
        start.before = || Ok(chdir("/usr/bin")?);
        if path.ends_with("bin") {
            start.before = || Ok(chdir("/usr")?);
        }
        let end = start.run();
        assert_eq!(
            (end.code, end.stderr),
            (Some(125), format!("quietcore-shim: exec: \"true\": {expect}\n"))
        );
    }
}
