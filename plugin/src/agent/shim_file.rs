//! Puts the shim, which the agent carries inside, where the runtime can bind-mount it from.
//!
//! The path holds the content's hash: an upgraded agent never changes a file that a container has mounted.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

pub(crate) const SHIM: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/quietcore-shim"));

#[derive(Debug, thiserror::Error)]
#[error("install the shim at {path}")]
pub struct ShimFileError {
    path: PathBuf,
    source: io::Error,
}

/// Returns the shim's path on the node.
pub fn install(state_dir: &Path) -> Result<PathBuf, ShimFileError> {
    let hash: String = Sha256::digest(SHIM).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let dir = state_dir.join("shim").join(hash);
    let path = dir.join("quietcore-shim");
    write_once(&dir, &path).map_err(|source| ShimFileError { path: path.clone(), source })?;
    Ok(path)
}

fn write_once(dir: &Path, path: &Path) -> io::Result<()> {
    // Read back rather than trusted: a node may have crashed while it was written.
    if fs::read(path).is_ok_and(|found| found == SHIM) {
        return Ok(());
    }
    fs::create_dir_all(dir)?;
    // Containers of any user execute it through the mount; nobody but root reaches it by its path here.
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755))?;
    let unfinished = dir.join(".unfinished");
    let _ = fs::remove_file(&unfinished);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o555).open(&unfinished)?;
    file.write_all(SHIM)?;
    file.set_permissions(fs::Permissions::from_mode(0o555))?;
    file.sync_all()?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shim_is_installed_whole_and_executable_and_a_damaged_one_is_replaced() {
        let state = tempfile::tempdir().unwrap();
        let path = install(state.path()).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"half").unwrap();
        assert_eq!(install(state.path()).unwrap(), path);
        assert_eq!(fs::read(&path).unwrap(), SHIM);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o555);
    }
}
