//! boot.json: what `node apply` did, so that `node restore` undoes exactly that, and the agent knows what the next
//! boot must bring. A file that cannot be understood stays where it is.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{NodeError, boot_loader::BootLoader, cmdline::Setting};
use crate::{agent::disk, cores::set::CpuSet};

/// Grows when a reader of the old kind would misunderstand the new.
const VERSION: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Applied {
    version: u32,
    pub(super) isolate: CpuSet,
    /// What the next boot must show, whoever wrote it.
    pub(super) parameters: Vec<String>,
    /// Those that quietcore wrote; the others an administrator had already set.
    pub(super) added: Vec<String>,
    pub(super) boot_loader: BootLoader,
    /// `None` where the boot loader's own program keeps the parameters.
    pub(super) written: Option<Written>,
    /// False from before the first write until the boot loader's program has succeeded.
    pub(super) finished: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Written {
    /// As seen from the root.
    pub(super) path: PathBuf,
    pub(super) text: String,
    /// What the file said before quietcore came; `None`: there was none.
    pub(super) before: Option<String>,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Applied {
    pub(super) fn new(
        isolate: CpuSet,
        boot_loader: BootLoader,
        parameters: Vec<String>,
        added: Vec<String>,
    ) -> Applied {
        Applied { version: VERSION, isolate, parameters, added, boot_loader, written: None, finished: false }
    }

    pub(super) fn finish(self) -> Applied {
        Applied { finished: true, ..self }
    }

    pub(super) fn settings(&self, path: &Path) -> Result<Vec<Setting>, NodeError> {
        let parse = |text: &String| {
            text.parse::<Setting>()
                .map_err(|error| NodeError::DamagedState { path: path.to_owned(), damage: error.to_string() })
        };
        self.parameters.iter().map(parse).collect()
    }
}

pub(super) fn path(state_dir: &Path) -> PathBuf {
    state_dir.join("boot.json")
}

pub(super) fn read(path: &Path) -> Result<Option<Applied>, NodeError> {
    let bytes = match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes.map_err(NodeError::read(path))?,
    };
    // Looked at alone: a newer file may not parse as ours.
    if let Ok(Version { version: found }) = serde_json::from_slice(&bytes)
        && VERSION < found
    {
        return Err(NodeError::NewerState { path: path.to_owned(), found, known: VERSION });
    }
    let damaged = |error: serde_json::Error| NodeError::DamagedState {
        path: path.to_owned(),
        damage: error.to_string(),
    };
    let applied: Applied = serde_json::from_slice(&bytes).map_err(damaged)?;
    applied.settings(path)?;
    Ok(Some(applied))
}

pub(super) fn write(path: &Path, applied: &Applied) -> Result<(), NodeError> {
    disk::write_json(path, applied).map_err(NodeError::write(path))
}

pub(super) fn remove(path: &Path) -> Result<(), NodeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(NodeError::write(path)(error)),
        _ => Ok(()),
    }
}
