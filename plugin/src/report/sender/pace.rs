//! Step 9: how many requests a node may make, whatever happens on it. Pure.

use std::time::Duration;

/// A hundred nodes that all misbehave are then a hundred requests a second for the API server.
const EVERY: Duration = Duration::from_secs(1);
const BURST: u32 = 20;

#[derive(Debug)]
pub(super) struct Pace {
    /// When the bucket is full again.
    full_at: Duration,
}

impl Pace {
    pub(super) fn new(now: Duration) -> Pace {
        Pace { full_at: now }
    }

    /// Takes a token; how long to wait before using it.
    pub(super) fn wait(&mut self, now: Duration) -> Duration {
        self.full_at = self.full_at.max(now) + EVERY;
        self.full_at.saturating_sub(now + EVERY * BURST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_at_once_and_then_one_a_second() {
        let mut pace = Pace::new(Duration::ZERO);
        let mut now = Duration::ZERO;
        for _ in 0..BURST {
            assert_eq!(pace.wait(now), Duration::ZERO);
        }
        for _ in 0..100 {
            assert_eq!(pace.wait(now), EVERY);
            now += EVERY;
        }
        now += Duration::from_secs(3600);
        for _ in 0..BURST {
            assert_eq!(pace.wait(now), Duration::ZERO);
        }
        assert_eq!(pace.wait(now), EVERY);
    }
}
