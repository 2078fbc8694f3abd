//! The lab's root file system: a few programs of this Debian, what the command needs, and an `init`. Made by
//! `mke2fs -d`, without a loop device.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::{output, run};
use crate::lab::kernel::Kernel;

const INIT: &str = include_str!("../../lab/init");
const BUSYBOX: &str = "/usr/bin/busybox";
/// Where busybox's own differ from what tests expect of a Debian: its setpriv, for one, runs its own sh.
const PROGRAMS: [&str; 9] = [
    "/bin/bash",
    "/bin/dash",
    "/bin/mount",
    "/bin/umount",
    "/usr/bin/taskset",
    "/usr/bin/setpriv",
    "/usr/bin/unshare",
    "/usr/bin/env",
    "/usr/sbin/bpftool",
];
const FOLDERS: [&str; 11] =
    ["usr/bin", "usr/sbin", "dev", "proc", "sys", "run", "tmp", "root", "lab", "out", "lib/modules"];
/// As in Debian: with two folders of programs an applet could hide the program of its name.
const LINKS: [(&str, &str); 2] = [("bin", "usr/bin"), ("sbin", "usr/sbin")];

/// A folder that becomes the root image.
#[derive(Debug)]
pub struct Root {
    folder: PathBuf,
}

impl Root {
    pub fn make(folder: PathBuf, kernel: &Kernel) -> Result<Root> {
        let root = Root { folder };
        for folder in FOLDERS {
            fs::create_dir_all(root.folder.join(folder))?;
        }
        for (link, target) in LINKS {
            symlink(target, root.folder.join(link))?;
        }
        root.program(Path::new(BUSYBOX), "/bin/busybox")?;
        for applet in run(Command::new(BUSYBOX).arg("--list"))?.lines() {
            symlink("busybox", root.folder.join("bin").join(applet)).or_else(|error| match applet {
                "busybox" => Ok(()),
                _ => Err(error),
            })?;
        }
        for program in PROGRAMS {
            root.program(Path::new(program), program)?;
        }
        root.replace_link("bin/sh", "dash")?;
        for entry in fs::read_dir(&kernel.modules)? {
            let entry = entry?;
            fs::copy(entry.path(), root.folder.join("lib/modules").join(entry.file_name()))?;
        }
        root.text("init", INIT, 0o755)?;
        root.text("etc/passwd", "root:x:0:0::/root:/bin/sh\n", 0o644)?;
        root.text("etc/group", "root:x:0:\n", 0o644)?;
        Ok(root)
    }

    /// A program with every library it loads; or any other file.
    pub fn program(&self, source: &Path, path: &str) -> Result<()> {
        self.copy(source, path)?;
        let listed = output(Command::new("ldd").arg(source))?;
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let libraries: BTreeSet<&str> = listed.lines().filter_map(library_of).collect();
        libraries.into_iter().try_for_each(|library| self.copy(Path::new(library), library))
    }

    /// What runs, by its words.
    pub fn command(&self, words: &[String]) -> Result<()> {
        self.text("lab/command", &format!("#!/bin/sh\nexec {}\n", quoted(words)), 0o755)
    }

    pub fn write(&self, image: &Path) -> Result<()> {
        let mut mke2fs = Command::new("mke2fs");
        mke2fs.args(["-q", "-t", "ext4", "-O", "^has_journal", "-E", "root_owner=0:0", "-m", "0", "-d"]);
        run(mke2fs.arg(&self.folder).arg(image).arg("1G"))?;
        Ok(())
    }

    fn copy(&self, source: &Path, path: &str) -> Result<()> {
        let at = self.folder.join(path.trim_start_matches('/'));
        let folder = at.parent().unwrap_or(&self.folder);
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        // a link of busybox must not be written through
        let _link = fs::remove_file(&at);
        fs::copy(source, &at).with_context(|| format!("copy {} to the lab", source.display()))?;
        Ok(())
    }

    pub fn text(&self, path: &str, content: &str, mode: u32) -> Result<()> {
        let at = self.folder.join(path);
        fs::create_dir_all(at.parent().unwrap_or(&self.folder))?;
        fs::write(&at, content).with_context(|| format!("write {}", at.display()))?;
        Ok(fs::set_permissions(&at, fs::Permissions::from_mode(mode))?)
    }

    fn replace_link(&self, path: &str, target: &str) -> Result<()> {
        let at = self.folder.join(path);
        let _old = fs::remove_file(&at);
        Ok(symlink(target, &at)?)
    }
}

/// As a shell reads them as these words.
fn quoted(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| format!("'{}'", word.replace('\'', "'\\''"))).collect();
    words.join(" ")
}

/// The path in a line of ldd, as in image.rs: `libelf.so.1 => /lib/libelf.so.1 (0x..)`.
fn library_of(line: &str) -> Option<&str> {
    line.split_whitespace().find(|word| word.starts_with('/'))
}
