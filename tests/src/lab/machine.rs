//! One boot of the lab. Three serial ports come back as files: the console, the command's output, and its status
//! with the kernel's log. What the command left in /out comes back as a folder.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::cache::remove_folder;
use crate::command::{output, run};
use crate::interrupt;
use crate::lab::boot::Boot;
use crate::lab::kernel::Kernel;

/// In the order of ttyS0, ttyS1, ttyS2.
const PORTS: [&str; 3] = ["console", "output", "end"];

#[derive(Debug)]
pub struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub image: &'a Path,
    pub boot: &'a Boot,
    /// Where its serial ports and /out are written.
    pub folder: PathBuf,
    pub seconds: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// The command did, with this status.
    Command(u8),
    /// The machine was still running after its time.
    TimedOut,
    /// The machine went down before the command ended: a panic, or no boot.
    Died,
}

impl Machine<'_> {
    pub fn run(&self) -> Result<Ended> {
        self.forget_last_run()?;
        let ran = output(&mut self.qemu())?;
        fs::write(self.folder.join("qemu"), [&*ran.stdout, &*ran.stderr].concat())?;
        if interrupt::was_interrupted() {
            bail!("interrupted");
        }
        let timed_out = matches!(ran.status.code(), Some(124 | 137));
        if !timed_out && !ran.status.success() {
            bail!("qemu ended with {}: {}", ran.status, String::from_utf8_lossy(&ran.stderr).trim_end());
        }
        self.bring_out()?;
        if timed_out {
            return Ok(Ended::TimedOut);
        }
        let end = fs::read_to_string(self.folder.join("end")).unwrap_or_default();
        Ok(status_in(&end).map_or(Ended::Died, Ended::Command))
    }

    /// An old status must not be read as this run's.
    fn forget_last_run(&self) -> Result<()> {
        fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        for port in PORTS {
            fs::write(self.folder.join(port), "").with_context(|| format!("empty {port}"))?;
        }
        remove_folder(&self.folder.join("out"))
    }

    fn qemu(&self) -> Command {
        let mut qemu = Command::new("timeout");
        qemu.args(["--kill-after=5", &self.seconds.to_string(), "qemu-system-x86_64"]);
        // single: with a thread for each CPU the emulator itself breaks while the kernel patches its text
        qemu.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "Skylake-Server,+umip", "-smp", "4"]);
        qemu.args(["-m", "1536", "-nodefaults", "-display", "none", "-no-reboot"]);
        for port in PORTS {
            qemu.args(["-serial", &format!("file:{}", self.folder.join(port).display())]);
        }
        qemu.arg("-kernel").arg(&self.kernel.image).args(["-append", &self.boot.command_line()]);
        let drive = format!("file={},if=none,id=root,format=raw,cache=unsafe", self.image.display());
        qemu.args(["-drive", &drive, "-device", "nvme,drive=root,serial=root"]);
        qemu
    }

    /// Also of a machine that went down, whose file system may be torn: then what is there.
    fn bring_out(&self) -> Result<()> {
        // debugfs takes its request as one line, so that the folder's name must have no quotes or spaces in it
        let mut debugfs = Command::new("debugfs");
        debugfs.args(["-R", "rdump /out ."]).arg(self.image.canonicalize()?).current_dir(&self.folder);
        run(&mut debugfs).context("read /out of the lab")?;
        Ok(())
    }

    /// What the command printed.
    pub fn output(&self) -> Result<String> {
        let bytes = fs::read(self.folder.join("output")).context("read the command's output")?;
        Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
    }
}

/// None where the machine went down before it, or while it, said so.
fn status_in(end: &str) -> Option<u8> {
    let (first, _log) = end.split_once('\n')?;
    first.strip_prefix("status ")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::status_in;

    #[test]
    fn a_status_counts_only_when_its_line_is_whole() {
        assert_eq!(status_in("status 101\r\n[    0.000000] Linux version"), Some(101));
        assert_eq!(status_in("status 1"), None);
        assert_eq!(status_in(""), None);
    }
}
