//! Step 3: makes the kernel's files say what is wanted, and what is wanted no longer say what they said before.
//!
//! One procedure for a grant, a release, a restart of the agent and a look whether somebody changed something: look,
//! write the journal, write the files, read them back. It is always given everything that is wanted now, so that a
//! release never takes away what another grant still needs. Called by `worker`; does no IO but through its two traits.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
};

use nix::errno::Errno;

use super::{
    journal::{Book, Change, Journal},
    kernel::Kernel,
    setting::{Area, Drift, Outcome, Setting, State, why},
    want::{Format, Want, same},
};

const POSSIBLE: &str = "/sys/devices/system/cpu/possible";

/// What became of everything that is wanted.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Pass {
    pub outcomes: Vec<Outcome>,
    pub drift: Vec<Drift>,
    /// What could not be made as it was before, in words. Tried again at the next pass.
    pub not_restored: Vec<String>,
}

/// Is everything known that is wanted? Else nothing is given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Known {
    Whole,
    InPart,
}

#[derive(Debug)]
pub struct Keeper<K, B> {
    kernel: K,
    book: B,
    journal: Journal,
    /// As the book has it; `None` after it failed.
    written: Option<Journal>,
    /// What the kernel did not take, by file: not tried again until something else is wanted there.
    refused: BTreeMap<PathBuf, Refused>,
    /// In this pass.
    cgroups_changed: bool,
    /// Interrupts that were told to move and have not: how often they had come then.
    pending: BTreeMap<PathBuf, String>,
    /// What was as it should be at the last look.
    met: BTreeMap<PathBuf, Want>,
}

#[derive(Debug, Clone)]
struct Refused {
    tried: String,
    why: String,
}

/// A setting that is not as it should be.
#[derive(Debug)]
struct Plan<'a> {
    setting: &'a Setting,
    found: String,
    before: String,
    text: String,
    /// It had been as it should.
    drift: bool,
}

enum Look<'a> {
    Is(State),
    Needs(Plan<'a>),
}

impl<K: Kernel, B: Book> Keeper<K, B> {
    pub fn new(kernel: K, book: B, journal: Journal) -> Keeper<K, B> {
        Keeper {
            kernel,
            book,
            written: Some(journal.clone()),
            journal,
            refused: BTreeMap::new(),
            cgroups_changed: false,
            pending: BTreeMap::new(),
            met: BTreeMap::new(),
        }
    }

    /// What the kernel itself said while nothing was granted, if anything was since.
    pub fn at_rest(&self) -> Option<&BTreeMap<PathBuf, String>> {
        self.journal.at_rest.as_ref()
    }

    /// Written down with the next change.
    pub fn set_at_rest(&mut self, said: BTreeMap<PathBuf, String>) {
        self.journal.at_rest = Some(said);
    }

    pub fn kernel(&self) -> &K {
        &self.kernel
    }

    /// `Err`: the journal cannot be written, so nothing was changed that it does not know.
    pub fn keep(&mut self, settings: &[Setting]) -> io::Result<Pass> {
        self.keep_known(settings, Known::Whole)
    }

    pub fn keep_known(&mut self, settings: &[Setting], known: Known) -> io::Result<Pass> {
        let mut looks: Vec<(&Setting, Look<'_>)> = Vec::with_capacity(settings.len());
        for setting in settings {
            looks.push((setting, self.look(setting)));
        }
        let undo = self.journal.clone();
        for (_, look) in &looks {
            if let Look::Needs(plan) = look {
                self.plan_in_journal(plan);
            }
        }
        if let Err(error) = self.save() {
            self.journal = undo;
            return Err(error);
        }
        let mut pass = Pass::default();
        if known == Known::Whole {
            pass.not_restored = self.restore_what_is_not_in(settings);
        }
        for (setting, look) in looks {
            let state = match look {
                Look::Is(state) => state,
                Look::Needs(plan) => self.make(plan, &mut pass.drift),
            };
            pass.outcomes.push(Outcome { setting: setting.clone(), state });
        }
        self.remember(&pass.outcomes);
        // What was made is in the journal already; that it was made is worth a second line, and no failure.
        let _tried_again_at_the_next_pass = self.save();
        Ok(pass)
    }

    fn remember(&mut self, outcomes: &[Outcome]) {
        let kept = outcomes.iter().filter(|outcome| matches!(outcome.state, State::Kept { .. }));
        self.met = kept.map(|kept| (kept.setting.file.clone(), kept.setting.want.clone())).collect();
        let wanted: BTreeMap<&Path, Area> =
            outcomes.iter().map(|outcome| (outcome.setting.file.as_path(), outcome.setting.area)).collect();
        // One cpuset's refusal may have been another's fault.
        let again = std::mem::take(&mut self.cgroups_changed);
        self.refused
            .retain(|file, _| wanted.get(file.as_path()).is_some_and(|area| !again || !area.is_cgroup()));
    }

    fn save(&mut self) -> io::Result<()> {
        if self.written.as_ref() == Some(&self.journal) {
            return Ok(());
        }
        self.written = None;
        self.book.write(&self.journal)?;
        self.written = Some(self.journal.clone());
        Ok(())
    }

    fn look<'a>(&mut self, setting: &'a Setting) -> Look<'a> {
        let Setting { file, want, area, .. } = setting;
        let found = match self.kernel.read(file) {
            Ok(found) => found.trim_end().to_owned(),
            // A transmit queue without XPS, a device without writeback throttling.
            Err(error) if *area == Area::Node && error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                return Look::Is(State::Absent);
            }
            Err(error) => {
                let refused = why(&error, *area).map(|why| State::Refused { found: String::new(), why });
                return Look::Is(refused.unwrap_or(State::Absent));
            }
        };
        let change = self.journal.changes.get(file);
        let ours = change.is_some_and(|change| is_ours(change, want, &found));
        // A cgroup of others is its owner's to set: what they set meanwhile is what it goes back to.
        let owners = *area == Area::OthersCgroup && !ours;
        let before = change.filter(|_| !owners).map_or(&found, |change| &change.before).clone();
        let Some(text) = want.text(&before) else {
            let why = format!("{found:?} is not understood: left as it is");
            return Look::Is(State::Refused { found, why });
        };
        if want.is_met(&found) {
            let more_than_needed = matches!(want, Want::Without { .. } | Want::Including(_))
                && !same(want.format(), &found, &text);
            if ours && more_than_needed {
                return Look::Needs(Plan { setting, found, before, text, drift: false });
            }
            if !ours {
                // Somebody's own choice by now, and a good one: not ours to undo.
                self.journal.changes.remove(file);
            } else if let Some(change) = self.journal.changes.get_mut(file) {
                (change.now, change.made) = (found.clone(), true);
            }
            let before = if ours { before } else { found.clone() };
            return Look::Is(self.not_in_force(setting).unwrap_or(State::Kept { before, now: found }));
        }
        if let Some(Refused { why, .. }) = self.refused.get(file).filter(|refused| refused.tried == text) {
            let why = why.clone();
            return Look::Is(self.refused_or_elsewhere(setting, found, why));
        }
        let was_met = self.met.get(file) == Some(want);
        let drift = !ours && (was_met || change.is_some_and(|change| change.made));
        Look::Needs(Plan { setting, found, before, text, drift })
    }

    /// What was accepted may not be so. An interrupt moves when it comes the next time: one that has not come since is
    /// no harm.
    fn not_in_force(&mut self, setting: &Setting) -> Option<State> {
        let Setting { file, want, effective, area, .. } = setting;
        let now = self.kernel.read(effective.as_ref()?).ok().filter(|now| !want.is_met(now));
        let Some(now) = now.map(|now| now.trim_end().to_owned()) else {
            self.pending.remove(file);
            return None;
        };
        if *area == Area::Interrupt {
            // Begins with how often it came (kernel/irq/proc.c, irq_spurious_proc_show).
            let came = self.kernel.read(&file.with_file_name("spurious")).unwrap_or_default();
            if *self.pending.entry(file.clone()).or_insert_with(|| came.clone()) == came {
                return None;
            }
        }
        let why = format!("the kernel took it, and {now:?} is in force");
        Some(State::Refused { found: now, why })
    }

    /// What cannot be set is no harm where the kernel itself keeps it off the cores.
    fn refused_or_elsewhere(&self, setting: &Setting, found: String, why: String) -> State {
        let effective = setting.effective.as_ref().and_then(|file| self.kernel.read(file).ok());
        match effective {
            Some(now) if setting.want.is_met(&now) => {
                State::Kept { before: found, now: now.trim_end().to_owned() }
            }
            _ => State::Refused { found, why },
        }
    }

    fn plan_in_journal(&mut self, plan: &Plan<'_>) {
        let Plan { setting, before, text, drift, .. } = plan;
        let owners = setting.area == Area::OthersCgroup;
        if *drift && !owners && self.journal.changes.contains_key(&setting.file) {
            return;
        }
        let change = Change {
            area: setting.area,
            name: setting.name.clone(),
            before: before.clone(),
            now: text.clone(),
            format: setting.want.format(),
            made: false,
        };
        self.journal.changes.insert(setting.file.clone(), change);
    }

    fn make(&mut self, plan: Plan<'_>, drifts: &mut Vec<Drift>) -> State {
        let Plan { setting, found, before, text, drift } = plan;
        let state = match self.write_and_read_back(setting, &text) {
            Ok(Some(now)) => {
                if let Some(change) = self.journal.changes.get_mut(&setting.file) {
                    (change.now, change.made) = (now.clone(), true);
                }
                self.refused.remove(&setting.file);
                self.cgroups_changed |= setting.area.is_cgroup();
                State::Kept { before, now }
            }
            Ok(None) => {
                self.journal.changes.remove(&setting.file);
                State::Absent
            }
            Err(NotTaken { why, for_good }) => {
                if !drift {
                    self.take_back(setting, &found);
                }
                if for_good {
                    let refused = Refused { tried: text.clone(), why: why.clone() };
                    self.refused.insert(setting.file.clone(), refused);
                }
                self.refused_or_elsewhere(setting, found.clone(), why)
            }
        };
        if drift {
            let refused = match &state {
                State::Refused { why, .. } => Some(why.clone()),
                State::Kept { .. } | State::Absent => None,
            };
            drifts.push(Drift { setting: setting.clone(), found, wanted: text, refused });
        }
        state
    }

    /// `None`: it went away.
    fn write_and_read_back(&self, setting: &Setting, text: &str) -> Result<Option<String>, NotTaken> {
        let Setting { file, want, area, .. } = setting;
        let tried = self.kernel.write(file, text).and_then(|()| self.kernel.read(file));
        let now = match tried {
            Ok(now) => now.trim_end().to_owned(),
            Err(error) => {
                let Some(why) = why(&error, *area) else { return Ok(None) };
                let passes = [Errno::EBUSY, Errno::EAGAIN, Errno::EINTR, Errno::ENOMEM, Errno::ENOSPC];
                let for_good = !passes.iter().any(|errno| error.raw_os_error() == Some(*errno as i32));
                return Err(NotTaken { why, for_good });
            }
        };
        if want.is_met(&now) {
            return Ok(Some(now));
        }
        Err(NotTaken { why: format!("the kernel took {text:?} and says {now:?}"), for_good: true })
    }

    /// After a refusal: nothing half done stays. What it was for other grants, it is again.
    fn take_back(&mut self, setting: &Setting, found: &str) {
        let (file, format) = (&setting.file, setting.want.format());
        let Ok(now) = self.kernel.read(file) else { return };
        if !same(format, &now, found) && self.kernel.write(file, found).is_err() {
            return;
        }
        match self.journal.changes.get_mut(file) {
            Some(change) if !same(format, &change.before, found) => {
                (change.now, change.made) = (found.to_owned(), true);
            }
            _ => {
                self.journal.changes.remove(file);
            }
        }
    }

    /// From the innermost folder outwards: a cpuset's before that of its parent.
    fn restore_what_is_not_in(&mut self, settings: &[Setting]) -> Vec<String> {
        let wanted: BTreeSet<&Path> = settings.iter().map(|setting| setting.file.as_path()).collect();
        let changes: Vec<(PathBuf, Change)> =
            self.journal.changes.iter().map(|(file, change)| (file.clone(), change.clone())).collect();
        let mut not_restored = Vec::new();
        for (file, change) in changes.into_iter().rev().filter(|(file, _)| !wanted.contains(file.as_path())) {
            match self.restore(&file, &change) {
                Ok(()) => {
                    self.journal.changes.remove(&file);
                }
                Err(why) => {
                    not_restored.push(format!("{}: {:?} again: {why}", change.name, change.before));
                }
            }
        }
        not_restored
    }

    fn restore(&self, file: &Path, change: &Change) -> Result<(), String> {
        let words = |error: io::Error| why(&error, change.area).map_or(Ok(()), Err);
        let found = match self.kernel.read(file) {
            Ok(found) => found,
            Err(error) => return words(error),
        };
        let is = |text: &str| same(change.format, &found, text);
        // As it was; or somebody else's choice meanwhile, and theirs to undo.
        if is(&change.before) || (change.made && !is(&change.now)) {
            return Ok(());
        }
        let mut text = change.before.clone();
        if let Err(error) = self.kernel.write(file, &text) {
            let no_set_any_more = error.raw_os_error() == Some(Errno::ENOSPC as i32)
                && change.format == Some(Format::ListOrAll)
                && text.is_empty();
            if !no_set_any_more {
                return words(error);
            }
            // A cpuset with processes in it is not emptied again (kernel/cgroup/cpuset.c, validate_change): all of them are
            // the same to it.
            text = self.kernel.read(Path::new(POSSIBLE)).map_err(|error| error.to_string())?;
            if let Err(error) = self.kernel.write(file, text.trim_end()) {
                return words(error);
            }
        }
        match self.kernel.read(file) {
            Ok(now) if same(change.format, &now, &text) => Ok(()),
            Ok(now) => Err(format!("the kernel took it and says {:?}", now.trim_end())),
            Err(error) => words(error),
        }
    }
}

struct NotTaken {
    why: String,
    for_good: bool,
}

/// One that was written and not read back yet, because the agent died in between, may be printed otherwise.
fn is_ours(change: &Change, want: &Want, found: &str) -> bool {
    same(change.format, found, &change.now) || (!change.made && want.is_met(found))
}

#[cfg(test)]
mod tests;
