//! The lab's kernel, from Debian: apt checks what it downloads against signed lists. Kept in the cache by its
//! version, which for Debian names the content; a cached one needs no network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, remove_folder};
use crate::command::run;
use crate::progress;

const SERIES: &str = "linux-image-6.12.";
const FLAVOUR: &str = "-cloud-amd64";
/// Modules of what the lab's tests use; the rest they need is built in.
const MODULES: [&str; 3] = ["mce-inject", "msr", "overlay"];

/// A kernel that is ready to boot.
#[derive(Debug, Clone)]
pub struct Kernel {
    pub image: PathBuf,
    /// Uncompressed modules, and the file `order` in which they are loaded.
    pub modules: PathBuf,
}

impl Kernel {
    pub fn get(cache: &Cache) -> Result<Kernel> {
        let _lock = cache.lock("lab-kernel")?;
        // the archive forgets a kernel when the next one is there: old lists name what is gone
        from_lists(cache).or_else(|_| {
            run(Command::new("apt-get").args(["update", "-q"]))?;
            from_lists(cache)
        })
    }
}

fn from_lists(cache: &Cache) -> Result<Kernel> {
    let names = run(Command::new("apt-cache").args(["pkgnames", SERIES]))?;
    let Some(package) = newest(&names) else {
        bail!("no package {SERIES}*{FLAVOUR}: the lab needs the package lists of Debian 12 with its updates");
    };
    let name = format!("lab-{package}-{}", MODULES.join("-"));
    let folder = cache.path(&name);
    if !folder.exists() {
        let partial = cache.path(format!("{name}-partial"));
        remove_folder(&partial)?;
        progress::step(&format!("download {package}"), || unpack(package, &partial))?;
        fs::rename(&partial, &folder).with_context(|| format!("make {}", folder.display()))?;
    }
    Ok(Kernel { image: folder.join("vmlinuz"), modules: folder.join("modules") })
}

fn newest(names: &str) -> Option<&str> {
    names.lines().filter(|name| name.ends_with(FLAVOUR)).max_by_key(|name| version(name))
}

/// 6.12.117+deb12 sorts after 6.12.95+deb12.
fn version(package: &str) -> Vec<u32> {
    package.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse().ok()).collect()
}

fn unpack(package: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let download = tempfile::tempdir().context("make a temporary folder")?;
    run(Command::new("apt-get").args(["download", "-q", package]).current_dir(download.path()))?;
    let tree = download.path().join("tree");
    for entry in fs::read_dir(download.path())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            run(Command::new("dpkg").arg("-x").arg(&path).arg(&tree))?;
        }
    }
    let release = package.trim_start_matches("linux-image-");
    fs::copy(tree.join(format!("boot/vmlinuz-{release}")), folder.join("vmlinuz"))
        .with_context(|| format!("take the kernel of {package}"))?;
    run(Command::new("depmod").arg("-b").arg(&tree).arg(release))?;
    take_modules(&tree, release, &folder.join("modules"))
}

fn take_modules(tree: &Path, release: &str, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    let mut order = Vec::new();
    for module in MODULES {
        let mut modprobe = Command::new("modprobe");
        modprobe.arg("-d").arg(tree).args(["-S", release, "--show-depends", module]);
        for line in run(&mut modprobe)?.lines().filter_map(|line| line.strip_prefix("insmod ")) {
            let path = Path::new(line.trim());
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            let name = name.split('.').next().unwrap_or_default().to_owned();
            if !order.contains(&name) {
                run(Command::new("sh")
                    .args(["-c", "xz -dc \"$0\" > \"$1\""])
                    .arg(path)
                    .arg(folder.join(format!("{name}.ko"))))?;
                order.push(name);
            }
        }
    }
    fs::write(folder.join("order"), order.join("\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::newest;

    #[test]
    fn the_newest_is_chosen_by_its_numbers_and_never_another_flavour() {
        let names = "linux-image-6.12.95+deb12-cloud-amd64\nlinux-image-6.12.117+deb12-cloud-amd64\n\
            linux-image-6.12.118+deb12-rt-amd64\nlinux-image-6.12.118+deb12-cloud-amd64-unsigned\n";
        assert_eq!(newest(names), Some("linux-image-6.12.117+deb12-cloud-amd64"));
    }
}
