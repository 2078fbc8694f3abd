//! Step 3: which containers are over without the runtime having said so: containerd tells nobody when runc could not
//! make one. Pure: what lives comes in, and the time.

use std::{collections::BTreeMap, time::Duration};

/// One that is being made has neither a process nor a cgroup for a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// Since when nothing of a container has been seen.
#[derive(Debug, Default)]
pub struct Unseen(BTreeMap<String, Duration>);

impl Unseen {
    /// Those that are over by now. `now` is since any fixed moment; `claims` are all that there are, by the runtime's ids,
    /// and whether anything of them lives.
    pub fn look(&mut self, now: Duration, claims: impl Iterator<Item = (String, bool)>) -> Vec<String> {
        let unseen = claims.filter(|(_, lives)| !lives);
        let since = |id: String| {
            let since = self.0.get(&id).copied().unwrap_or(now);
            (id, since)
        };
        self.0 = unseen.map(|(id, _)| since(id)).collect();
        let over = self.0.iter().filter(|(_, since)| PATIENCE <= now.saturating_sub(**since));
        over.map(|(id, _)| id.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(unseen: &mut Unseen, seconds: u64, claims: &[(&str, bool)], over: &[&str]) {
        let claims = claims.iter().map(|(id, lives)| ((*id).to_owned(), *lives));
        assert_eq!(unseen.look(Duration::from_secs(seconds), claims), over);
    }

    #[test]
    fn only_what_was_not_seen_for_a_minute_is_over() {
        let mut unseen = Unseen::default();
        check(&mut unseen, 0, &[("made", false), ("runs", true)], &[]);
        check(&mut unseen, 59, &[("made", false), ("runs", true)], &[]);
        check(&mut unseen, 60, &[("made", false), ("runs", true)], &["made"]);
    }

    #[test]
    fn one_that_was_seen_meanwhile_has_its_time_anew() {
        let mut unseen = Unseen::default();
        check(&mut unseen, 0, &[("c", false)], &[]);
        check(&mut unseen, 30, &[("c", true)], &[]);
        check(&mut unseen, 60, &[("c", false)], &[]);
        check(&mut unseen, 119, &[("c", false)], &[]);
        check(&mut unseen, 120, &[("c", false)], &["c"]);
    }
}
