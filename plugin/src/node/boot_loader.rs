//! Which boot loader keeps the kernel's command line here, and what it is asked to do.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    NodeError,
    cmdline::{self, Said, Setting},
    grub, grubby,
    state::{Applied, Written},
    systemd_boot,
    tools::{Run, find},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum BootLoader {
    /// A file in /etc/default/grub.d, then update-grub or mkconfig
    Grub,
    /// grubby writes the entries (Fedora, RHEL)
    Grubby,
    /// /etc/kernel/cmdline, then kernel-install
    SystemdBoot,
}

/// Lines that an administrator wrote, and where.
#[derive(Debug)]
pub(super) struct Stated {
    /// As seen from the root.
    pub(super) path: PathBuf,
    pub(super) line: String,
}

impl BootLoader {
    pub(super) fn name(self) -> &'static str {
        match self {
            BootLoader::Grub => "GRUB",
            BootLoader::Grubby => "grubby",
            BootLoader::SystemdBoot => "systemd-boot",
        }
    }

    /// `command_line` is for the one whose boot loader nobody knows.
    pub(super) fn detect(root: &Path, command_line: &str) -> Result<BootLoader, NodeError> {
        let kernel_install = find(root, "kernel-install").is_some();
        if kernel_install && systemd_boot::booted_this(root) {
            return Ok(BootLoader::SystemdBoot);
        }
        if find(root, "grubby").is_some() {
            return Ok(BootLoader::Grubby);
        }
        match grub::mkconfig(root) {
            Some(mkconfig) if root.join("etc/default/grub").is_file() => {
                if grub::reads_drop_ins(root, &mkconfig) {
                    return Ok(BootLoader::Grub);
                }
                let mkconfig = mkconfig.display();
                let hint = format!(
                    "{mkconfig} does not read /etc/default/grub.d: add to GRUB_CMDLINE_LINUX in /etc/default/grub, and \
                     run {mkconfig}:\n  {command_line}"
                );
                Err(NodeError::UnknownLoader { hint })
            }
            _ if kernel_install && systemd_boot::is_installed(root) => Ok(BootLoader::SystemdBoot),
            _ => {
                let hint =
                    format!("add this to the kernel's command line by hand, and reboot:\n  {command_line}");
                Err(NodeError::UnknownLoader { hint })
            }
        }
    }

    fn stated(self, root: &Path) -> Result<Vec<Stated>, NodeError> {
        match self {
            BootLoader::Grub => grub::stated(root),
            BootLoader::Grubby => grubby::stated(root),
            BootLoader::SystemdBoot => systemd_boot::stated(root),
        }
    }

    /// What is to be added for `settings` to hold. `ours` was added by an earlier apply and does not count as said.
    pub(super) fn to_add(
        self,
        root: &Path,
        settings: &[&Setting],
        ours: &[String],
        last: u32,
    ) -> Result<Vec<String>, NodeError> {
        let stated = self.stated(root)?;
        let mut add = Vec::new();
        for setting in settings {
            let mut said = false;
            for Stated { path, line } in &stated {
                let mut line = cmdline::split(line);
                // GRUB has ours in a file apart, which is not among these.
                line.retain(|argument| self == BootLoader::Grub || !ours.contains(&argument.text));
                match setting.said_by(&line, last) {
                    Said::Nothing => {}
                    Said::Same => said = true,
                    Said::Otherwise(value) => {
                        return Err(NodeError::SetOtherwise {
                            path: path.clone(),
                            value,
                            wanted: setting.to_string(),
                        });
                    }
                }
            }
            if !said {
                add.push(setting.to_string());
            }
        }
        Ok(add)
    }

    /// The file that would hold `add`, if a file does: nothing is written yet.
    pub(super) fn file(
        self,
        root: &Path,
        before: Option<&Applied>,
        add: &[String],
    ) -> Result<Option<Written>, NodeError> {
        match self {
            BootLoader::Grub => grub::file(root, before, add),
            BootLoader::Grubby => Ok(None),
            BootLoader::SystemdBoot => systemd_boot::file(root, before, add).map(Some),
        }
    }

    /// From the parameters `before` to those `now`, so that the next boot has them. The file is written already.
    pub(super) fn update(
        self,
        root: &Path,
        tools: &dyn Run,
        before: &[String],
        now: &[String],
    ) -> Result<(), NodeError> {
        match self {
            BootLoader::Grub => grub::update(root, tools),
            BootLoader::Grubby => grubby::update(root, tools, before, now),
            BootLoader::SystemdBoot => systemd_boot::update(root, tools),
        }
    }
}

/// A path as seen from the root, where it really is.
pub(super) fn within(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").unwrap_or(path))
}

pub(super) fn read_if_there(path: &Path) -> Result<Option<String>, NodeError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        text => text.map(Some).map_err(NodeError::read(path)),
    }
}

/// Whole or not at all; `None` removes it. A machine that loses power must still boot.
pub(super) fn put(path: &Path, text: Option<&str>) -> Result<(), NodeError> {
    let written = match text {
        Some(text) => replace(path, text),
        None => match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        },
    };
    written.map_err(NodeError::write(path))
}

fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(folder)?;
    // Not .cfg, which mkconfig would read.
    let unfinished = path.with_extension("unfinished");
    let mut file = fs::File::create(&unfinished)?;
    // These files have no secrets, and others look at them.
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    fs::File::open(folder)?.sync_all()
}
