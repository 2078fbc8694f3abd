//! Step 2 without Kubernetes: policies from the *.yaml files of a folder, read once at agent start.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use quietcore_crd::DataplanePolicy;

use super::{effective::PolicyRef, store::PolicyStore, watch::judge};

#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("read policies from {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} is no DataplanePolicy: {why}")]
    Parse { path: PathBuf, why: String },
}

/// A file that does not parse stops the agent: here nobody else would tell its author.
pub fn load(dir: &Path, store: &PolicyStore) -> Result<(), DirError> {
    let read = |source| DirError::Read { path: dir.to_owned(), source };
    let mut listed = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        let text =
            fs::read_to_string(&path).map_err(|source| DirError::Read { path: path.clone(), source })?;
        let policy: DataplanePolicy = serde_saphyr::from_str(&text)
            .map_err(|error| DirError::Parse { path: path.clone(), why: error.to_string() })?;
        let source = PolicyRef {
            namespace: policy.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
            name: policy.metadata.name.unwrap_or_default(),
            uid: String::new(),
            generation: 0,
        };
        listed.push((source.namespace.clone(), source.name.clone()));
        store.put(judge::<DirError>(Ok(policy.spec), source));
    }
    store.synced(&listed);
    Ok(())
}
