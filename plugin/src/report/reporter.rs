//! Step 9: where the other steps say what happened.
//!
//! A call never waits and never fails: it decides under a lock what is new, counts the rest, and leaves the
//! slow part (symbols, the API server) to the task. May be called from any thread.

use std::{
    collections::HashMap,
    convert::Infallible,
    io::Write,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use kube::Client;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    guard::abi::qc_record,
    metrics::{ContainerLabels, DropReason, Metrics},
    report::{
        ContainerInfo, Reason, Subject,
        event::Draft,
        log::Log,
        queue::{Bounds, Queue},
        sender::{self, Sender},
        worker::{self, Work},
    },
    violation::{
        happening::{Happening, Story},
        key::{Key, What, Whom},
        limit::{Limiter, Limits, Verdict},
        symbolize::Symbolizer,
    },
};

/// New things whose words are being found: the limits let a pod have 10 a class at once.
const WORK: usize = 1024;
/// Reading a process's memory map for later, at most so often.
const REMEMBER_EVERY: Duration = Duration::from_secs(1);
/// Processes for which we know when that was.
const REMEMBERED: usize = 4096;

#[derive(Debug, Clone)]
pub struct Config {
    pub node: String,
    pub limits: Limits,
    pub bounds: Bounds,
    /// The name of an x86-64 system call.
    pub syscall_name: fn(u64) -> Option<&'static str>,
}

impl Config {
    pub fn new(node: String, syscall_name: fn(u64) -> Option<&'static str>) -> Config {
        let limits = Limits::default();
        let bounds =
            Bounds { waiting: 1024, patch_every: Duration::from_secs(10), series_rest: limits.series_rest };
        Config { node, limits, bounds, syscall_name }
    }
}

/// Where Events go. The log gets everything in both cases.
#[expect(missing_debug_implementations, reason = "kube's client has none")]
pub enum Destination {
    Kubernetes(Client),
    LogOnly,
}

#[derive(Debug, Clone)]
pub struct Reporter {
    shared: Arc<Shared>,
    work: mpsc::Sender<Work>,
}

#[derive(Debug)]
pub(super) struct Shared {
    started: Instant,
    queue: Mutex<Queue>,
    limiter: Mutex<Limiter>,
    remembered: Mutex<HashMap<u32, Duration>>,
    log: Mutex<Log>,
    pub(super) metrics: Arc<Metrics>,
    /// The queue has something new.
    pub(super) work: Notify,
}

impl Reporter {
    /// The second is the task that does the work; it never ends. `log` gets one line of JSON for each thing.
    pub fn new(
        config: Config,
        destination: Destination,
        symbolizer: Symbolizer,
        metrics: Arc<Metrics>,
        log: Box<dyn Write + Send>,
    ) -> (Reporter, impl Future<Output = Infallible> + Send) {
        let Config { node, limits, bounds, syscall_name } = config;
        let shared = Arc::new(Shared {
            started: Instant::now(),
            queue: Mutex::new(Queue::new(node.clone(), bounds)),
            limiter: Mutex::new(Limiter::new(limits)),
            remembered: Mutex::default(),
            log: Mutex::new(Log::new(log, node.clone())),
            metrics,
            work: Notify::new(),
        });
        let (work, to_do) = mpsc::channel(WORK);
        let reporter = Reporter { shared: Arc::clone(&shared), work };
        let task = async move {
            let words = worker::run(to_do, symbolizer, syscall_name, &shared);
            let events = async {
                match destination {
                    Destination::Kubernetes(client) => sender::run(Sender::new(client, node), &shared).await,
                    Destination::LogOnly => log_series(&shared).await,
                }
            };
            tokio::pin!(words, events);
            tokio::select! {
                never = &mut words => never,
                never = &mut events => never,
            }
        };
        (reporter, task)
    }

    /// What the guard saw. `pid` is the thread as the agent's own /proc shows it.
    pub fn violation(&self, info: &Arc<ContainerInfo>, record: &qc_record, pid: Option<i32>) {
        let happening = match Happening::try_from(record) {
            Ok(happening) => happening,
            Err(error) => {
                if self.shared.metrics.records_unknown.inc() == 0 {
                    tracing::warn!(%error, "read record; further ones are only counted");
                }
                return;
            }
        };
        let Some(what) = What::of(&happening) else {
            // Armed: the moment when the program is known to be the one that will be reported.
            if happening.story == Story::Armed {
                self.remember(info, pid, happening);
            }
            return;
        };
        let at = wall_clock(happening.at);
        self.admit(whom(info), what, at, |key, untold| Work::Violation {
            key,
            info: Arc::clone(info),
            happening: Box::new(happening),
            pid,
            at,
            untold,
        });
    }

    pub fn event(&self, subject: Subject, reason: Reason, note: String) {
        let whom = match &subject {
            Subject::Container(info) => whom(info),
            Subject::Node => Whom::Node,
        };
        let what = What::Told { reason: reason.text(), note: note.as_str().into() };
        let at = Timestamp::now();
        self.admit(whom, what, at, |key, untold| Work::Told {
            key,
            draft: Draft { subject, reason, action: reason.action(), note, at },
            untold,
        });
    }

    /// Frees what is held for it: open files, series of metrics.
    pub fn container_gone(&self, info: &ContainerInfo) {
        self.shared.metrics.remove(&ContainerLabels {
            namespace: info.namespace.to_string(),
            pod: info.pod.to_string(),
            container: info.container.to_string(),
        });
        let forget = Work::Forget { container_id: Arc::clone(&info.container_id) };
        if self.work.try_send(forget).is_err() {
            tracing::warn!(container = &*info.container_id, "forget binaries of a container: too much to do");
        }
    }

    pub fn pod_gone(&self, pod_uid: &str) {
        self.shared.limiter().forget(pod_uid);
    }

    fn admit(&self, whom: Whom, what: What, at: Timestamp, work: impl FnOnce(Key, u64) -> Work) {
        let key = Key { whom, what };
        let now = self.shared.now();
        let verdict = self.shared.limiter().admit(&key, now);
        match verdict {
            Verdict::New { untold } => {
                self.shared.queue().open(key.clone(), at, now);
                if self.work.try_send(work(key.clone(), untold)).is_err() {
                    self.shared.limiter().retract(&key);
                    self.shared.queue().drop_opened(&key);
                    self.shared.metrics.event_dropped(DropReason::Overflow, 1);
                    self.shared.work.notify_one();
                }
            }
            Verdict::Again => {
                self.shared.queue().again(&key, at, now);
                self.shared.work.notify_one();
            }
            Verdict::TooMany => {
                self.shared.metrics.violations_untold.inc();
            }
        }
    }

    fn remember(&self, info: &ContainerInfo, pid: Option<i32>, happening: Happening) {
        let Some(pid) = pid else {
            return;
        };
        let now = self.shared.now();
        let mut remembered = self.shared.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let tgid = happening.thread.host_tgid;
        if remembered.get(&tgid).is_some_and(|last| now.saturating_sub(*last) < REMEMBER_EVERY) {
            return;
        }
        if REMEMBERED <= remembered.len() {
            remembered.clear();
        }
        remembered.insert(tgid, now);
        drop(remembered);
        let container_id = Arc::clone(&info.container_id);
        // Without it, a place of a dead process is an address: worse, not wrong.
        let _ = self.work.try_send(Work::Remember { container_id, pid, thread: happening.thread });
    }
}

impl Shared {
    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        // Whoever panicked left a queue that is at worst missing one Event.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn limiter(&self) -> MutexGuard<'_, Limiter> {
        self.limiter.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn measure_queue(&self) {
        let waiting = self.queue().waiting();
        self.metrics.events_waiting.set(i64::try_from(waiting).unwrap_or(i64::MAX));
    }
}

/// Without an API server to tell, told is told; what is left are the updates of series.
async fn log_series(shared: &Shared) -> Infallible {
    loop {
        let job = shared.queue().next(Timestamp::now(), shared.now());
        match job {
            Some(job) => sender::done(&job, shared),
            None => sender::wait_for_work(shared).await,
        }
    }
}

fn whom(info: &ContainerInfo) -> Whom {
    Whom::Container { pod_uid: Arc::clone(&info.pod_uid), container: Arc::clone(&info.container) }
}

/// The guard stamps records with CLOCK_MONOTONIC, Events carry the time of day.
fn wall_clock(monotonic: Duration) -> Timestamp {
    let now = Duration::try_from(clock_gettime(ClockId::Monotonic)).unwrap_or(monotonic);
    let ago = SignedDuration::try_from(now.saturating_sub(monotonic)).unwrap_or(SignedDuration::ZERO);
    let wall = Timestamp::now();
    wall.checked_sub(ago).unwrap_or(wall)
}
