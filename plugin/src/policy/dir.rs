//! Step 2 without Kubernetes: policies from the *.yaml files of a folder, read at start and whenever they change.
//!
//! No API server has looked at these files, so what it would refuse by schema is refused here: other kinds,
//! unknown fields (by the types), objects without a name, two of one name.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use quietcore_crd::DataplanePolicy;
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{
    effective::PolicyRef,
    memory::{Change, Key, Known},
    store::PolicyStore,
    watch::OnChange,
};

const LOOK_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum DirError {
    #[error("read policies from {path}")]
    Read { path: PathBuf, source: io::Error },
    #[error("{path} holds no DataplanePolicy: {why}")]
    Parse { path: PathBuf, why: String },
    #[error(
        "{path} holds apiVersion {api_version:?}, kind {kind:?}: expected quietcore.io/v1alpha1, DataplanePolicy"
    )]
    Kind { path: PathBuf, api_version: String, kind: String },
    #[error("{path} holds a DataplanePolicy without metadata.name")]
    NoName { path: PathBuf },
    #[error("DataplanePolicy {namespace}/{name} is in {path} and in an earlier file")]
    Twice { path: PathBuf, namespace: String, name: String },
}

/// An error here stops the agent: nobody else would tell the file's author.
pub fn load(dir: &Path, store: &PolicyStore) -> Result<(), DirError> {
    remember(read(dir)?, store);
    Ok(())
}

/// Runs for the life of the agent. A folder that cannot be read any more changes nothing but the log: pods and
/// their policies outlive a typo.
pub async fn follow(dir: PathBuf, store: Arc<PolicyStore>, on_change: Arc<dyn OnChange>) {
    let mut every = tokio::time::interval(LOOK_EVERY);
    // Not the time of `load`: what changed since then must not be missed, and reading once more is harmless.
    let mut seen = None;
    loop {
        every.tick().await;
        let now = stamps(&dir).ok();
        if seen == now {
            continue;
        }
        match read(&dir) {
            Ok(policies) => {
                for ((namespace, name), change) in remember(policies, &store) {
                    on_change.changed(&namespace, &name, change);
                }
            }
            Err(error) => tracing::error!(step = 2, %error, "the policies stay as they were"),
        }
        seen = now;
    }
}

fn remember(policies: Vec<Known>, store: &PolicyStore) -> Vec<(Key, Change)> {
    let listed: Vec<Key> = policies.iter().map(Known::key).collect();
    let edited = policies.into_iter().zip(&listed);
    let mut changes: Vec<(Key, Change)> =
        edited.filter_map(|(known, key)| Some((key.clone(), store.put(known)?))).collect();
    changes.extend(store.synced(&listed).into_iter().map(|key| (key, Change::Deleted)));
    changes
}

fn files(dir: &Path) -> Result<Vec<PathBuf>, DirError> {
    let read = |source| DirError::Read { path: dir.to_owned(), source };
    let mut files = Vec::new();
    for entry in fs::read_dir(dir).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

type Stamps = BTreeMap<PathBuf, (SystemTime, u64)>;

/// Enough to see that a file was written, without reading it.
fn stamps(dir: &Path) -> Result<Stamps, DirError> {
    let stamp = |path: PathBuf| {
        let read = |source| DirError::Read { path: path.clone(), source };
        let metadata = fs::metadata(&path).map_err(read)?;
        let stamp = (metadata.modified().map_err(read)?, metadata.len());
        Ok((path, stamp))
    };
    files(dir)?.into_iter().map(stamp).collect()
}

fn read(dir: &Path) -> Result<Vec<Known>, DirError> {
    let mut policies: Vec<Known> = Vec::new();
    for path in files(dir)? {
        for known in read_file(&path)? {
            if policies.iter().any(|other| other.key() == known.key()) {
                let (namespace, name) = known.key();
                return Err(DirError::Twice { path, namespace, name });
            }
            policies.push(known);
        }
    }
    Ok(policies)
}

/// Every policy of one file, and whether this version can keep it.
pub fn read_file(path: &Path) -> Result<Vec<Known>, DirError> {
    let text = fs::read_to_string(path).map_err(|source| DirError::Read { path: path.to_owned(), source })?;
    parse(&text, path)
}

/// What an object is; kube's types take any object that has a `spec`.
#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Head {
    api_version: String,
    kind: String,
}

fn parse(text: &str, path: &Path) -> Result<Vec<Known>, DirError> {
    let why = |error: serde_saphyr::Error| DirError::Parse { path: path.to_owned(), why: error.to_string() };
    for Head { api_version, kind } in serde_saphyr::from_multiple::<Head>(text).map_err(why)? {
        if (&*api_version, &*kind) != ("quietcore.io/v1alpha1", "DataplanePolicy") {
            return Err(DirError::Kind { path: path.to_owned(), api_version, kind });
        }
    }
    let policies: Vec<DataplanePolicy> = serde_saphyr::from_multiple(text).map_err(why)?;
    policies.into_iter().map(|policy| known(policy, path)).collect()
}

fn known(policy: DataplanePolicy, path: &Path) -> Result<Known, DirError> {
    let no_name = || DirError::NoName { path: path.to_owned() };
    let spec = serde_json::to_vec(&policy.spec)
        .map_err(|error| DirError::Parse { path: path.to_owned(), why: error.to_string() })?;
    let digest = Sha256::digest(&spec);
    let source = PolicyRef {
        namespace: policy.metadata.namespace.unwrap_or_else(|| "default".to_owned()),
        name: policy.metadata.name.filter(|name| !name.is_empty()).ok_or_else(no_name)?,
        // Files have no generation: the content itself tells one edit from the next, also across restarts.
        uid: digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect(),
        generation: 1,
    };
    Ok(Known::judge::<DirError>(Ok(policy.spec), source))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yaml(name: &str, spec: &str) -> String {
        format!(
            "apiVersion: quietcore.io/v1alpha1\nkind: DataplanePolicy\nmetadata: {{name: {name}}}\nspec: {spec}\n"
        )
    }

    #[track_caller]
    fn refused(files: &[(&str, &str)], words: &str) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let error = load(dir.path(), &PolicyStore::open(None)).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }

    #[test]
    fn every_policy_of_every_file_is_known() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("a.yaml"), format!("{}---\n{}", yaml("p", "{}"), yaml("q", "{}"))).unwrap();
        fs::write(dir.path().join("b.yml"), yaml("r", "{}")).unwrap();
        fs::write(dir.path().join("notes.txt"), "nothing of ours").unwrap();
        let store = PolicyStore::open(None);
        load(dir.path(), &store).unwrap();
        for name in ["p", "q", "r"] {
            assert!(store.find("default", name).is_ok(), "{name}");
        }
        assert!(store.is_fresh());
    }

    #[test]
    fn what_an_api_server_would_refuse_is_refused() {
        refused(&[("a.yaml", &yaml("p", "{entires: {}}"))], "unknown field");
        refused(&[("a.yaml", "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {}\n")], "kind \"Pod\"");
        refused(&[("a.yaml", &yaml("''", "{}"))], "without metadata.name");
        refused(&[("a.yaml", &yaml("p", "{}")), ("b.yaml", &yaml("p", "{}"))], "and in an earlier file");
        refused(&[("a.yaml", "{")], "holds no DataplanePolicy");
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = load(Path::new("/no/such/folder"), &PolicyStore::open(None)).unwrap_err().to_string();
        assert_eq!(error, "read policies from /no/such/folder");
    }

    #[test]
    fn an_edited_file_is_an_edited_policy_and_a_removed_one_a_deleted_policy() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("p.yaml");
        let store = PolicyStore::open(None);
        let changes = |text: &str| {
            fs::write(&file, text).unwrap();
            remember(read(dir.path()).unwrap(), &store)
        };
        let key: Key = ("default".into(), "p".into());
        assert_eq!(changes(&yaml("p", "{}")), []);
        assert_eq!(changes(&format!("# a comment\n{}", yaml("p", "{mode: Audit}"))), []);
        assert_eq!(changes(&yaml("p", "{mode: Enforce}")), [(key.clone(), Change::Edited)]);
        assert_eq!(changes(&yaml("q", "{}")), [(key, Change::Deleted)]);
    }
}
