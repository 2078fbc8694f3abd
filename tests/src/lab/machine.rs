//! One boot of the lab. Three serial ports come back as files: the console, the command's output, and its status
//! with the kernel's log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::command::output;
use crate::lab::kernel::Kernel;

/// CPU 0 keeps house; 1 to 3 are what a node would isolate.
const BOOT: &str = "root=/dev/nvme0n1 rw init=/init console=ttyS0 loglevel=4 panic=-1 tsc=reliable nowatchdog \
    mitigations=off 8250.nr_uarts=4 nohz_full=1-3 isolcpus=managed_irq,domain,1-3 rcu_nocbs=1-3 irqaffinity=0";

#[derive(Debug)]
pub struct Machine<'a> {
    pub kernel: &'a Kernel,
    pub image: &'a Path,
    /// Where its serial ports are written.
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
        fs::create_dir_all(&self.folder).with_context(|| format!("make {}", self.folder.display()))?;
        let mut qemu = Command::new("timeout");
        qemu.args(["--kill-after=5", &self.seconds.to_string(), "qemu-system-x86_64"]);
        // single: with a thread for each CPU the emulator itself breaks while the kernel patches its text
        qemu.args(["-M", "q35", "-accel", "tcg,thread=single", "-cpu", "Skylake-Server,+umip", "-smp", "4"]);
        qemu.args(["-m", "1536", "-nodefaults", "-display", "none", "-no-reboot"]);
        for port in ["console", "output", "end"] {
            qemu.args(["-serial", &format!("file:{}", self.folder.join(port).display())]);
        }
        qemu.arg("-kernel").arg(&self.kernel.image).args(["-append", BOOT]);
        let drive = format!("file={},if=none,id=root,format=raw,cache=unsafe", self.image.display());
        qemu.args(["-drive", &drive, "-device", "nvme,drive=root,serial=root"]);
        let ran = output(&mut qemu)?;
        fs::write(self.folder.join("qemu"), [ran.stdout, ran.stderr].concat())?;
        if matches!(ran.status.code(), Some(124 | 137)) {
            return Ok(Ended::TimedOut);
        }
        let end = fs::read_to_string(self.folder.join("end")).unwrap_or_default();
        let status = end.lines().find_map(|line| line.strip_prefix("status ")?.trim().parse().ok());
        Ok(status.map_or(Ended::Died, Ended::Command))
    }

    /// What the command printed.
    pub fn output(&self) -> Result<String> {
        let bytes = fs::read(self.folder.join("output")).context("read the command's output")?;
        Ok(String::from_utf8_lossy(&bytes).replace("\r\n", "\n"))
    }
}
