//! Trees in temporary folders stand for machines; the boot loaders' programs are files that are never run.

mod apply;
mod boot_loaders;
mod numa;
mod plan;
mod undo;

use std::{
    cell::RefCell,
    fs,
    path::{Path, PathBuf},
};

use super::{
    NodeError,
    apply::{Outcome, Place},
    cmdline::Setting,
    facts,
    kubelet::CpuManager,
    plan as plans, reboot_required, state,
    tools::Run,
};

const DROP_IN: &str = "etc/default/grub.d/50-quietcore.cfg";
const STATE: &str = "var/lib/quietcore/boot.json";

struct Machine {
    folder: tempfile::TempDir,
    calls: RefCell<Vec<String>>,
    fails: RefCell<Option<&'static str>>,
}

impl Machine {
    /// Four CPUs without SMT, a Debian 6.12 with cgroup v2.
    fn new() -> Machine {
        let machine = Machine {
            folder: tempfile::tempdir().unwrap(),
            calls: RefCell::default(),
            fails: RefCell::default(),
        };
        for cpu in 0..4 {
            machine.put(
                &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                &format!("{cpu}\n"),
            );
        }
        for (path, text) in [
            ("proc/cmdline", "BOOT_IMAGE=/vmlinuz root=/dev/sda ro quiet\n"),
            ("proc/sys/kernel/osrelease", "6.12.0-test\n"),
            ("sys/devices/system/cpu/online", "0-3\n"),
            ("sys/devices/system/cpu/possible", "0-3\n"),
            ("sys/devices/system/cpu/nohz_full", "(null)\n"),
            ("sys/devices/system/cpu/isolated", "\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu\n"),
            ("sys/fs/cgroup/cpuset.cpus.isolated", "\n"),
            ("sys/kernel/btf/vmlinux", "\0housekeeping_cpumask\0"),
        ] {
            machine.put(path, text);
        }
        machine
    }

    /// A machine of the last decade: 8 CPUs on 4 cores, cgroup v1, no NO_HZ_FULL.
    fn old() -> Machine {
        let machine = Machine::new();
        for cpu in 0..8 {
            machine.put(
                &format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"),
                &format!("{},{}\n", cpu % 4, cpu % 4 + 4),
            );
        }
        for path in ["sys/devices/system/cpu/nohz_full", "sys/kernel/btf/vmlinux"] {
            machine.remove(path);
        }
        fs::remove_dir_all(machine.root().join("sys/fs/cgroup")).unwrap();
        machine.put("sys/devices/system/cpu/online", "0-7\n");
        machine.put("sys/devices/system/cpu/possible", "0-15\n");
        machine.put("boot/config-6.12.0-test", "CONFIG_RCU_NOCB_CPU=y\n# CONFIG_NO_HZ_FULL is not set\n");
        machine
    }

    fn with_grub() -> Machine {
        let machine = Machine::new();
        machine.put("etc/default/grub", "GRUB_TIMEOUT=5\nGRUB_CMDLINE_LINUX_DEFAULT=\"quiet\"\n");
        machine.put("usr/sbin/update-grub", "");
        machine.put("usr/sbin/grub-mkconfig", "for x in ${sysconfdir}/default/grub.d/*.cfg ; do");
        machine
    }

    fn with_grubby() -> Machine {
        let machine = Machine::new();
        machine.put("usr/sbin/grubby", "");
        machine.put("boot/loader/entries/a-6.12.conf", "title A\noptions root=/dev/sda ro\n");
        machine
    }

    fn with_systemd_boot() -> Machine {
        let machine = Machine::new();
        machine.put("usr/bin/kernel-install", "");
        machine.put("boot/loader/loader.conf", "timeout 3\n");
        machine.put("lib/modules/6.1.0/vmlinuz", "");
        machine.put("lib/modules/6.12.0-test/modules.dep", "");
        machine.put("boot/vmlinuz-6.12.0-test", "");
        machine.put("lib/modules/5.10.0-removed/modules.dep", "");
        machine
    }

    fn root(&self) -> &Path {
        self.folder.path()
    }

    fn put(&self, path: &str, text: &str) {
        let path = self.root().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.root().join(path)).unwrap();
    }

    /// `None` where there is no such file.
    fn text(&self, path: &str) -> Option<String> {
        fs::read_to_string(self.root().join(path)).ok()
    }

    /// The machine boots with these parameters, and its kernel does what they say.
    fn boot(&self, nohz_full: &str, line: &str) {
        self.put("proc/cmdline", line);
        self.put("sys/devices/system/cpu/nohz_full", nohz_full);
    }

    fn state_dir(&self) -> PathBuf {
        self.root().join("var/lib/quietcore")
    }

    fn facts(&self, isolate: &str) -> facts::Facts {
        facts::read(self.root(), &isolate.parse().unwrap()).unwrap()
    }

    fn plan(&self, isolate: &str) -> plans::Plan {
        plans::make(&self.facts(isolate), CpuManager::None, None)
    }

    fn apply(&self, isolate: &str) -> Result<Outcome, NodeError> {
        self.place().apply(self.plan(isolate), 3, false)
    }

    fn restore(&self) -> Result<Outcome, NodeError> {
        self.place().restore(false)
    }

    fn missing(&self) -> Vec<String> {
        let missing = reboot_required(&self.state_dir(), self.root()).unwrap();
        missing.into_iter().map(|missing| missing.parameter).collect()
    }

    fn place(&self) -> Place<'_> {
        Place { root: self.root(), state: state::path(&self.state_dir()), tools: self }
    }

    /// What the programs were called with since the last time.
    fn calls(&self) -> Vec<String> {
        self.calls.take()
    }
}

impl Run for Machine {
    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), NodeError> {
        let command = [&[program], arguments].concat().join(" ");
        self.calls.borrow_mut().push(command.clone());
        if program.ends_with("update-grub") || program.ends_with("mkconfig") {
            let menu = if program.ends_with("grub2-mkconfig") { "grub2" } else { "grub" };
            let drop_in = self.text("etc/default/grub.d/50-quietcore.cfg").unwrap_or_default();
            let overwritten = self.text("etc/default/grub.d/99-last.cfg");
            self.put(&format!("boot/{menu}/grub.cfg"), &overwritten.unwrap_or(drop_in));
        }
        match self.fails.borrow_mut().take() {
            Some(output) => {
                Err(NodeError::Tool { command, status: "exit status: 1".into(), output: output.into() })
            }
            None => Ok(()),
        }
    }
}

/// With its causes, as a person sees it.
fn told(error: NodeError) -> String {
    format!("{:#}", anyhow::Error::from(error))
}

fn setting(text: &str) -> Setting {
    text.parse().unwrap()
}
