//! What the shim weighs, and what it adds to an exec.

use std::time::Duration;

use quietcore::policy::effective::Action;

use crate::{
    line::{Line, Spread, round},
    stand::{Stand, enforce},
};

const EXECS: usize = 100;
const BYTES: u64 = 64 << 10;
const MICROSECONDS: f64 = 1000.0;

pub fn lines() -> Vec<Line> {
    let stand = Stand::beside_an_agent();
    let policy = enforce([Action::Count; 4]);
    let (mut plain, mut shimmed) = (Vec::new(), Vec::new());
    let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
    for _ in 0..EXECS {
        plain.push(microseconds(stand.time_to_exec(&policy, false)));
        shimmed.push(microseconds(stand.time_to_exec(&policy, true)));
    }
    let (plain, shimmed) = (Spread::of(&plain), Spread::of(&shimmed));
    // Of the fastest quarter of each: what else runs on this core only adds.
    let added = round(shimmed.quartiles[0] - plain.quartiles[0]);
    let exec = Line::new("shim.exec", "exec of a static program through the shim", "us");
    let exec = exec.value("without", plain).value("with", shimmed).value("added", added);
    let bytes = bytes();
    let file = Line::new("shim.file", "the shim's file", "bytes").value("size", bytes);
    vec![exec.budget("< 1 ms", added < MICROSECONDS), file.budget("<= 64 KiB", bytes <= BYTES)]
}

fn bytes() -> u64 {
    let folder = tempfile::tempdir().unwrap();
    let shim = quietcore::agent::shim_file::install(folder.path()).unwrap();
    std::fs::metadata(shim).unwrap().len()
}
