//! What the records of one core add up to: causes in the words of `exec` and of violations, and what each is known
//! by. Pure but for `Names`, which looks functions up.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::{
    exec::tally::label,
    guard::abi::qc_record,
    policy::effective::Class,
    violation::{
        blame::{CameOn, Part, Relation, Sender, TickDependency},
        describe::local_timer,
        happening::{Cause, Entry, Happening, Story},
        kernel_symbols::KernelSymbols,
        scene::{self, Scene, Ticks},
        symbolize::place::{NoModule, Place},
        text::printable,
    },
};

/// A machine may make as many different causes as it has interrupts; these are told apart.
const CAUSES: usize = 256;
/// A kernel's comm has 15 characters.
const COMM_MAX: usize = 16;

/// What an entry is known by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trace {
    pub cause: Cause,
    /// Of a local timer interrupt: what the first timers that were due run.
    pub timers: Vec<String>,
    pub tick: Option<TickDependency>,
    /// What an IPI wants run.
    pub function: Option<String>,
    /// Who took the core after it.
    pub came: Option<Came>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Came {
    pub comm: String,
    pub is_kernels: bool,
    /// What a worker is about to run.
    pub function: Option<String>,
}

/// Names that /proc and /sys have for what records hold as numbers.
#[derive(Debug)]
pub struct Names {
    kernel: KernelSymbols,
    /// `None`: this kernel has no such file.
    nohz_full: Option<String>,
}

impl Names {
    /// `root` is /, or a tree like it.
    pub fn of(root: &Path) -> Names {
        let file: PathBuf = root.join("sys/devices/system/cpu/nohz_full");
        Names {
            kernel: KernelSymbols::new(root.join("proc/kallsyms")),
            nohz_full: std::fs::read_to_string(file).ok(),
        }
    }

    fn scene(&mut self, happening: &Happening) -> Scene {
        let names = scene::functions(&happening.blame).filter_map(|id| Some((id, self.kernel.name(id)?)));
        Scene {
            functions: names.collect(),
            ticks: Ticks::of(self.nohz_full.as_deref(), happening.thread.cpu),
            ..Scene::at(Place::Address { ip: happening.ip, why: NoModule::NotReadable })
        }
    }
}

#[derive(Debug, Default)]
pub struct Tally {
    by_words: HashMap<(usize, String), (Trace, u64)>,
    /// Of the last entry: who took the core after it is told by the record that follows.
    last: Option<(usize, String)>,
}

/// One cause, and how often it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub class: Class,
    pub words: String,
    pub trace: Trace,
    pub count: u64,
}

impl Tally {
    /// `during`, on the records' clock: what came before or after is not counted.
    pub fn note(&mut self, record: &qc_record, during: &Range<Duration>, names: &mut Names) {
        // A kind that this version does not know is no entry of its own guard.
        let Ok(happening) = Happening::try_from(record) else { return };
        if during.contains(&happening.at) {
            let scene = names.scene(&happening);
            self.add(&happening, &scene);
        }
    }

    pub fn add(&mut self, happening: &Happening, scene: &Scene) {
        match &happening.story {
            Story::Entry(entry) => self.entry(entry, happening, scene),
            Story::CameOn => self.came_on(happening, scene),
            Story::Armed | Story::Disarmed | Story::ArmRefused(_) | Story::LeftCore => {}
        }
    }

    pub fn of_class(&self, class: Class) -> u64 {
        let of_class = self.by_words.iter().filter(|((other, _), _)| *other == class.index());
        of_class.map(|(_, (_, count))| count).sum()
    }

    /// The most frequent first.
    pub fn causes(self) -> Vec<Counted> {
        let sorted: BTreeMap<_, _> = self.by_words.into_iter().collect();
        let counted = sorted.into_iter().filter_map(|((class, words), (trace, count))| {
            Some(Counted { class: *Class::ALL.get(class)?, words, trace, count })
        });
        let mut causes: Vec<Counted> = counted.collect();
        causes.sort_by_key(|cause| Reverse(cause.count));
        causes
    }

    fn entry(&mut self, entry: &Entry, happening: &Happening, scene: &Scene) {
        let blame = &happening.blame;
        let trace = Trace {
            cause: entry.cause.clone(),
            timers: blame.timers.iter().filter_map(|timer| scene.functions.get(timer).cloned()).collect(),
            tick: blame.tick,
            function: scene.function(blame.sender.as_ref().and_then(|sender| sender.function)),
            came: blame.came.as_ref().map(|came| Came::of(came, scene)),
        };
        let mut words = match (&entry.cause, &trace.came) {
            (Cause::Tick, _) => local_timer(happening, scene),
            (Cause::Switch { .. }, Some(came)) => format!("switched out by {}", came.words()),
            (cause, _) => label(cause),
        };
        if let Some(sender) = &blame.sender {
            words.push_str(&sender_words(sender, trace.function.as_deref()));
        }
        self.count((entry.class.index(), words), trace);
    }

    /// The same entry, of which more is known now.
    fn came_on(&mut self, happening: &Happening, scene: &Scene) {
        let (Some(key), Some(came)) = (self.last.take(), &happening.blame.came) else { return };
        let Some((trace, count)) = self.by_words.get_mut(&key) else { return };
        let came = Came::of(came, scene);
        *count -= 1;
        let trace = Trace { came: Some(came.clone()), ..trace.clone() };
        if *count == 0 {
            self.by_words.remove(&key);
        }
        self.count((key.0, format!("{}; then {} ran", key.1, came.words())), trace);
    }

    fn count(&mut self, mut key: (usize, String), trace: Trace) {
        if CAUSES <= self.by_words.len() && !self.by_words.contains_key(&key) {
            key.1 = "others".to_owned();
        }
        self.by_words.entry(key.clone()).or_insert((trace, 0)).1 += 1;
        self.last = Some(key);
    }
}

impl Came {
    fn of(came: &CameOn, scene: &Scene) -> Came {
        let is_kernels = came.relation == Relation::Kernel;
        Came { comm: came.task.comm.clone(), is_kernels, function: scene.function(came.function) }
    }

    fn words(&self) -> String {
        let comm = comm_words(&self.comm);
        let function = self.function.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
        match self.is_kernels {
            true => format!("kernel thread {comm}{function}"),
            false => format!("process {comm}"),
        }
    }
}

/// Which of a CPU's workers it was makes no difference.
fn comm_words(comm: &str) -> String {
    if comm.starts_with("kworker/") { "kworker".to_owned() } else { printable(comm, COMM_MAX).to_string() }
}

fn sender_words(sender: &Sender, function: Option<&str>) -> String {
    let function = function.map(|name| format!(" ({name})")).unwrap_or_default();
    let (cpu, comm) = (sender.cpu, comm_words(&sender.task.comm));
    match sender.part {
        Part::Asked => format!("{function} from {comm}"),
        Part::Interrupted => format!("{function} from an interrupt on cpu {cpu}"),
        Part::Ran => format!("{function} from cpu {cpu}, which ran {comm}"),
    }
}

#[cfg(test)]
#[path = "causes_tests.rs"]
mod tests;
