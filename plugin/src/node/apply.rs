//! Plan to boot loader and back. boot.json is written before the first change and marked finished after the last, so
//! that an apply that was interrupted can be repeated or restored.

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::{
    NodeError,
    boot_loader::{BootLoader, put, read_if_there, within},
    cmdline::Setting,
    plan::{Missing, Plan},
    state::{self, Applied, Written},
    tools::Run,
};

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Outcome {
    pub(super) did: Did,
    pub(super) boot_loader: Option<BootLoader>,
    pub(super) file: Option<PathBuf>,
    /// What quietcore added, or took away again.
    pub(super) parameters: Vec<String>,
    /// What an administrator had set already.
    pub(super) already_set: Vec<String>,
    pub(super) missing: Vec<Missing>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Did {
    Applied,
    WouldApply,
    WasApplied,
    Restored,
    WouldRestore,
    NothingToRestore,
}

/// Where things are and what runs programs there.
pub(super) struct Place<'a> {
    pub(super) root: &'a Path,
    pub(super) state: PathBuf,
    pub(super) tools: &'a dyn Run,
}

impl Place<'_> {
    pub(super) fn apply(&self, plan: Plan, last: u32, dry_run: bool) -> Result<Outcome, NodeError> {
        let loader = BootLoader::detect(self.root, &plan.command_line())?;
        let before = state::read(&self.state)?;
        if let Some(Applied { boot_loader, .. }) = &before
            && *boot_loader != loader
        {
            let (path, before, now) = (self.state.clone(), boot_loader.name(), loader.name());
            return Err(NodeError::OtherLoader { path, before, now });
        }
        let ours = before.as_ref().map(|applied| applied.added.clone()).unwrap_or_default();
        let settings: Vec<&Setting> = plan.settings().collect();
        let add = loader.to_add(self.root, &settings, &ours, last)?;
        let parameters: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let already_set = parameters.iter().filter(|parameter| !add.contains(parameter)).cloned().collect();
        let mut now = Applied::new(plan.isolate.clone(), loader, parameters, add.clone());
        now.written = loader.file(self.root, before.as_ref(), &add)?;
        let outcome = |did| Outcome {
            did,
            boot_loader: Some(loader),
            file: now.written.as_ref().map(|written| written.path.clone()),
            parameters: add.clone(),
            already_set,
            missing: plan.missing,
        };
        if dry_run {
            return Ok(outcome(Did::WouldApply));
        }
        let finished = now.clone().finish();
        if before.as_ref() == Some(&finished) && self.has(now.written.as_ref())? {
            return Ok(outcome(Did::WasApplied));
        }
        state::write(&self.state, &now)?;
        let path =
            written(before.as_ref()).or(written(Some(&now))).map(|written| within(self.root, &written.path));
        let there = path.as_deref().map(read_if_there).transpose()?.flatten();
        if let Err(error) = self.change(loader, before.as_ref(), Some(&now)) {
            // What could not be undone stays in boot.json, for restore.
            let source = Box::new(error);
            let undone = put_back(path.as_deref(), there.as_deref())
                // mkconfig replaces the menu only when it has a whole new one: there is nothing to undo in it.
                .and_then(|changed| match changed && loader != BootLoader::Grub {
                    true => loader.update(self.root, self.tools, &add, &ours),
                    false => Ok(()),
                })
                .and_then(|()| match &before {
                    None => state::remove(&self.state),
                    Some(old) => state::write(&self.state, old),
                });
            return Err(match undone {
                Ok(()) => NodeError::Undone { source },
                Err(undo) => NodeError::HalfDone { undo: undo.to_string(), source },
            });
        }
        state::write(&self.state, &finished)?;
        Ok(outcome(Did::Applied))
    }

    pub(super) fn restore(&self, dry_run: bool) -> Result<Outcome, NodeError> {
        let outcome = |did, applied: Option<&Applied>| Outcome {
            did,
            boot_loader: applied.map(|applied| applied.boot_loader),
            file: applied.and_then(|applied| applied.written.as_ref()).map(|written| written.path.clone()),
            parameters: applied.map(|applied| applied.added.clone()).unwrap_or_default(),
            already_set: Vec::new(),
            missing: Vec::new(),
        };
        let Some(before) = state::read(&self.state)? else { return Ok(outcome(Did::NothingToRestore, None)) };
        let loader = before.boot_loader;
        // A file that somebody changed is found here, before anything is written.
        loader.file(self.root, Some(&before), &[])?;
        if dry_run {
            return Ok(outcome(Did::WouldRestore, Some(&before)));
        }
        if !before.added.is_empty() {
            let not_restored = |source| NodeError::NotRestored { source: Box::new(source) };
            self.change(loader, Some(&before), None).map_err(not_restored)?;
        }
        state::remove(&self.state)?;
        Ok(outcome(Did::Restored, Some(&before)))
    }

    fn change(
        &self,
        loader: BootLoader,
        before: Option<&Applied>,
        now: Option<&Applied>,
    ) -> Result<(), NodeError> {
        match (written(before), written(now)) {
            (_, Some(now)) => put(&within(self.root, &now.path), Some(&now.text))?,
            (Some(old), None) => {
                let path = within(self.root, &old.path);
                match read_if_there(&path)? {
                    None => {}
                    Some(text) if text == old.text => put(&path, old.before.as_deref())?,
                    Some(_edited) => {
                        if let Some(without_ours) = loader.file(self.root, before, &[])? {
                            put(&path, Some(&without_ours.text))?;
                        }
                    }
                }
            }
            (None, None) => {}
        }
        let added =
            |applied: Option<&Applied>| applied.map(|applied| applied.added.clone()).unwrap_or_default();
        loader.update(self.root, self.tools, &added(before), &added(now))
    }

    fn has(&self, written: Option<&Written>) -> Result<bool, NodeError> {
        let Some(written) = written else { return Ok(true) };
        Ok(read_if_there(&within(self.root, &written.path))?.as_deref() == Some(written.text.as_str()))
    }
}

/// Whether it had to be written; without a file the boot loader's program is asked in any case.
fn put_back(path: Option<&Path>, there: Option<&str>) -> Result<bool, NodeError> {
    let Some(path) = path else { return Ok(true) };
    let changed = read_if_there(path)?.as_deref() != there;
    if changed {
        put(path, there)?;
    }
    Ok(changed)
}

fn written(applied: Option<&Applied>) -> Option<&Written> {
    applied.and_then(|applied| applied.written.as_ref())
}
