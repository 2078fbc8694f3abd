//! The C programs that the tests run in a container's place, built once a run.

use std::{path::Path, process::Command, sync::OnceLock};

pub fn workload() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| build(&["../tests/workloads/workload.c"], "workload", &["-pthread"]))
}

pub fn entries() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| build(&ENTRIES, "entries", &["-pthread", "-fno-omit-frame-pointer"]))
}

pub fn tiny() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| build(&["tests/guard/stand/tiny.c"], "tiny", &["-nostdlib", "-no-pie"]))
}

/// examples/poll-loop, in C.
pub fn poll_loop_c() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        build(&["../examples/poll-loop/poll-loop.c"], "poll-loop", &["-Wall", "-Wextra", "-Werror"])
    })
}

/// And in Rust, by a cargo of its own: that of the tests builds no other package's examples.
pub fn poll_loop_rust() -> &'static str {
    static BUILT: OnceLock<String> = OnceLock::new();
    BUILT.get_or_init(|| {
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("examples");
        let built = target.join("x86_64-unknown-linux-gnu/debug/examples/poll-loop");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
        cargo.args([
            "build",
            "--quiet",
            "--package",
            "quietcore-abi",
            "--example",
            "poll-loop",
            "--target-dir",
        ]);
        if !are_built() {
            assert!(cargo.arg(&target).status().unwrap().success());
        }
        built.to_str().unwrap().to_owned()
    })
}

/// In the lab, which has no compiler, they lie where they were built.
fn are_built() -> bool {
    std::env::var_os("QUIETCORE_PROGRAMS_ARE_BUILT").is_some()
}

const ENTRIES: [&str; 7] = [
    "tests/guard/stand/entries.c",
    "tests/guard/stand/interrupts.c",
    "tests/guard/stand/arming.c",
    "tests/guard/stand/hostile.c",
    "tests/guard/stand/published.c",
    "tests/guard/stand/settling.c",
    "tests/guard/stand/blame.c",
];

pub fn build(sources: &[&str], name: &str, flags: &[&str]) -> String {
    let plugin = Path::new(env!("CARGO_MANIFEST_DIR"));
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if are_built() {
        return built.to_str().unwrap().to_owned();
    }
    let mut gcc = Command::new("gcc");
    gcc.args(["-O2", "-static"]).args(flags).arg("-I").arg(plugin.join("../abi/include"));
    assert!(
        gcc.args(sources.iter().map(|source| plugin.join(source)))
            .arg("-o")
            .arg(&built)
            .status()
            .unwrap()
            .success()
    );
    built.to_str().unwrap().to_owned()
}
