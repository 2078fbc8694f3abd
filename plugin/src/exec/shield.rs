//! Keeps away from the command's core what can be kept away, and says what cannot. Undone when dropped, so also
//! after SIGINT; not after SIGKILL.

use std::{
    fs,
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use nix::libc::EACCES;
use serde::Serialize;

use super::cpu::Machine;
use crate::cores::set::CpuSet;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CouldNot {
    pub what: String,
    pub remedy: String,
}

#[derive(Debug)]
pub struct Shield {
    moved: Vec<Moved>,
    pub could_not: Vec<CouldNot>,
}

#[derive(Debug)]
struct Moved {
    file: PathBuf,
    before: String,
    now: CpuSet,
}

impl Shield {
    /// `proc` is /proc, or a tree like it.
    pub fn raise(proc: &Path, cpus: &CpuSet, machine: &Machine) -> Shield {
        let mut shield = Shield { moved: Vec::new(), could_not: by_boot_only(cpus, machine) };
        let (mut fixed, mut forbidden) = (Vec::new(), Vec::new());
        for dir in interrupts(&proc.join("irq")) {
            match move_away(&dir, cpus, &machine.topology.online) {
                Ok(moved) => shield.moved.extend(moved),
                // EPERM and EIO are the kernel's words for a managed interrupt, or one that is bound to a CPU.
                Err(error) if error.raw_os_error() == Some(EACCES) => forbidden.push(name(&dir)),
                Err(_) => fixed.push(name(&dir)),
            }
        }
        shield.refused(&forbidden, "run quietcore as root");
        shield.refused(
            &fixed,
            &format!("for devices with managed interrupts boot with isolcpus=managed_irq,domain,{cpus}"),
        );
        shield
    }

    fn refused(&mut self, interrupts: &[String], remedy: &str) {
        if !interrupts.is_empty() {
            let what = format!("interrupts stay: {}", interrupts.join(", "));
            self.could_not.push(CouldNot { what, remedy: remedy.to_owned() });
        }
    }
}

impl Drop for Shield {
    fn drop(&mut self) {
        for Moved { file, before, now } in &self.moved {
            // Somebody else's change since then is theirs.
            if read_set(file).is_some_and(|current| current == *now) {
                let _ = fs::write(file, before);
            }
        }
    }
}

/// What only a boot parameter, or nobody, can keep away. Pure.
fn by_boot_only(cpus: &CpuSet, machine: &Machine) -> Vec<CouldNot> {
    let mut could_not = Vec::new();
    let outside = |quiet: &Option<CpuSet>| match quiet {
        Some(quiet) => cpus.without(quiet),
        None => Some(cpus.clone()),
    };
    if let Some(ticking) = outside(&machine.topology.nohz_full) {
        let what = format!("the timer tick stays on CPU {ticking}: it is not in nohz_full");
        let remedy = format!("boot with nohz_full={cpus} (a kernel with CONFIG_NO_HZ_FULL=y)");
        could_not.push(CouldNot { what, remedy });
    }
    if let Some(shared) = outside(&machine.isolated) {
        let what = format!("other tasks may run on CPU {shared}: it is not isolated");
        let remedy = format!("boot with isolcpus=domain,{cpus}, or make a cpuset partition of type isolated");
        could_not.push(CouldNot { what, remedy });
    }
    for cpu in cpus.iter() {
        if let Some(siblings) = machine.topology.siblings_of(cpu).without(cpus) {
            let what = format!(
                "CPU {} shares its physical core with CPU {siblings}, which stays in use",
                cpu.number()
            );
            let remedy =
                format!("give both to the command, or turn CPU {siblings} off (chcpu -d {siblings})");
            could_not.push(CouldNot { what, remedy });
        }
    }
    could_not
}

/// In the order of their numbers.
fn interrupts(root: &Path) -> Vec<PathBuf> {
    let numbered = |path: PathBuf| Some((path.file_name()?.to_str()?.parse::<u32>().ok()?, path));
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let mut dirs: Vec<_> = entries.filter_map(|entry| numbered(entry.path())).collect();
    dirs.sort();
    dirs.into_iter().map(|(_, path)| path).collect()
}

/// `None`: it never comes to these CPUs.
fn move_away(dir: &Path, cpus: &CpuSet, online: &CpuSet) -> io::Result<Option<Moved>> {
    let file = dir.join("smp_affinity_list");
    let before = match fs::read_to_string(&file) {
        // The device is gone since the list was read.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        before => before?,
    };
    let Ok(affinity) = before.parse::<CpuSet>() else { return Ok(None) };
    if !affinity.overlaps(cpus) {
        return Ok(None);
    }
    let Some(now) = affinity.without(cpus).or_else(|| online.without(cpus)) else { return Ok(None) };
    fs::write(&file, now.to_string())?;
    Ok(Some(Moved { file, before, now }))
}

fn read_set(file: &Path) -> Option<CpuSet> {
    fs::read_to_string(file).ok()?.parse().ok()
}

/// "24 (ACPI:Ged)": an interrupt's handlers are directories below its own.
fn name(dir: &Path) -> String {
    let number = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let handler = entries.filter(|entry| entry.path().is_dir()).map(|entry| entry.file_name()).next();
    handler.map_or(number.clone(), |handler| format!("{number} ({})", handler.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::cores::topology::Topology;

    fn machine(isolated: &str, nohz_full: &str) -> Machine {
        let set = |list: &str| list.parse().unwrap();
        let mut topology = Topology::new(set("0-3"), Vec::new(), vec![set("0,2"), set("1,3")]);
        topology.nohz_full = nohz_full.parse().ok();
        Machine { topology, isolated: isolated.parse().ok(), allowed: set("0-3"), granted: None }
    }

    #[track_caller]
    fn check(cpus: &str, machine: &Machine, expect: Expect) {
        let could_not = by_boot_only(&cpus.parse().unwrap(), machine);
        let lines: Vec<String> =
            could_not.iter().map(|item| format!("{} -> {}\n", item.what, item.remedy)).collect();
        expect.assert_eq(&lines.concat());
    }

    #[test]
    fn each_thing_that_stays_has_its_remedy() {
        check(
            "1",
            &machine("", ""),
            expect![[r"
            the timer tick stays on CPU 1: it is not in nohz_full -> boot with nohz_full=1 (a kernel with CONFIG_NO_HZ_FULL=y)
            other tasks may run on CPU 1: it is not isolated -> boot with isolcpus=domain,1, or make a cpuset partition of type isolated
            CPU 1 shares its physical core with CPU 3, which stays in use -> give both to the command, or turn CPU 3 off (chcpu -d 3)
        "]],
        );
        check("1,3", &machine("1,3", "1-3"), expect![""]);
    }

    #[test]
    fn interrupts_go_elsewhere_and_come_back() {
        let proc = tempfile::tempdir().unwrap();
        let file = |number: &str| proc.path().join("irq").join(number).join("smp_affinity_list");
        for (number, affinity) in [("9", "0-3\n"), ("10", "1\n"), ("11", "0\n")] {
            fs::create_dir_all(file(number).parent().unwrap().join("eth0")).unwrap();
            fs::write(file(number), affinity).unwrap();
        }
        // A directory cannot be written: as a managed interrupt says no.
        fs::create_dir_all(file("12").join("nvme0q1")).unwrap();
        let now = || ["9", "10", "11"].map(|number| fs::read_to_string(file(number)).unwrap());

        let shield = Shield::raise(proc.path(), &"1".parse().unwrap(), &machine("1", "1"));
        assert_eq!(now(), ["0,2-3", "0,2-3", "0\n"]);
        let stays: Vec<&str> = shield.could_not.iter().map(|item| &*item.what).collect();
        assert_eq!(stays.last(), Some(&"interrupts stay: 12 (smp_affinity_list)"));
        // By an administrator, meanwhile.
        fs::write(file("10"), "2").unwrap();
        drop(shield);
        assert_eq!(now(), ["0-3\n", "2", "0\n"]);
    }
}
