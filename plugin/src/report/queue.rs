//! Step 9: what still has to be told, in order, and no more of it than fits.
//!
//! Pure: the time comes in. A repeat never takes room: it is a number in its series, whether that is still
//! waiting or long told. What does not fit is counted, and the count is told when telling works again.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use k8s_openapi::jiff::Timestamp;

use crate::{
    report::{
        Reason, Subject,
        event::{Draft, Times},
    },
    violation::key::{Key, Whom},
};

#[cfg(test)]
mod tests;

/// After so many answers that were no, the next one in line is tried first.
const PATIENCE: u32 = 5;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub waiting: usize,
    /// Between two updates of one series.
    pub patch_every: Duration,
    /// When a told series without a repeat is forgotten.
    pub series_rest: Duration,
}

#[derive(Debug)]
pub struct Queue {
    bounds: Bounds,
    node: String,
    sequence: u64,
    series: HashMap<Key, Series>,
    waiting: VecDeque<Key>,
    /// Dropped and not yet told.
    dropped: u64,
    /// Not before.
    tell_dropped_at: Duration,
    /// Since the last drop, something was sent.
    sending_works: bool,
    swept: Duration,
}

#[derive(Debug)]
struct Series {
    stage: Stage,
    times: Times,
    /// The count that the API server knows.
    told: u64,
    touched: Duration,
    tries: u32,
}

#[derive(Debug)]
enum Stage {
    /// Admitted; its words are being found.
    Opened,
    Waiting(Named),
    Told {
        named: Named,
        patch_at: Duration,
    },
    /// There was no room. A repeat asks again.
    Dropped(Named),
    /// The API server does not want it.
    Refused,
}

/// A draft and the name of its Event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub name: String,
    pub draft: Draft,
}

/// One request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    Create {
        key: Key,
        named: Named,
        times: Times,
    },
    Patch {
        key: Key,
        named: Named,
        times: Times,
    },
    /// Tells of `count` dropped ones.
    CreateDropped {
        count: u64,
        named: Named,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Never again: the object is gone, or we may not.
    Refused,
    /// The Event that was to be patched has been deleted; Events live an hour.
    Expired,
    /// The API server answered, but not with a decision about this Event.
    NotNow,
    /// It did not answer.
    NoAnswer,
}

impl Queue {
    pub fn new(node: String, bounds: Bounds) -> Queue {
        Queue {
            bounds,
            node,
            sequence: 0,
            series: HashMap::new(),
            waiting: VecDeque::new(),
            dropped: 0,
            tell_dropped_at: Duration::ZERO,
            sending_works: true,
            swept: Duration::ZERO,
        }
    }

    /// The first of a series; `fill` brings its words.
    pub fn open(&mut self, key: Key, at: Timestamp, now: Duration) {
        let unfinished = self.series.get(&key).is_some_and(|series| match series.stage {
            Stage::Opened | Stage::Waiting(_) | Stage::Dropped(_) => true,
            Stage::Told { .. } => series.told < series.times.count,
            Stage::Refused => false,
        });
        if unfinished {
            // The API server is away for longer than a series rests: it is still the same one to tell.
            return self.again(&key, at, now);
        }
        let times = Times { count: 1, last: at };
        self.series.insert(key, Series { stage: Stage::Opened, times, told: 0, touched: now, tries: 0 });
    }

    /// How many had to go for it.
    #[must_use]
    pub fn fill(&mut self, key: &Key, draft: Draft) -> u64 {
        let Some(series) = self.series.get_mut(key) else {
            return 0;
        };
        if matches!(series.stage, Stage::Opened) {
            self.sequence += 1;
            let name = draft.name(&self.node, self.sequence);
            series.stage = Stage::Waiting(Named { name, draft });
            self.waiting.push_back(key.clone());
        }
        self.make_room()
    }

    pub fn again(&mut self, key: &Key, at: Timestamp, now: Duration) {
        let Some(series) = self.series.get_mut(key) else {
            return;
        };
        series.times = Times { count: series.times.count + 1, last: series.times.last.max(at) };
        series.touched = now;
        if let Stage::Dropped(named) = &series.stage
            && self.waiting.len() < self.bounds.waiting
        {
            series.stage = Stage::Waiting(named.clone());
            self.waiting.push_back(key.clone());
        }
    }

    /// Its words will never come.
    pub fn drop_opened(&mut self, key: &Key) {
        self.series.remove(key);
        self.count_drop();
    }

    /// What to do first; `settle` takes it off. `None`: nothing before `next_due`.
    pub fn next(&mut self, at: Timestamp, now: Duration) -> Option<Job> {
        self.sweep(now);
        let may_tell = (self.sending_works || self.waiting.is_empty()) && self.tell_dropped_at <= now;
        if 0 < self.dropped && may_tell {
            return Some(self.tell_dropped(at));
        }
        if let Some(key) = self.waiting.front() {
            let series = self.series.get(key)?;
            let Stage::Waiting(named) = &series.stage else {
                return None;
            };
            return Some(Job::Create { key: key.clone(), named: named.clone(), times: series.times });
        }
        self.series.iter().find_map(|(key, series)| match &series.stage {
            Stage::Told { named, patch_at } if series.told < series.times.count && *patch_at <= now => {
                Some(Job::Patch { key: key.clone(), named: named.clone(), times: series.times })
            }
            _ => None,
        })
    }

    /// When the next update of a series, or of what was dropped, may be sent.
    pub fn next_due(&self) -> Option<Duration> {
        let due = self.series.values().filter_map(|series| match series.stage {
            Stage::Told { patch_at, .. } if series.told < series.times.count => Some(patch_at),
            _ => None,
        });
        due.chain((0 < self.dropped).then_some(self.tell_dropped_at)).min()
    }

    pub fn settle(&mut self, job: &Job, outcome: Outcome, now: Duration) {
        self.sending_works |= outcome == Outcome::Done;
        let (key, times) = match job {
            Job::CreateDropped { count, .. } => {
                match outcome {
                    Outcome::Done | Outcome::Refused | Outcome::Expired => {
                        self.dropped -= count;
                        self.tell_dropped_at = now + self.bounds.patch_every;
                    }
                    Outcome::NotNow | Outcome::NoAnswer => self.sending_works = false,
                }
                return;
            }
            Job::Create { key, times, .. } | Job::Patch { key, times, .. } => (key, *times),
        };
        match outcome {
            Outcome::Done => self.told(key, times.count, now),
            Outcome::Refused => self.refused(key),
            Outcome::Expired => self.expired(key),
            Outcome::NotNow => self.step_back(key, job, now),
            Outcome::NoAnswer => {}
        }
    }

    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    fn told(&mut self, key: &Key, count: u64, now: Duration) {
        self.waiting.retain(|waiting| waiting != key);
        if let Some(series) = self.series.get_mut(key) {
            let stage = std::mem::replace(&mut series.stage, Stage::Refused);
            if let Stage::Waiting(named) | Stage::Told { named, .. } = stage {
                series.stage = Stage::Told { named, patch_at: now + self.bounds.patch_every };
            }
            series.told = count;
            series.tries = 0;
        }
    }

    fn refused(&mut self, key: &Key) {
        self.waiting.retain(|waiting| waiting != key);
        self.set_stage(key, Stage::Refused);
    }

    fn set_stage(&mut self, key: &Key, stage: Stage) {
        if let Some(series) = self.series.get_mut(key) {
            series.stage = stage;
        }
    }

    /// Becomes a new Event, under a new name, with its whole count.
    fn expired(&mut self, key: &Key) {
        if let Some(Series { stage: Stage::Told { named, .. }, .. }) = self.series.get(key) {
            let draft = named.draft.clone();
            self.set_stage(key, Stage::Opened);
            // Nothing else waits while a patch is sent, so there is room.
            let _none = self.fill(key, draft);
        }
    }

    /// An admission webhook that fails for one namespace must not hold up the others.
    fn step_back(&mut self, key: &Key, job: &Job, now: Duration) {
        let Some(series) = self.series.get_mut(key) else {
            return;
        };
        series.tries += 1;
        if series.tries % PATIENCE != 0 {
            return;
        }
        if let Stage::Told { patch_at, .. } = &mut series.stage {
            *patch_at = now + self.bounds.patch_every;
        }
        if matches!(job, Job::Create { .. }) && self.waiting.front() == Some(key) {
            self.waiting.rotate_left(1);
        }
    }

    fn tell_dropped(&mut self, at: Timestamp) -> Job {
        let count = self.dropped;
        let draft = Draft {
            subject: Subject::Node,
            reason: Reason::EventsDropped,
            action: Reason::EventsDropped.action(),
            note: format!(
                "{count} Events of this node were dropped because the API server did not take them in time; \
                 the agent's metrics and log have the violations"
            ),
            at,
        };
        self.sequence += 1;
        Job::CreateDropped { count, named: Named { name: draft.name(&self.node, self.sequence), draft } }
    }

    /// Drops the newest of the pod that has the most: the beginning of each story is worth more than its end,
    /// and a noisy pod must not cost a quiet one its only Event.
    fn make_room(&mut self) -> u64 {
        let mut gone = 0;
        while self.bounds.waiting < self.waiting.len() {
            let mut by_pod: HashMap<&Whom, usize> = HashMap::new();
            for key in &self.waiting {
                *by_pod.entry(&key.whom).or_default() += 1;
            }
            let most = by_pod.values().copied().max();
            let newest_of_noisiest =
                self.waiting.iter().rposition(|key| by_pod.get(&key.whom).copied() == most);
            let Some(key) = newest_of_noisiest.and_then(|index| self.waiting.remove(index)) else {
                break;
            };
            if let Some(series) = self.series.get_mut(&key)
                && let Stage::Waiting(named) = &series.stage
            {
                series.stage = Stage::Dropped(named.clone());
            }
            self.count_drop();
            gone += 1;
        }
        gone
    }

    fn count_drop(&mut self) {
        self.dropped += 1;
        self.sending_works = false;
    }

    fn sweep(&mut self, now: Duration) {
        let Bounds { series_rest, .. } = self.bounds;
        if now.saturating_sub(self.swept) < series_rest / 8 {
            return;
        }
        self.swept = now;
        self.series.retain(|_, series| {
            let rests = series_rest <= now.saturating_sub(series.touched);
            match series.stage {
                Stage::Opened | Stage::Waiting(_) => true,
                Stage::Told { .. } => !rests || series.told < series.times.count,
                Stage::Dropped(_) | Stage::Refused => !rests,
            }
        });
    }
}
