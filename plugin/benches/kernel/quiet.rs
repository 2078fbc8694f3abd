//! What the guard itself does to a core on which nothing happens: nohz_full kernels only, a tick is an entry too.

use std::time::{Duration, Instant};

use quietcore::{
    guard::{
        abi::{QC_INTERRUPT, QC_KIND_ARMED},
        detector::Detector,
        ring::POLL_INTERVAL,
    },
    policy::effective::Action,
};

use crate::{
    CORE,
    exact::only,
    line::Line,
    stand::{Stand, story},
};

/// What its start brought is over.
const SETTLED: Duration = Duration::from_secs(2);
const WATCHED: Duration = Duration::from_secs(20);

pub fn line(detector: Detector) -> Line {
    let stand = Stand::private(CORE, detector);
    let mut run = stand.start_entries(&only(QC_INTERRUPT, Action::Report), "spin", 0);
    run.wait_for("arming");
    stand.wait_until("it is armed", |records| story(records).contains(&QC_KIND_ARMED));
    pause(SETTLED);
    let entries = || stand.counts().entries.iter().sum::<u64>();
    let (began, before) = (Instant::now(), entries());
    while began.elapsed() < WATCHED {
        stand.records();
        pause(POLL_INTERVAL);
    }
    let entries = entries() - before;
    run.kill(&stand);
    let what = format!("entries of a spinner in {} s, {}", WATCHED.as_secs(), detector.name());
    let line = Line::new(format!("quiet.{}", detector.name()), what, "entries");
    line.value("happened", entries).exactly("0", entries == 0)
}

#[expect(clippy::disallowed_methods, reason = "it watches for a while")]
fn pause(time: Duration) {
    std::thread::sleep(time);
}
