//! Step 8: from an instruction pointer to a function of the container's own binary.
//!
//! ```text
//!  agent:  /proc/PID/maps ─ Snapshot ─► mapping ─ open (O_PATH) ─► Module ─┐ cache
//!  child:  open for reading ─ give up every privilege ─ blazesym ─► one line│ 1 s
//! ```
//!
//! The binary is hostile input: the agent itself never reads a byte of it. Blocks for up to the deadline:
//! call it from a thread that may wait. The agent runs on housekeeping CPUs and its children with it.

use std::{
    collections::{HashMap, VecDeque},
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::violation::{
    cgroups::Cgroups,
    happening::{Happening, Thread},
    kernel_symbols::KernelSymbols,
    scene::{self, Scene, Ticks},
    symbolize::{
        cache::Cache,
        child::{Question, Symbol},
        maps::Mapping,
        parent::Children,
        place::{NoFunction, NoModule, Place},
        process::{Module, Snapshot},
    },
};

pub mod cache;
mod call;
pub mod child;
pub mod maps;
pub mod parent;
pub mod place;
pub mod process;
pub mod sandbox;

/// Processes of one container that we can still symbolize after their death.
const REMEMBERED_PROCESSES: usize = 4;
/// Files of one such process that we hold open.
const REMEMBERED_FILES: usize = 16;
/// A container whose binaries cost so many whole deadlines in a row gets no more: others wait meanwhile.
const PATIENCE: u8 = 8;

/// Callers of one place that are symbolized: enough to tell the way, few enough for a note.
const CALLERS: usize = 4;
const CGROUPS: &str = "/sys/fs/cgroup";
const NOHZ_FULL: &str = "/sys/devices/system/cpu/nohz_full";

#[derive(Debug)]
pub struct Symbolizer {
    proc_root: PathBuf,
    children: Children,
    cache: Cache,
    /// By container. A SIGKILL is faster than its record: without this its place would be a bare address.
    remembered: HashMap<Arc<str>, VecDeque<Remembered>>,
    /// Children in a row that had no answer, by container.
    failures: HashMap<Box<str>, u8>,
    kernel: KernelSymbols,
    cgroups: Cgroups,
    /// `None`: this kernel has no such file.
    nohz_full: Option<String>,
}

#[derive(Debug)]
struct Remembered {
    host_tgid: u32,
    mappings: Vec<(Mapping, Option<Module>)>,
}

impl Symbolizer {
    pub fn new(proc_root: PathBuf, children: Children) -> Symbolizer {
        Symbolizer {
            kernel: KernelSymbols::new(proc_root.join("kallsyms")),
            cgroups: Cgroups::new(Path::new(CGROUPS)),
            nohz_full: std::fs::read_to_string(NOHZ_FULL).ok(),
            proc_root,
            children,
            cache: Cache::default(),
            remembered: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    /// All that the words for `happening` need.
    pub fn scene(&mut self, container: &str, pid: Option<i32>, happening: &Happening) -> Scene {
        let Happening { thread, blame, .. } = happening;
        let place = self.place(container, pid, thread, happening.ip);
        let names = |id, name: Option<String>| Some((id, name?));
        Scene {
            callers: self.callers(container, pid, happening),
            functions: scene::functions(blame).filter_map(|id| names(id, self.kernel.name(id))).collect(),
            cgroups: scene::cgroups(blame).filter_map(|id| names(id, self.cgroups.name(id))).collect(),
            ticks: Ticks::of(self.nohz_full.as_deref(), thread.cpu),
            place,
        }
    }

    /// Where no code is, or no call, the frame pointer was something else: what follows is no stack.
    fn callers(&mut self, container: &str, pid: Option<i32>, happening: &Happening) -> Vec<Place> {
        let mut callers = Vec::new();
        for returns_to in happening.callers.iter().take(CALLERS) {
            // The call itself: where it is the function's last instruction, its return is another function's.
            let call = returns_to.saturating_sub(1);
            match self.look(container, pid, &happening.thread, Question::Call, call) {
                Place::Address { why: NoModule::Unmapped, .. } => break,
                Place::Module { why: NoFunction::NoCall, .. } => break,
                place => callers.push(place.one_further()),
            }
        }
        callers
    }

    /// Takes note of a living process's binaries, for when it is dead.
    pub fn remember(&mut self, container: &Arc<str>, pid: i32, thread: &Thread) {
        let Ok(snapshot) = Snapshot::take(&self.proc_root, pid, thread.started) else {
            return;
        };
        let mut files = 0;
        let mappings = snapshot.mappings().iter().map(|mapping| {
            files += usize::from(mapping.path.is_some());
            let module = if files <= REMEMBERED_FILES { snapshot.open(mapping) } else { None };
            (mapping.clone(), module)
        });
        let seen = Remembered { host_tgid: thread.host_tgid, mappings: mappings.collect() };
        let processes = self.remembered.entry(Arc::clone(container)).or_default();
        processes.retain(|process| process.host_tgid != seen.host_tgid);
        processes.push_back(seen);
        if REMEMBERED_PROCESSES < processes.len() {
            processes.pop_front();
        }
    }

    /// The container is gone: its files would otherwise keep its file system busy.
    pub fn forget(&mut self, container: &str) {
        self.remembered.remove(container);
        self.failures.remove(container);
    }

    /// `pid` is the thread as the agent's /proc shows it.
    pub fn place(&mut self, container: &str, pid: Option<i32>, thread: &Thread, ip: u64) -> Place {
        self.look(container, pid, thread, Question::Place, ip)
    }

    fn look(
        &mut self,
        container: &str,
        pid: Option<i32>,
        thread: &Thread,
        question: Question,
        ip: u64,
    ) -> Place {
        let snapshot = match pid {
            Some(pid) => Snapshot::take(&self.proc_root, pid, thread.started),
            None => Err(NoModule::NotReadable),
        };
        match snapshot {
            Ok(snapshot) => match snapshot.find(ip) {
                Some(mapping) => {
                    self.in_mapping(container, mapping, snapshot.open(mapping).as_ref(), question, ip)
                }
                None => Place::Address { ip, why: NoModule::Unmapped },
            },
            Err(why) => match self.recall(container, thread.host_tgid, ip) {
                Some((mapping, module)) => {
                    self.in_mapping(container, &mapping, module.as_ref(), question, ip)
                }
                None => Place::Address { ip, why },
            },
        }
    }

    fn recall(&self, container: &str, host_tgid: u32, ip: u64) -> Option<(Mapping, Option<Module>)> {
        let process = self.remembered.get(container)?.iter().find(|p| p.host_tgid == host_tgid)?;
        process.mappings.iter().find(|(mapping, _)| mapping.contains(ip)).cloned()
    }

    fn in_mapping(
        &mut self,
        container: &str,
        mapping: &Mapping,
        module: Option<&Module>,
        question: Question,
        ip: u64,
    ) -> Place {
        let (Some(_), Some(offset)) = (&mapping.path, mapping.file_offset(ip)) else {
            return Place::Address { ip, why: NoModule::Anonymous };
        };
        let answer = match module {
            Some(module) => self.symbol(container, module, question, offset),
            None => Err(NoFunction::NotReadable),
        };
        match answer {
            Ok(Symbol { name, offset, source }) => Place::Function { name, offset, source },
            Err(why) => Place::Module { name: mapping.module_name(), offset, why },
        }
    }

    fn symbol(
        &mut self,
        container: &str,
        module: &Module,
        question: Question,
        offset: u64,
    ) -> Result<Symbol, NoFunction> {
        if let Some(answer) = self.cache.get(&module.id, question, offset) {
            return answer;
        }
        let failures = self.failures.entry(container.into()).or_default();
        if PATIENCE <= *failures {
            return Err(NoFunction::NotParsed);
        }
        let answer = self.children.ask(&module.file, question, offset);
        *failures = if answer == Err(NoFunction::NotParsed) { *failures + 1 } else { 0 };
        self.cache.put(&module.id, question, offset, &answer);
        answer
    }
}
