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
    // In the lab, which has no compiler, they lie where they were built.
    if std::env::var_os("QUIETCORE_PROGRAMS_ARE_BUILT").is_some() {
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
