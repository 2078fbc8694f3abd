//! Clocks and sleep of the cores: no entry comes of them, but a latency.

use super::{
    Asked,
    tree::{CPUS, Tree},
};
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::{CpuId, CpuSet},
};

/// Below cpuN.
pub const GOVERNOR_FILE: &str = "cpufreq/scaling_governor";
pub const FREQUENCY_FILES: [&str; 2] = ["cpufreq/scaling_min_freq", "cpufreq/scaling_max_freq"];
pub const LATENCY_FILE: &str = "power/pm_qos_resume_latency_us";
pub const STATES: &str = "cpuidle";

pub const GOVERNOR: Item = Item {
    group: Group::Power,
    name: "frequency governor",
    why: "another than performance changes a core's clock while a program runs",
};
pub const FREQUENCY: Item = Item {
    group: Group::Power,
    name: "frequency limits",
    why: "between two limits the clock changes with temperature and with the neighbours' load",
};
pub const C_STATES: Item = Item {
    group: Group::Power,
    name: "sleep states",
    why: "a program that sleeps wakes late by the depth of its core's sleep; one that never sleeps needs nothing",
};

#[derive(Debug)]
pub struct Facts {
    pub cpus: Vec<Cpu>,
}

#[derive(Debug)]
pub struct Cpu {
    pub cpu: CpuId,
    pub governor: Option<String>,
    pub limits: [Option<String>; 2],
    /// "0": no limit; "n/a": no sleep at all.
    pub latency: Option<String>,
    /// The deepest state that is not disabled: its name and exit latency in us.
    pub deepest: Option<(String, u64)>,
}

pub fn read(tree: &Tree, cores: &CpuSet) -> Facts {
    let of = |cpu: CpuId| {
        let folder = format!("{CPUS}/cpu{}", cpu.number());
        let text = |file: &str| tree.text(&format!("{folder}/{file}"));
        let states = tree.folders(&format!("{folder}/{STATES}"));
        let states = states.into_iter().filter_map(|state| {
            let text = |file: &str| tree.text(&format!("{folder}/{STATES}/{state}/{file}"));
            let enabled = text("disable").is_none_or(|disable| disable == "0");
            enabled.then_some((text("name")?, text("latency")?.parse().ok()?))
        });
        Cpu {
            cpu,
            governor: text(GOVERNOR_FILE),
            limits: FREQUENCY_FILES.map(text),
            latency: text(LATENCY_FILE),
            deepest: states.max_by_key(|(_, latency)| *latency),
        }
    };
    Facts { cpus: cores.iter().map(of).collect() }
}

pub fn judge(facts: &Facts, asked: &Asked) -> Vec<Finding> {
    vec![governor(facts, asked), frequency(facts, asked), c_states(facts, asked)]
}

fn those(facts: &Facts, is_so: impl Fn(&Cpu) -> bool) -> Option<CpuSet> {
    CpuSet::new(facts.cpus.iter().filter(|cpu| is_so(cpu)).map(|cpu| cpu.cpu).collect())
}

fn governor(facts: &Facts, asked: &Asked) -> Finding {
    if facts.cpus.iter().all(|cpu| cpu.governor.is_none()) {
        return GOVERNOR
            .not_here("this machine's clock is not the kernel's (a virtual machine, or the firmware)");
    }
    let remedy = format!("cpupower -c {} frequency-set -g performance", asked.cores);
    let others = those(facts, |cpu| cpu.governor.as_deref().is_some_and(|name| name != "performance"));
    let name = facts.cpus.iter().find_map(|cpu| cpu.governor.clone().filter(|name| name != "performance"));
    match (others, name) {
        (Some(cpus), Some(name)) => GOVERNOR.is(State::Missing, format!("{name}, for CPU {cpus}"), remedy),
        _ => GOVERNOR.is(State::Good, "performance", remedy),
    }
}

fn frequency(facts: &Facts, asked: &Asked) -> Finding {
    let apart = those(facts, |cpu| matches!(&cpu.limits, [Some(min), Some(max)] if min != max));
    let remedy =
        format!("cpupower -c {} frequency-set -d F -u F, F as the hardware can keep it", asked.cores);
    match (apart, facts.cpus.iter().any(|cpu| cpu.limits[0].is_some())) {
        (_, false) => FREQUENCY.not_here("this machine's clock is not the kernel's"),
        (None, _) => FREQUENCY.is(State::Good, "lowest and highest are the same", remedy),
        (Some(cpus), _) => FREQUENCY.is(State::Missing, format!("a range, for CPU {cpus}"), remedy),
    }
}

fn c_states(facts: &Facts, asked: &Asked) -> Finding {
    let deepest = facts.cpus.iter().filter_map(|cpu| cpu.deepest.clone()).max_by_key(|(_, latency)| *latency);
    let free = those(facts, |cpu| cpu.latency.as_deref() == Some("0"));
    let remedy = format!(
        "for n in CPUs {}: echo n/a > /{CPUS}/cpuN/{LATENCY_FILE} (no sleep), or a number of us",
        asked.cores
    );
    match (deepest, free) {
        (None | Some((_, 0)), _) => C_STATES.not_here("no sleep state with a latency"),
        (Some(_), None) => C_STATES.is(State::Good, "limited by pm_qos_resume_latency_us", remedy),
        (Some((name, latency)), Some(cpus)) => C_STATES.is(
            State::NotHere,
            format!("not limited, for CPU {cpus}: {name} takes {latency} us"),
            remedy,
        ),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::check::facts::testing::{asked, files, lines};

    #[track_caller]
    fn check(tree: &[(&str, &str)], expect: Expect) {
        let (_root, tree) = files(tree);
        expect.assert_eq(&lines(&judge(&read(&tree, &asked().cores), &asked())));
    }

    #[test]
    fn a_core_that_changes_its_clock_or_sleeps_deep_is_named() {
        check(
            &[
                ("sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "performance\n"),
                ("sys/devices/system/cpu/cpu2/cpufreq/scaling_governor", "powersave\n"),
                ("sys/devices/system/cpu/cpu2/cpufreq/scaling_min_freq", "800000\n"),
                ("sys/devices/system/cpu/cpu2/cpufreq/scaling_max_freq", "3600000\n"),
                ("sys/devices/system/cpu/cpu2/power/pm_qos_resume_latency_us", "0\n"),
                ("sys/devices/system/cpu/cpu2/cpuidle/state0/name", "POLL\n"),
                ("sys/devices/system/cpu/cpu2/cpuidle/state0/latency", "0\n"),
                ("sys/devices/system/cpu/cpu2/cpuidle/state1/name", "C6\n"),
                ("sys/devices/system/cpu/cpu2/cpuidle/state1/latency", "133\n"),
            ],
            expect![[r#"
                frequency governor: missing: powersave, for CPU 2 -> cpupower -c 1-3 frequency-set -g performance
                frequency limits: missing: a range, for CPU 2 -> cpupower -c 1-3 frequency-set -d F -u F, F as the hardware can keep it
                sleep states: not here: not limited, for CPU 2: C6 takes 133 us -> for n in CPUs 1-3: echo n/a > /sys/devices/system/cpu/cpuN/power/pm_qos_resume_latency_us (no sleep), or a number of us
            "#]],
        );
    }

    #[test]
    fn a_virtual_machine_has_no_clock_of_its_own() {
        check(
            &[],
            expect![[r#"
            frequency governor: not here: this machine's clock is not the kernel's (a virtual machine, or the firmware) -> nothing needs to change
            frequency limits: not here: this machine's clock is not the kernel's -> nothing needs to change
            sleep states: not here: no sleep state with a latency -> nothing needs to change
        "#]],
        );
    }
}
