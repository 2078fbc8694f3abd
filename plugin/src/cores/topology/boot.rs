//! The CPUs that the kernel's command line sets apart: `isolcpus=` and `nohz_full=`. Pure.
//!
//! sysfs shows two of these masks only (`isolated`, `nohz_full`); which CPUs managed interrupts stay away from,
//! it does not. Rules: Documentation/admin-guide/kernel-parameters.rst, kernel/sched/isolation.c.

use std::collections::BTreeSet;

use crate::cores::set::{CpuId, CpuSet, MAX_CPUS};

/// What each was asked for; `None`: not asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BootMasks {
    /// isolcpus=domain,.. or isolcpus= without a flag: no load balancing.
    pub domain: Option<CpuSet>,
    /// isolcpus=managed_irq,..: drivers' queue interrupts stay away while another CPU can take them.
    pub managed_irq: Option<CpuSet>,
    /// isolcpus=nohz,..: no tick of the scheduler's own.
    pub nohz: Option<CpuSet>,
    pub nohz_full: Option<CpuSet>,
}

/// The kernel prints a line and boots on without the parameter: so nobody notices that it has no effect.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BootError {
    #[error("{parameter}={value}: {part:?} is not a CPU list: the kernel ignores the whole parameter")]
    List { parameter: &'static str, value: String, part: String },
    #[error("{parameter}={value}: this kernel's last CPU is {last}: it ignores the whole parameter")]
    Beyond { parameter: &'static str, value: String, last: u32 },
    #[error("{parameter}={value} names no CPU")]
    Nothing { parameter: &'static str, value: String },
    #[error("{parameter}={value} contradicts an earlier {parameter}: the kernel keeps {first}")]
    Contradiction { parameter: &'static str, value: String, first: CpuSet },
}

/// `n_cpus`: one more than the highest possible CPU, which is what "N" and "all" mean.
pub fn parse(cmdline: &str, n_cpus: u32) -> Result<BootMasks, BootError> {
    let mut masks = BootMasks::default();
    // What follows "--" is for init.
    for parameter in cmdline.split_ascii_whitespace().take_while(|word| *word != "--") {
        let Some((name, value)) = parameter.trim_matches('"').split_once('=') else { continue };
        let value = value.trim_matches('"');
        // As the kernel compares them (parameq, kernel/params.c).
        match name.replace('-', "_").as_str() {
            "isolcpus" => isolcpus(&mut masks, value, n_cpus)?,
            "nohz_full" => {
                let cpus = whole("nohz_full", value, value, n_cpus)?;
                keep(&mut masks.nohz_full, cpus, "nohz_full", value)?;
            }
            _ => (),
        }
    }
    Ok(masks)
}

/// `[FLAG,[FLAG,..]]LIST`. A word that is no flag is skipped, as the kernel does, for flags of later kernels.
fn isolcpus(masks: &mut BootMasks, value: &str, n_cpus: u32) -> Result<(), BootError> {
    const NAME: &str = "isolcpus";
    let (mut domain, mut managed_irq, mut nohz) = (false, false, false);
    let mut list = value;
    while list.starts_with(|first: char| first.is_ascii_alphabetic()) {
        let Some((flag, rest)) = list.split_once(',') else { break };
        match flag {
            "domain" => domain = true,
            "managed_irq" => managed_irq = true,
            "nohz" => nohz = true,
            _ if flag.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'_') => (),
            _ => {
                return Err(BootError::List {
                    parameter: NAME,
                    value: value.to_owned(),
                    part: flag.to_owned(),
                });
            }
        }
        list = rest;
    }
    let cpus = whole(NAME, value, list, n_cpus)?;
    if domain || !(managed_irq || nohz) {
        keep(&mut masks.domain, cpus.clone(), NAME, value)?;
    }
    if managed_irq {
        keep(&mut masks.managed_irq, cpus.clone(), NAME, value)?;
    }
    if nohz {
        keep(&mut masks.nohz, cpus, NAME, value)?;
    }
    Ok(())
}

fn keep(
    mask: &mut Option<CpuSet>,
    cpus: CpuSet,
    parameter: &'static str,
    value: &str,
) -> Result<(), BootError> {
    match mask {
        Some(first) if *first != cpus => {
            Err(BootError::Contradiction { parameter, value: value.to_owned(), first: first.clone() })
        }
        mask => {
            *mask = Some(cpus);
            Ok(())
        }
    }
}

fn whole(parameter: &'static str, value: &str, list: &str, n_cpus: u32) -> Result<CpuSet, BootError> {
    let n_cpus = n_cpus.clamp(1, MAX_CPUS);
    let mut cpus = BTreeSet::new();
    for part in list.split(',').filter(|part| !part.is_empty()) {
        let region = Region::parse(part, n_cpus - 1).ok_or_else(|| BootError::List {
            parameter,
            value: value.to_owned(),
            part: part.to_owned(),
        })?;
        if n_cpus <= region.last {
            return Err(BootError::Beyond { parameter, value: value.to_owned(), last: n_cpus - 1 });
        }
        cpus.extend(region.cpus());
    }
    CpuSet::new(cpus).ok_or_else(|| BootError::Nothing { parameter, value: value.to_owned() })
}

/// `FIRST-LAST:USED/GROUP`: of each group of CPUs the first few (lib/bitmap-str.c, bitmap_parselist).
struct Region {
    first: u32,
    last: u32,
    used: u32,
    group: u32,
}

impl Region {
    fn parse(part: &str, highest: u32) -> Option<Region> {
        let number = |text: &str| match text {
            "N" => Some(highest),
            _ if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        let (range, pattern) = match part.split_once(':') {
            Some((range, pattern)) => (range, Some(pattern)),
            None => (part, None),
        };
        let (first, last) = match range.split_once('-') {
            _ if range.eq_ignore_ascii_case("all") => (0, highest),
            Some((first, last)) => (number(first)?, number(last)?),
            // A pattern of a single CPU is an error of the kernel's, too.
            None if pattern.is_some() => return None,
            None => (number(range)?, number(range)?),
        };
        let (used, group) = match pattern {
            Some(pattern) => {
                pattern.split_once('/').and_then(|(used, group)| Some((number(used)?, number(group)?)))?
            }
            None => (1, 1),
        };
        (first <= last && used <= group && group != 0).then_some(Region { first, last, used, group })
    }

    fn cpus(&self) -> impl Iterator<Item = CpuId> + use<> {
        let Region { first, last, used, group } = *self;
        (first..=last).filter(move |cpu| (cpu - first) % group < used).filter_map(CpuId::new)
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(cmdline: &str, expect: Expect) {
        let told = parse(cmdline, 64).map(|BootMasks { domain, managed_irq, nohz, nohz_full }| {
            let masks =
                [("domain", domain), ("managed_irq", managed_irq), ("nohz", nohz), ("nohz_full", nohz_full)];
            let told = masks.into_iter().filter_map(|(name, cpus)| Some(format!("{name} {}", cpus?)));
            told.collect::<Vec<_>>().join("; ")
        });
        expect.assert_eq(&told.unwrap_or_else(|error| error.to_string()));
    }

    #[test]
    fn flags_say_what_a_list_is_for() {
        check("quiet isolcpus=2-3,5 ro", expect!["domain 2-3,5"]);
        check(
            "isolcpus=managed_irq,domain,1-63 nohz_full=1-63",
            expect!["domain 1-63; managed_irq 1-63; nohz_full 1-63"],
        );
        check("isolcpus=nohz,4", expect!["nohz 4"]);
        check("isolcpus=managed_irq,4 isolcpus=domain,5", expect!["domain 5; managed_irq 4"]);
        check("isolcpus=of_later,7", expect!["domain 7"]);
    }

    #[test]
    fn lists_are_the_kernels() {
        check("nohz_full=all", expect!["nohz_full 0-63"]);
        check("nohz_full=60-N", expect!["nohz_full 60-63"]);
        check("nohz_full=0-31:4/8", expect!["nohz_full 0-3,8-11,16-19,24-27"]);
        check("nohz_full=all:1/16", expect!["nohz_full 0,16,32,48"]);
        check("nohz-full=N", expect!["nohz_full 63"]);
        check("\"isolcpus=1,,2,\"", expect!["domain 1-2"]);
        check("isolcpus=\"1-2\"", expect!["domain 1-2"]);
    }

    #[test]
    fn what_is_not_a_parameter_of_the_kernel_is_not_read() {
        check("", expect![""]);
        check("isolcpus nohz_full xisolcpus=1 -- isolcpus=2", expect![""]);
    }

    #[test]
    fn what_the_kernel_ignores_is_an_error() {
        check(
            "isolcpus=1-x",
            expect![[r#"isolcpus=1-x: "1-x" is not a CPU list: the kernel ignores the whole parameter"#]],
        );
        check(
            "nohz_full=3-1",
            expect![[r#"nohz_full=3-1: "3-1" is not a CPU list: the kernel ignores the whole parameter"#]],
        );
        check(
            "nohz_full=1:1/2",
            expect![[
                r#"nohz_full=1:1/2: "1:1/2" is not a CPU list: the kernel ignores the whole parameter"#
            ]],
        );
        check(
            "nohz_full=0-9:1/0",
            expect![[
                r#"nohz_full=0-9:1/0: "0-9:1/0" is not a CPU list: the kernel ignores the whole parameter"#
            ]],
        );
        check(
            "nohz_full=1-64",
            expect!["nohz_full=1-64: this kernel's last CPU is 63: it ignores the whole parameter"],
        );
        check(
            "isolcpus=do1,7",
            expect![[r#"isolcpus=do1,7: "do1" is not a CPU list: the kernel ignores the whole parameter"#]],
        );
        check("isolcpus=domain,", expect!["isolcpus=domain, names no CPU"]);
        check("nohz_full=0-9:0/2", expect!["nohz_full=0-9:0/2 names no CPU"]);
        check(
            "isolcpus=1 isolcpus=2",
            expect!["isolcpus=2 contradicts an earlier isolcpus: the kernel keeps 1"],
        );
    }

    proptest! {
        #[test]
        fn no_command_line_makes_it_panic(list in "[0-9Nal:/, -]{0,40}", n_cpus in 0..9000u32, text in "\\PC*") {
            let _ = (parse(&format!("isolcpus={list} nohz_full={list}"), n_cpus), parse(&text, n_cpus));
        }
    }
}
