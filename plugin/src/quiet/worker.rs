//! Step 3: the thread that makes cores quiet, on a housekeeping CPU, and looks every few seconds whether they still are.
//!
//! What is wanted is always read from the ledger: a question only says "now". Several that wait are answered by one
//! pass.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use tokio::sync::watch;

use super::{
    catalogue::{self, Demand, Quieted},
    journal,
    judge::{self, Boot, NotQuietEnough},
    keeper::{Keeper, Known, Pass},
    kernel::{Host, Kernel as _},
    setting::{Area, Drift, Outcome, State},
};
use crate::{
    cores::{
        grants::Grants,
        ledger::{Ledger, Wanted},
        set::CpuSet,
    },
    policy::effective::Nohz,
};

/// Of an interrupt that a driver asks for now, the core is free by then.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// An allocation that no container was created for may be of a pod that never comes.
const WAITED_FOR: Duration = Duration::from_secs(120);
/// How the node's cores stand, for its object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    pub pass: Pass,
    pub grants: Vec<Quieted>,
    /// What the kernel itself did not give back.
    pub kept_by_kernel: Vec<String>,
    /// Interrupts that cannot be moved, with their handlers.
    pub fixed_interrupts: Vec<String>,
    /// Why nothing is made quiet.
    pub failed: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotReady {
    #[error(transparent)]
    NotQuietEnough(#[from] NotQuietEnough),
    #[error(
        "the cores are not quiet yet: the node's settings take longer than usual; the kubelet tries again by itself, unless \
         the pod has restartPolicy: Never: then make it anew"
    )]
    NotYet,
    #[error("the cores cannot be made quiet: {0}; see the agent's log, the kubelet tries again by itself")]
    Failed(String),
}

/// Who asks, and what for.
struct Question {
    container_id: String,
    nohz: Nohz,
    answer: mpsc::Sender<Result<Vec<String>, NotReady>>,
}

enum Message {
    Look,
    Ask(Question),
    /// Answered when everything was given back.
    GiveBack(mpsc::Sender<Vec<String>>),
}

/// The worker, for those who ask it.
#[derive(Debug, Clone)]
pub struct Quiet {
    messages: mpsc::Sender<Message>,
    pub standing: watch::Receiver<Standing>,
    boot: Arc<Boot>,
}

#[derive(Debug)]
pub struct Start {
    pub host: Host,
    pub journal: PathBuf,
    pub grants: Arc<Grants>,
    pub online: CpuSet,
    pub housekeeping: CpuSet,
    pub boot: Boot,
}

/// Told of what one look found changed, on the worker's thread.
pub type OnDrift = Box<dyn Fn(&[Drift]) + Send>;

impl Start {
    /// Returns at once; the first pass gives back what an earlier agent left behind.
    pub fn spawn(self, on_drift: OnDrift) -> Result<Quiet, StartError> {
        let boot_id =
            self.host.read("/proc/sys/kernel/random/boot_id".as_ref()).map_err(StartError::BootId)?;
        let (journal, damage) = journal::read(&self.journal, boot_id.trim())?;
        let (messages, inbox) = mpsc::channel();
        let (standing, observed) = watch::channel(Standing::default());
        let boot = Arc::new(self.boot);
        let worker = Worker {
            keeper: Keeper::new(self.host, journal::File(self.journal), journal),
            grants: self.grants,
            online: self.online,
            housekeeping: self.housekeeping,
            boot: Arc::clone(&boot),
            standing,
            on_drift,
            released: false,
            damage,
            complained: BTreeSet::new(),
            waiting: BTreeMap::new(),
        };
        std::thread::Builder::new()
            .name("quiet".to_owned())
            .spawn(move || worker.work(&inbox))
            .map_err(StartError::Thread)?;
        Ok(Quiet { messages, standing: observed, boot })
    }
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("read the boot's id")]
    BootId(#[source] io::Error),
    #[error(transparent)]
    Journal(#[from] journal::JournalError),
    #[error("start the thread that makes cores quiet")]
    Thread(#[source] io::Error),
}

impl Quiet {
    /// A container of somebody else comes: where cpusets keep others off a core, its own is to be set before it runs.
    pub fn somebody_comes(&self) {
        let concerned = |outcome: &Outcome| outcome.setting.area == Area::OthersCgroup;
        if self.standing.borrow().pass.outcomes.iter().any(concerned) {
            self.look();
        }
    }

    /// The ledger has changed, or may have.
    pub fn look(&self) {
        let _the_worker_outlives_the_agents_other_parts = self.messages.send(Message::Look);
    }

    pub fn boot(&self) -> &Boot {
        &self.boot
    }

    /// Are this container's cores as quiet as they get? Then: what they lack all the same.
    pub fn ready(&self, container_id: &str, nohz: Nohz, patience: Duration) -> Result<Vec<String>, NotReady> {
        let (answer, answered) = mpsc::channel();
        let question = Question { container_id: container_id.to_owned(), nohz, answer };
        self.messages.send(Message::Ask(question)).map_err(|_| NotReady::NotYet)?;
        answered.recv_timeout(patience).unwrap_or(Err(NotReady::NotYet))
    }

    /// For the node's release: everything as it was, however long that takes. Returns what is not.
    pub fn give_back(&self) -> Vec<String> {
        let (answer, answered) = mpsc::channel();
        let _the_worker_outlives_the_agents_other_parts = self.messages.send(Message::GiveBack(answer));
        answered.recv().unwrap_or_default()
    }
}

struct Worker {
    keeper: Keeper<Host, journal::File>,
    grants: Arc<Grants>,
    online: CpuSet,
    housekeeping: CpuSet,
    boot: Arc<Boot>,
    standing: watch::Sender<Standing>,
    on_drift: OnDrift,
    /// Nothing is wanted any more, whatever the kubelet gave away and no container came for.
    released: bool,
    damage: Option<String>,
    /// Names of what was refused at the last pass.
    complained: BTreeSet<String>,
    /// Allocations without a container, by number: since when.
    waiting: BTreeMap<u64, Instant>,
}

impl Worker {
    fn work(mut self, inbox: &mpsc::Receiver<Message>) {
        let mut messages = Vec::new();
        loop {
            self.released |= messages.iter().any(|message| matches!(message, Message::GiveBack(_)));
            let demand = self.demand();
            self.pass(&demand);
            for message in messages.drain(..) {
                self.answer(message);
            }
            match inbox.recv_timeout(LOOK_EVERY) {
                Ok(message) => messages.push(message),
                Err(mpsc::RecvTimeoutError::Timeout) => {}
                Err(mpsc::RecvTimeoutError::Disconnected) => return,
            }
            messages.extend(inbox.try_iter());
        }
    }

    fn demand(&mut self) -> Demand {
        let now = Instant::now();
        let wanted: Vec<Wanted> = self.grants.read(|ledger| ledger.wanted().collect());
        let waiting: BTreeMap<u64, Instant> = wanted
            .iter()
            .filter(|wanted| wanted.container_id.is_none())
            .map(|wanted| (wanted.number, self.waiting.get(&wanted.number).copied().unwrap_or(now)))
            .collect();
        self.waiting = waiting;
        let counts = |wanted: &Wanted| {
            self.waiting.get(&wanted.number).is_none_or(|since| now.duration_since(*since) < WAITED_FOR)
        };
        Demand {
            grants: wanted
                .into_iter()
                .filter(|wanted| !self.released && counts(wanted))
                .map(|wanted| wanted.quieted)
                .collect(),
            online: self.online.clone(),
            housekeeping: self.housekeeping.clone(),
            boot_isolated: self.boot.isolated.clone(),
            no_partition: judge::without_partition(&self.standing.borrow().pass),
        }
    }

    fn pass(&mut self, demand: &Demand) {
        let idle = demand.grants.is_empty();
        if !idle && self.keeper.at_rest().is_none() {
            let now = self.kernels_own();
            self.keeper.set_at_rest(now);
        }
        let (settings, known) = catalogue::all_settings(self.keeper.kernel(), demand);
        let mut standing = Standing { grants: demand.grants.clone(), ..Standing::default() };
        // What an earlier agent's grants were may be lost with its ledger, while their containers run.
        let is_told = self.released || self.grants.read(Ledger::is_reconciled);
        let known = if is_told { known } else { Known::InPart };
        match self.keeper.keep_known(&settings, known) {
            Ok(pass) => {
                for drift in &pass.drift {
                    tracing::warn!(
                        step = 3,
                        setting = drift.setting.name,
                        found = drift.found,
                        wanted = drift.wanted,
                        refused = drift.refused,
                        "somebody else changed it"
                    );
                }
                if !pass.drift.is_empty() {
                    (self.on_drift)(&pass.drift);
                }
                standing.fixed_interrupts = catalogue::fixed_interrupts(self.keeper.kernel(), &pass);
                self.log_refusals(&pass);
                standing.pass = pass;
            }
            Err(error) => {
                tracing::error!(step = 3, %error, "the journal of settings cannot be written: nothing is changed");
                standing.failed = Some(format!("write the journal of settings: {error}"));
            }
        }
        standing.kept_by_kernel.extend(self.damage.clone());
        if idle && let Some(at_rest) = self.keeper.at_rest() {
            let now = self.kernels_own();
            let changed = at_rest.iter().filter_map(|(file, before)| Some((file, before, now.get(file)?)));
            let changed = changed.filter(|(_, before, now)| before != now);
            standing.kept_by_kernel.extend(changed.map(|(file, before, now)| {
                format!("{}: {before:?} before, {now:?} now: a reboot gives it back", file.display())
            }));
        }
        self.standing.send_if_modified(|known| {
            let news = *known != standing;
            *known = standing;
            news
        });
    }

    /// Each once, for as long as it lasts.
    fn log_refusals(&mut self, pass: &Pass) {
        let refused = pass.outcomes.iter().filter_map(|outcome| match &outcome.state {
            State::Refused { found, why } => Some((outcome, found, why)),
            State::Kept { .. } | State::Absent => None,
        });
        let mut names = BTreeSet::new();
        for (Outcome { setting, .. }, found, why) in refused {
            if !self.complained.contains(&setting.name) {
                tracing::warn!(step = 3, setting = setting.name, found, why, "it stays as it is");
            }
            names.insert(setting.name.clone());
        }
        self.complained = names;
    }

    /// What no file of ours sets, and partitions change.
    fn kernels_own(&self) -> BTreeMap<PathBuf, String> {
        let files = [
            "/sys/fs/cgroup/cpuset.cpus.isolated",
            "/sys/devices/virtual/workqueue/cpumask_isolated",
            "/sys/devices/virtual/workqueue/cpumask_requested",
        ];
        let kernel = self.keeper.kernel();
        let said = |file: &Path| kernel.read(file).map(|text| (file.to_owned(), text.trim().to_owned()));
        files.into_iter().filter_map(|file| said(file.as_ref()).ok()).collect()
    }

    fn answer(&self, message: Message) {
        let standing = self.standing.borrow();
        match message {
            Message::Look => {}
            Message::Ask(question) => {
                let _asker_may_be_gone = question.answer.send(self.judge(&question, &standing));
            }
            Message::GiveBack(answer) => {
                let left = standing.pass.not_restored.iter().chain(&standing.kept_by_kernel).cloned();
                let _asker_may_be_gone = answer.send(left.collect());
            }
        }
    }

    fn judge(&self, question: &Question, standing: &Standing) -> Result<Vec<String>, NotReady> {
        if let Some(failed) = &standing.failed {
            return Err(NotReady::Failed(failed.clone()));
        }
        let wanted = self.grants.read(|ledger| {
            ledger.wanted().find(|wanted| wanted.container_id.as_deref() == Some(&question.container_id))
        });
        let Some(Wanted { quieted, .. }) = wanted else { return Err(NotReady::NotYet) };
        judge::refuse_quota(question.nohz, &quieted, &standing.pass)?;
        Ok(judge::shortcomings(question.nohz, &quieted, &self.boot, &standing.pass))
    }
}
