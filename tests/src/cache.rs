//! What is slow to make and lies outside the clone: host tools, the node image, podman's storage.
//!
//! Everything here may be deleted at any time; it is made again. Content is named by a hash of what it
//! was made from, so that a changed script never meets an old result.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::command::run;
use crate::progress;

/// Scripts and pinned versions of everything that runs in a node.
pub const NODE_FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/node");

#[derive(Debug, Clone)]
pub struct Cache {
    root: PathBuf,
}

/// Programs for the host, at the versions that the cluster has.
#[derive(Debug, Clone)]
pub struct Tools {
    folder: PathBuf,
}

impl Cache {
    /// `$QUIETCORE_CACHE`, else `quietcore` in the user's cache folder.
    pub fn open() -> Result<Cache> {
        let set = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let root = match (set("QUIETCORE_CACHE"), set("XDG_CACHE_HOME"), set("HOME")) {
            (Some(root), _, _) => root,
            (None, Some(caches), _) => caches.join("quietcore"),
            (None, None, Some(home)) => home.join(".cache/quietcore"),
            (None, None, None) => {
                bail!("set QUIETCORE_CACHE or HOME: the testbed needs a folder for its cache")
            }
        };
        fs::create_dir_all(&root).with_context(|| format!("make cache folder {}", root.display()))?;
        let root = root.canonicalize().with_context(|| format!("find cache folder {}", root.display()))?;
        Ok(Cache { root })
    }

    /// A path in the cache.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }

    /// A folder in the cache, made if missing.
    pub fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf> {
        let folder = self.path(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// State that a reboot must forget, named so that two caches never share it.
    pub fn runtime_folder(&self) -> Result<PathBuf> {
        let name = short_hash(self.root.as_os_str().as_encoded_bytes());
        let folder = Path::new("/run/quietcore-testbed").join(name);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        Ok(folder)
    }

    /// Held while the file lives; waits for other processes of this user.
    pub fn lock(&self, name: &str) -> Result<File> {
        let file = self.lock_file(name)?;
        file.lock().with_context(|| format!("lock {name}"))?;
        Ok(file)
    }

    /// As `lock`, beside other holders of this kind.
    pub fn lock_shared(&self, name: &str) -> Result<File> {
        let file = self.lock_file(name)?;
        file.lock_shared().with_context(|| format!("lock {name}"))?;
        Ok(file)
    }

    /// As `lock`, but `None` where another process holds it.
    pub fn try_lock(&self, name: &str) -> Result<Option<File>> {
        let file = self.lock_file(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(fs::TryLockError::WouldBlock) => Ok(None),
            Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {name}")),
        }
    }

    fn lock_file(&self, name: &str) -> Result<File> {
        let path = self.folder("locks")?.join(name);
        File::create(&path).with_context(|| format!("open {}", path.display()))
    }

    /// The folder of the host tools, if this cache has them.
    pub fn tools_if_built(&self) -> Result<Option<PathBuf>> {
        Ok(Some(self.tools_folder()?).filter(|folder| folder.exists()))
    }

    fn tools_folder(&self) -> Result<PathBuf> {
        let node = Path::new(NODE_FOLDER);
        let sources = ["binaries.sh", "mod/kind", "mod/helm", "mod/k8s"].map(|name| node.join(name));
        Ok(self.path(format!("tools-{}", hash_of(&sources)?)))
    }

    /// kind, helm and kubectl, built if this cache does not have them yet.
    pub fn tools(&self) -> Result<Tools> {
        let folder = self.tools_folder()?;
        let _building = self.lock("tools")?;
        if !folder.exists() {
            let unfinished = self.path("tools-unfinished");
            remove_folder(&unfinished)?;
            fs::create_dir_all(&unfinished).with_context(|| format!("make {}", unfinished.display()))?;
            progress::step("build kind, helm and kubectl", || build_binaries(&unfinished, "tools"))?;
            fs::rename(&unfinished, &folder).with_context(|| format!("rename to {}", folder.display()))?;
        }
        Ok(Tools { folder })
    }
}

impl Tools {
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn kind(&self) -> Command {
        Command::new(self.folder.join("kind"))
    }

    pub fn kubectl(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(self.folder.join("kubectl"));
        command.arg("--kubeconfig").arg(kubeconfig);
        command
    }

    pub fn helm(&self, kubeconfig: &Path) -> Command {
        let mut command = Command::new(self.folder.join("helm"));
        command.arg("--kubeconfig").arg(kubeconfig);
        command
    }

    /// The image that upstream released with this kind.
    pub fn upstream_node_image(&self) -> Result<String> {
        let file = self.folder.join("kind-node-image");
        let image = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
        Ok(image.trim().to_owned())
    }
}

/// Runs `binaries.sh OUT PART`: Go programs from the pinned modules.
pub(crate) fn build_binaries(out: &Path, part: &str) -> Result<()> {
    if Command::new("go").arg("version").output().is_err() {
        bail!("go is not on PATH: install Go 1.21 or newer, it fetches the version that the modules ask for");
    }
    run(Command::new(Path::new(NODE_FOLDER).join("binaries.sh")).arg(out).arg(part))?;
    Ok(())
}

/// A short name for the content of these files and folders.
pub(crate) fn hash_of(sources: &[PathBuf]) -> Result<String> {
    let mut files = Vec::new();
    for source in sources {
        list_files(source, &mut files).with_context(|| format!("list {}", source.display()))?;
    }
    files.sort();
    let mut content = Vec::new();
    for file in files {
        let name = file.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap_or(&file);
        content.extend_from_slice(name.as_os_str().as_encoded_bytes());
        content.push(0);
        content.extend(fs::read(&file).with_context(|| format!("read {}", file.display()))?);
        content.push(0);
    }
    Ok(short_hash(&content))
}

fn list_files(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if path.is_dir() {
        for entry in fs::read_dir(path)? {
            list_files(&entry?.path(), files)?;
        }
    } else {
        files.push(path.to_owned());
    }
    Ok(())
}

fn short_hash(content: &[u8]) -> String {
    Sha256::digest(content).iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// Removes a folder that may not be there.
pub(crate) fn remove_folder(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", folder.display()))
        }
        _ => Ok(()),
    }
}
