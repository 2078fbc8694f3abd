//! The only place that waits: polls until a deadline, and fails with what it last saw.
#![expect(clippy::disallowed_methods, reason = "the testbed is blocking code; this is its one sleep")]

use std::fmt;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::interrupt;

const POLL_EVERY: Duration = Duration::from_millis(200);

/// What one look showed.
#[derive(Debug)]
pub enum Seen<T, S> {
    /// It is there.
    Done(T),
    /// Not yet; what is there instead, for the person who reads the failure.
    NotYet(S),
}

/// Looks until it is there. The error names what was waited for and what was last seen.
pub fn try_until<T, S: fmt::Display>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<Seen<T, S>>,
) -> Result<T> {
    let started = Instant::now();
    loop {
        let last = match look() {
            Ok(Seen::Done(value)) => return Ok(value),
            Ok(Seen::NotYet(state)) => state.to_string(),
            // an API server that is just coming up refuses connections: a state like any other
            Err(error) => format!("{error:#}"),
        };
        if interrupt::stop_asked() {
            bail!("interrupted while waiting for {what}");
        }
        if deadline < started.elapsed() {
            bail!("waited {} s for {what}; last seen: {last}", deadline.as_secs());
        }
        thread::sleep(POLL_EVERY);
    }
}

/// As `try_until`, for tests: panics.
#[track_caller]
pub fn until<T, S: fmt::Display>(
    what: &str,
    deadline: Duration,
    look: impl FnMut() -> Result<Seen<T, S>>,
) -> T {
    match try_until(what, deadline, look) {
        Ok(value) => value,
        Err(error) => panic!("{error:#}"),
    }
}
