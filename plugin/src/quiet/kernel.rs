//! Step 3: the kernel's files, in /proc, /sys and cgroupfs. The only place of this folder that opens one.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Files are named as on a host: /proc/irq/24/smp_affinity_list.
pub trait Kernel {
    fn read(&self, file: &Path) -> io::Result<String>;
    /// One write(2), as the kernel's files want it.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
    /// Names of what is in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
}

/// The kernel that runs here.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where the host's root is: in a container /proc and /sys are mostly read-only, so the host's lie elsewhere.
    root: PathBuf,
}

impl Host {
    pub fn new(root: PathBuf) -> Host {
        Host { root }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl Kernel for Host {
    fn read(&self, file: &Path) -> io::Result<String> {
        fs::read_to_string(self.at(file))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        // A write of nothing never reaches the kernel; an empty line is how a cpuset is emptied.
        let text = if text.is_empty() { "\n" } else { text };
        fs::OpenOptions::new().write(true).truncate(true).open(self.at(file))?.write_all(text.as_bytes())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let entries = fs::read_dir(self.at(folder))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<String>>>()?;
        names.sort();
        Ok(names)
    }
}
