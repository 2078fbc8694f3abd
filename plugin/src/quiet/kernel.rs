//! Step 3: the kernel's files, in /proc, /sys and cgroupfs, and what `irqbalance` makes one of them. The only place of
//! this folder that opens one.

use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::irqbalance::{self, Balancers};
use crate::cores::set::CpuSet;

/// Files are named as on a host: /proc/irq/24/smp_affinity_list.
pub trait Kernel {
    fn read(&self, file: &Path) -> io::Result<String>;
    /// One write(2), as the kernel's files want it.
    fn write(&self, file: &Path, text: &str) -> io::Result<()>;
    /// Names of what is in a folder, sorted.
    fn list(&self, folder: &Path) -> io::Result<Vec<String>>;
    /// Of these, only folders.
    fn folders(&self, folder: &Path) -> io::Result<Vec<String>>;
}

/// The kernel that runs here.
#[derive(Debug)]
pub struct Host {
    /// Where the host's root is: in a container /proc and /sys are mostly read-only, so the host's lie elsewhere.
    root: PathBuf,
    balancers: Balancers,
}

impl Host {
    pub fn new(root: PathBuf) -> Host {
        Host { root, balancers: Balancers::default() }
    }

    fn at(&self, path: &Path) -> PathBuf {
        // Daemons' sockets come and go, so no mount can show them: the first process of the host sees them.
        let seen_by = if is_balancer(path) { "proc/1/root" } else { "" };
        self.root.join(seen_by).join(path.strip_prefix("/").unwrap_or(path))
    }

    /// CPUs that irqbalance leaves alone where nobody tells it anything.
    fn left_alone(&self) -> String {
        let listed = ["isolated", "nohz_full"].map(|name| {
            let file = Path::new("/sys/devices/system/cpu").join(name);
            self.read(&file).ok().and_then(|list| list.parse::<CpuSet>().ok())
        });
        let cpus = listed.iter().flatten().flat_map(CpuSet::iter).collect();
        CpuSet::new(cpus).map(|cpus| cpus.to_string()).unwrap_or_default()
    }
}

fn is_balancer(path: &Path) -> bool {
    path.starts_with(irqbalance::FOLDER)
}

impl Kernel for Host {
    fn read(&self, file: &Path) -> io::Result<String> {
        if is_balancer(file) {
            return self.balancers.read(&self.at(file));
        }
        fs::read_to_string(self.at(file))
    }

    fn write(&self, file: &Path, text: &str) -> io::Result<()> {
        if is_balancer(file) {
            return self.balancers.write(&self.at(file), text, &self.left_alone());
        }
        // A write of nothing never reaches the kernel; an empty line is how a cpuset is emptied.
        let text = if text.is_empty() { "\n" } else { text };
        fs::OpenOptions::new().write(true).truncate(true).open(self.at(file))?.write_all(text.as_bytes())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        names(&self.at(folder), |_| true)
    }

    fn folders(&self, folder: &Path) -> io::Result<Vec<String>> {
        names(&self.at(folder), |entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
    }
}

fn names(folder: &Path, is_wanted: impl Fn(&fs::DirEntry) -> bool) -> io::Result<Vec<String>> {
    let entries = fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    let wanted = entries.iter().filter(|entry| is_wanted(entry));
    let mut names: Vec<String> =
        wanted.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    Ok(names)
}
