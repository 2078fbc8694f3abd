//! Says what takes long: a line that counts seconds, once something has taken more than two.
#![expect(clippy::print_stderr, reason = "the one place that talks to the person who waits")]

use std::io::{IsTerminal, stderr};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Below this nobody wonders.
const QUIET: Duration = Duration::from_secs(2);
/// A terminal's line counts each second; a log gets a line now and then.
const TICK_ON_A_TERMINAL: Duration = Duration::from_secs(1);
const TICK_IN_A_LOG: Duration = Duration::from_secs(30);

/// Runs `work`, and names it with the time it takes if that is more than two seconds.
pub fn step<T>(name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let started = Instant::now();
    let (done, waiting) = mpsc::channel::<()>();
    let result = thread::scope(|scope| {
        scope.spawn(move || count_seconds(name, started, &waiting));
        let result = work();
        drop(done);
        result
    });
    let outcome = if result.is_ok() { "" } else { " (failed)" };
    if QUIET < started.elapsed() || result.is_err() {
        eprintln!("{}{name}: {} s{outcome}", line_start(), started.elapsed().as_secs());
    }
    result
}

/// One line, said at once.
pub fn say(line: &str) {
    eprintln!("{line}");
}

fn count_seconds(name: &str, started: Instant, done: &Receiver<()>) {
    let tick = if stderr().is_terminal() { TICK_ON_A_TERMINAL } else { TICK_IN_A_LOG };
    let mut pause = QUIET;
    while done.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
        pause = tick;
        let seconds = started.elapsed().as_secs();
        if stderr().is_terminal() {
            eprint!("{}{name} ... {seconds} s", line_start());
        } else {
            eprintln!("{name} ... {seconds} s");
        }
    }
}

/// Replaces the counting line on a terminal.
fn line_start() -> &'static str {
    if stderr().is_terminal() { "\r\x1b[K" } else { "" }
}
