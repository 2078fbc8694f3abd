//! bench/quiet.json: the same spinner on a core that nobody keeps quiet, that the kubelet, the boot, or quietcore does.
//! Reads what `entries` wrote in the lab, measures nothing.

use std::{fs, path::Path, process::ExitCode};

use serde_json::{Value, json};

use crate::line::{Line, round};

/// In the order of what they need: the name of its file, and in words.
const CONFIGURATIONS: [(&str, &str); 5] = [
    ("ordinary", "ordinary pod, pinned by its program"),
    ("static", "kubelet's static CPU manager"),
    ("boot", "boot with isolcpus and nohz_full, ordinary pod pinned by its program"),
    ("quietcore", "quietcore"),
    ("quietcore-boot", "quietcore, boot with isolcpus and nohz_full"),
];
/// Held to its budget: the others cannot be without a tick, or are not ours.
const OURS: &str = "quietcore-boot";
/// Of all entries, besides their classes: those that are not the tick, which at run time nobody can stop, and those after
/// which another program or kernel thread had the core.
pub const NO_TICK: &str = "no tick";
pub const OTHERS_RAN: &str = "others ran";
/// As `entries` names them.
const CLASSES: [&str; 4] = ["syscall", "exception", "interrupt", "machineCheck"];

/// What the words of causes say (check/measure/causes.rs, violation/describe.rs).
const IS_TICK: &str = "local timer tick";
const SOMEBODY_CAME: &str = "; then ";

/// `folders` are what the boots of the lab left.
pub fn write(file: &Path, folders: &[&str]) -> ExitCode {
    let measured = |name: &str| {
        let found = folders.iter().find_map(|folder| fs::read(Path::new(folder).join(name)).ok());
        found.unwrap_or_else(|| panic!("no {name} in {folders:?}"))
    };
    let lines: Vec<Line> = CONFIGURATIONS
        .iter()
        .map(|(name, words)| {
            line(name, words, &serde_json::from_slice(&measured(&format!("{name}.json"))).unwrap())
        })
        .collect();
    for line in &lines {
        println!("{}", line.text());
    }
    let seconds: Value = serde_json::from_slice(&measured("ordinary.json")).unwrap();
    let kernel = String::from_utf8(measured("kernel")).unwrap();
    let result = json!({
        "command": "make bench-quiet",
        "kernel": kernel.trim(),
        "seconds": seconds["measured"]["seconds"],
        "lines": lines,
    });
    fs::write(file, serde_json::to_string_pretty(&result).unwrap() + "\n").unwrap();
    ExitCode::from(u8::from(lines.iter().any(Line::failed)))
}

fn line(name: &str, words: &str, result: &Value) -> Line {
    let measured = &result["measured"];
    let rate = |class: &str| measured["entriesPerMinute"][class].as_f64().unwrap();
    let what = format!("{words}, {}", result["detector"].as_str().unwrap());
    let line = Line::new(format!("quiet.{name}"), what, "entries a minute");
    let line = CLASSES.into_iter().fold(line, |line, class| line.value(class, rate(class)));
    let sum = |is_meant: fn(&str) -> bool| {
        let causes = measured["causes"].as_array().unwrap().iter();
        let meant = causes.filter(|cause| is_meant(cause["cause"].as_str().unwrap()));
        // not sum(), which makes -0 of nothing
        round(meant.fold(0.0, |sum, cause| sum + cause["perMinute"].as_f64().unwrap()))
    };
    let line = line
        .value(NO_TICK, sum(|words| !words.starts_with(IS_TICK)))
        .value(OTHERS_RAN, sum(|words| words.contains(SOMEBODY_CAME)))
        .value("causes", &measured["causes"]);
    let all: f64 = CLASSES.into_iter().map(rate).sum();
    if name == OURS { line.exactly("0", all == 0.0) } else { line }
}
