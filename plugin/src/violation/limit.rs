//! Step 8: which happenings are worth an Event of their own.
//!
//! The same thing again joins its series and costs nothing; something new takes a token of its pod's bucket
//! for that topic; without a token it is only counted, and the next one told says how many there were.
//! Pure: the time comes in. Bounded by the buckets: a pod opens no more series than it had tokens.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::violation::key::{Key, Topic, Whom};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// New things of one pod and class at once.
    pub burst: u32,
    /// Then one more each.
    pub every: Duration,
    /// A series that rests for so long is over: the same thing again is a new one.
    pub series_rest: Duration,
}

impl Default for Limits {
    fn default() -> Limits {
        // kube-apiserver keeps an Event for an hour; client-go ends a series after six minutes of rest.
        Limits { burst: 10, every: Duration::from_secs(30), series_rest: Duration::from_secs(360) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Tell it; so many others of this pod and topic were not told since the last one that was.
    New {
        untold: u64,
    },
    Again,
    TooMany,
}

/// Of one pod, so that containers of a pod share; pods do not.
type BucketKey = (Option<Arc<str>>, Topic);

#[derive(Debug)]
pub struct Limiter {
    limits: Limits,
    buckets: HashMap<BucketKey, Bucket>,
    series: HashMap<Key, Duration>,
    swept: Duration,
}

#[derive(Debug)]
struct Bucket {
    /// When it is full again: a full bucket holds no memory of the past.
    full_at: Duration,
    untold: u64,
}

impl Limiter {
    pub fn new(limits: Limits) -> Limiter {
        Limiter { limits, buckets: HashMap::new(), series: HashMap::new(), swept: Duration::ZERO }
    }

    /// `now` is any clock that does not go back.
    pub fn admit(&mut self, key: &Key, now: Duration) -> Verdict {
        self.sweep(now);
        if let Some(last) = self.series.get_mut(key) {
            *last = now;
            return Verdict::Again;
        }
        let Limits { burst, every, .. } = self.limits;
        let pod = match &key.whom {
            Whom::Container { pod_uid, .. } => Some(Arc::clone(pod_uid)),
            Whom::Node => None,
        };
        let bucket =
            self.buckets.entry((pod, key.what.topic())).or_insert(Bucket { full_at: now, untold: 0 });
        let full_at = bucket.full_at.max(now) + every;
        if every * burst < full_at.saturating_sub(now) {
            bucket.untold += 1;
            return Verdict::TooMany;
        }
        bucket.full_at = full_at;
        self.series.insert(key.clone(), now);
        Verdict::New { untold: std::mem::take(&mut bucket.untold) }
    }

    /// The new thing could not be told after all: the next of its kind is new again.
    pub fn retract(&mut self, key: &Key) {
        self.series.remove(key);
    }

    /// The pod is gone.
    pub fn forget(&mut self, pod_uid: &str) {
        self.buckets.retain(|(pod, _), _| pod.as_deref() != Some(pod_uid));
        self.series
            .retain(|key, _| !matches!(&key.whom, Whom::Container { pod_uid: p, .. } if **p == *pod_uid));
    }

    fn sweep(&mut self, now: Duration) {
        let rest = self.limits.series_rest;
        if now.saturating_sub(self.swept) < rest / 8 {
            return;
        }
        self.swept = now;
        self.series.retain(|_, last| now.saturating_sub(*last) < rest);
        self.buckets.retain(|_, bucket| now < bucket.full_at || 0 < bucket.untold);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::violation::{
        happening::SyscallAbi,
        key::{InterruptKind, What},
    };

    const LIMITS: Limits =
        Limits { burst: 3, every: Duration::from_secs(30), series_rest: Duration::from_secs(360) };

    fn call(pod: &str, ip: u64) -> Key {
        let whom = Whom::Container { pod_uid: pod.into(), container: "c".into() };
        Key { whom, what: What::Syscall { number: 1, abi: SyscallAbi::X64, ip } }
    }

    fn tick(pod: &str) -> Key {
        Key { what: What::Interrupt { kind: InterruptKind::Tick }, ..call(pod, 0) }
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn the_same_thing_again_joins_its_series() {
        let mut limiter = Limiter::new(LIMITS);
        assert_eq!(limiter.admit(&call("a", 1), at(0)), Verdict::New { untold: 0 });
        for second in 0..100_000 {
            assert_eq!(limiter.admit(&call("a", 1), at(second)), Verdict::Again);
        }
    }

    #[test]
    fn a_series_that_rested_is_told_anew() {
        let mut limiter = Limiter::new(LIMITS);
        limiter.admit(&call("a", 1), at(0));
        assert_eq!(limiter.admit(&call("a", 1), at(1000)), Verdict::New { untold: 0 });
    }

    #[test]
    fn what_was_too_much_is_counted_in_the_next_one_told() {
        let mut limiter = Limiter::new(LIMITS);
        for ip in 0..3 {
            assert_eq!(limiter.admit(&call("a", ip), at(0)), Verdict::New { untold: 0 });
        }
        for ip in 3..315 {
            assert_eq!(limiter.admit(&call("a", ip), at(0)), Verdict::TooMany);
        }
        assert_eq!(limiter.admit(&call("a", 999), at(30)), Verdict::New { untold: 312 });
    }

    #[test]
    fn neither_another_pod_nor_another_class_suffers() {
        let mut limiter = Limiter::new(LIMITS);
        for ip in 0..100 {
            limiter.admit(&call("noisy", ip), at(0));
        }
        assert_eq!(limiter.admit(&call("quiet", 1), at(0)), Verdict::New { untold: 0 });
        assert_eq!(limiter.admit(&tick("noisy"), at(0)), Verdict::New { untold: 0 });
    }

    #[test]
    fn a_pod_that_is_gone_leaves_nothing() {
        let mut limiter = Limiter::new(LIMITS);
        for ip in 0..100 {
            limiter.admit(&call("a", ip), at(0));
        }
        limiter.forget("a");
        assert!(limiter.buckets.is_empty() && limiter.series.is_empty());
    }

    proptest! {
        #[test]
        fn tokens_bound_what_is_told_and_nothing_is_miscounted(
            happenings in proptest::collection::vec((0_u64..40, 0_u64..20), 1..400),
        ) {
            let mut limiter = Limiter::new(LIMITS);
            let (mut now, mut new, mut again, mut untold, mut too_many) = (0, 0, 0, 0, 0);
            let total = happenings.len() as u64;
            for (pause, ip) in happenings {
                now += pause;
                match limiter.admit(&call("a", ip), at(now)) {
                    Verdict::New { untold: n } => { new += 1; untold += n; }
                    Verdict::Again => again += 1,
                    Verdict::TooMany => too_many += 1,
                }
            }
            prop_assert!(new <= 3 + now / 30, "{new} told in {now} s");
            prop_assert_eq!(new + again + too_many, total);
            prop_assert!(untold <= too_many);
            prop_assert!(limiter.series.len() as u64 <= new);
        }
    }
}
