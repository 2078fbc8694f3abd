//! What kind of machine this is: what can be seen of it, and what can be set.

use super::tree::Tree;
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::CpuSet,
};

pub const LOCKDOWN_FILE: &str = "sys/kernel/security/lockdown";
/// In its stat, the seconds below are by this (proc_stat(5), USER_HZ).
const USER_HZ: u64 = 100;

pub const LOCKDOWN: Item = Item {
    group: Group::Detecting,
    name: "lockdown",
    why: "confidentiality forbids BPF to read kernel memory; both modes close debugfs, where fair_server is turned off",
};
pub const VIRTUAL: Item = Item {
    group: Group::Detecting,
    name: "virtual machine",
    why: "a hypervisor takes a core away without an entry that its kernel could see; so does firmware (SMI) anywhere",
};

#[derive(Debug)]
pub struct Facts {
    /// "none [integrity] confidentiality"
    pub lockdown: Option<String>,
    pub hypervisor: bool,
    /// Of the cores, since the boot, in hundredths of a second.
    pub steal: u64,
}

pub fn read(tree: &Tree, cores: &CpuSet) -> Facts {
    let flags = tree.text("proc/cpuinfo").unwrap_or_default();
    let flags = flags.lines().find(|line| line.starts_with("flags"));
    Facts {
        lockdown: tree.text(LOCKDOWN_FILE),
        hypervisor: flags
            .is_some_and(|flags| flags.split_ascii_whitespace().any(|flag| flag == "hypervisor")),
        steal: tree.text("proc/stat").map_or(0, |stat| steal(&stat, cores)),
    }
}

fn steal(stat: &str, cores: &CpuSet) -> u64 {
    let of_cpu = |line: &str| {
        let mut fields = line.split_ascii_whitespace();
        let number: CpuSet = fields.next()?.strip_prefix("cpu")?.parse().ok()?;
        let steal: u64 = fields.nth(7)?.parse().ok()?;
        number.overlaps(cores).then_some(steal)
    };
    stat.lines().filter_map(of_cpu).sum()
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    vec![lockdown(facts), virtual_machine(facts)]
}

/// The word in brackets is in force (kernel_lockdown(7)).
fn lockdown(facts: &Facts) -> Finding {
    let remedy = "boot with lockdown=none; with lockdown=integrity strict pods run, and debugfs stays closed";
    match facts.lockdown.as_deref() {
        None => LOCKDOWN.not_here("not in force, or not readable"),
        Some(modes) => LOCKDOWN.good_or_missing(modes.contains("[none]"), modes, remedy),
    }
}

fn virtual_machine(facts: &Facts) -> Finding {
    if !facts.hypervisor {
        return VIRTUAL.is(State::Good, "none: only firmware (SMI) can take a core unseen", "");
    }
    let found = match facts.steal {
        0 => "under a hypervisor; no steal time told".to_owned(),
        steal => format!(
            "under a hypervisor, which took {} s of these cores since the boot",
            steal.div_ceil(USER_HZ)
        ),
    };
    let remedy = "pin this machine's CPUs to cores of the host that are isolated there too";
    VIRTUAL.is(State::Missing, found, remedy)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::check::facts::testing::{files, lines};

    #[track_caller]
    fn check(tree: &[(&str, &str)], expect: Expect) {
        let (_root, tree) = files(tree);
        expect.assert_eq(&lines(&judge(&read(&tree, &"1-3".parse().unwrap()))));
    }

    #[test]
    fn a_hypervisor_is_told_with_what_it_took() {
        check(
            &[
                ("proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu hypervisor lahf_lm\n"),
                (
                    "proc/stat",
                    "cpu  1 2 3 4 5 6 7 900 0 0\ncpu0 1 2 3 4 5 6 7 500 0 0\ncpu1 1 2 3 4 5 6 7 250 0 0\ncpu2 0 0 0 0 0 0 0 1 0 0\n",
                ),
                (LOCKDOWN_FILE, "none [integrity] confidentiality\n"),
            ],
            expect![[r#"
                lockdown: missing: none [integrity] confidentiality -> boot with lockdown=none; with lockdown=integrity strict pods run, and debugfs stays closed
                virtual machine: missing: under a hypervisor, which took 3 s of these cores since the boot -> pin this machine's CPUs to cores of the host that are isolated there too
            "#]],
        );
    }

    #[test]
    fn a_machine_of_its_own_has_only_its_firmware() {
        check(
            &[("proc/cpuinfo", "flags\t\t: fpu\n"), (LOCKDOWN_FILE, "[none] integrity confidentiality\n")],
            expect![[r#"
                lockdown: good: [none] integrity confidentiality -> boot with lockdown=none; with lockdown=integrity strict pods run, and debugfs stays closed
                virtual machine: good: none: only firmware (SMI) can take a core unseen -> 
            "#]],
        );
    }
}
