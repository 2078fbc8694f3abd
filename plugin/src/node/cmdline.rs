//! The kernel's command line: how it is split, what the parameters of this folder mean, and whether a line already
//! says what a plan wants. Pure.
//!
//! Splitting as lib/cmdline.c:next_arg does it, CPU lists as lib/bitmap-str.c (Documentation/admin-guide/
//! kernel-parameters.rst, "cpu lists"): strides and the words `N` and `all`, which `CpuSet` does not read.

use std::{collections::BTreeSet, fmt, str::FromStr};

use crate::cores::set::{CpuId, CpuSet};

/// One parameter. `text` is how it stood there, quotes and all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Argument {
    pub(super) text: String,
    name: String,
    value: Option<String>,
}

/// What follows `--` is for init and left out.
pub(super) fn split(line: &str) -> Vec<Argument> {
    let mut words = Vec::new();
    let (mut word, mut quoted) = (String::new(), false);
    for letter in line.chars() {
        quoted ^= letter == '"';
        if letter.is_whitespace() && !quoted {
            words.push(std::mem::take(&mut word));
        } else {
            word.push(letter);
        }
    }
    words.push(word);
    let ours = words.into_iter().take_while(|word| word != "--").filter(|word| !word.is_empty());
    ours.map(Argument::new).collect()
}

impl Argument {
    fn new(text: String) -> Argument {
        // Quotes stand around the whole or around the value.
        let bare = text.replace('"', "");
        let (name, value) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (bare.as_str(), None),
        };
        // The kernel takes a dash for an underscore: parameq() in kernel/params.c.
        Argument { name: name.replace('-', "_"), value, text }
    }
}

/// A parameter that a plan may ask for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Setting {
    NohzFull(CpuSet),
    Isolcpus { domain: bool, cpus: CpuSet },
    IrqAffinity(CpuSet),
    RcuNocbs(CpuSet),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a kernel parameter that quietcore sets")]
pub(super) struct NotOurs(String);

/// What a line says of a setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    Nothing,
    Same,
    /// The parameter that says something else, as it stands there.
    Otherwise(String),
}

impl Setting {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Setting::NohzFull(_) => "nohz_full",
            Setting::Isolcpus { .. } => "isolcpus",
            Setting::IrqAffinity(_) => "irqaffinity",
            Setting::RcuNocbs(_) => "rcu_nocbs",
        }
    }

    /// Each mention must say the same: of two lists for nohz_full or isolcpus the kernel keeps the first and drops
    /// the second with a warning (housekeeping_setup() in kernel/sched/isolation.c).
    ///
    /// `last`: the highest CPU number that is possible here.
    pub(super) fn said_by(&self, line: &[Argument], last: u32) -> Said {
        let mut mentions = line.iter().filter(|argument| argument.name == self.name()).peekable();
        if mentions.peek().is_none() {
            return Said::Nothing;
        }
        let other = mentions.find(|argument| !self.is_said_by(argument.value.as_deref(), last));
        other.map_or(Said::Same, |argument| Said::Otherwise(argument.text.clone()))
    }

    fn is_said_by(&self, value: Option<&str>, last: u32) -> bool {
        let Some(value) = value else { return false };
        match self {
            Setting::NohzFull(cpus) | Setting::IrqAffinity(cpus) | Setting::RcuNocbs(cpus) => {
                cpu_list(value, last).as_ref() == Some(cpus)
            }
            Setting::Isolcpus { domain, cpus } => {
                let flags = IsolcpusFlags::read(value);
                flags.managed_irq
                    && (flags.domain || !domain)
                    && cpu_list(flags.list, last).as_ref() == Some(cpus)
            }
        }
    }

    /// Whether a mention covers the setting's CPUs: what a running kernel has may be more than was asked for.
    pub(super) fn covered_by(&self, line: &[Argument], last: u32) -> bool {
        let values = line.iter().filter(|argument| argument.name == self.name());
        let mut values = values.filter_map(|argument| argument.value.as_deref());
        let covers =
            |list: &str, cpus: &CpuSet| cpu_list(list, last).is_some_and(|all| is_within(cpus, &all));
        match self {
            Setting::NohzFull(cpus) | Setting::RcuNocbs(cpus) => values.any(|value| covers(value, cpus)),
            // More CPUs would be less: it names those that may be interrupted.
            Setting::IrqAffinity(cpus) => {
                values.any(|value| cpu_list(value, last).is_some_and(|all| is_within(&all, cpus)))
            }
            Setting::Isolcpus { cpus, .. } => values.any(|value| {
                let flags = IsolcpusFlags::read(value);
                flags.managed_irq && covers(flags.list, cpus)
            }),
        }
    }
}

impl fmt::Display for Setting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Setting::NohzFull(cpus) | Setting::IrqAffinity(cpus) | Setting::RcuNocbs(cpus) => {
                write!(f, "{}={cpus}", self.name())
            }
            Setting::Isolcpus { domain: true, cpus } => write!(f, "isolcpus=managed_irq,domain,{cpus}"),
            Setting::Isolcpus { domain: false, cpus } => write!(f, "isolcpus=managed_irq,{cpus}"),
        }
    }
}

/// Only what `Display` writes: for boot.json.
impl FromStr for Setting {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Setting, NotOurs> {
        let not_ours = || NotOurs(text.to_owned());
        let (name, value) = text.split_once('=').ok_or_else(not_ours)?;
        let cpus = |list: &str| list.parse::<CpuSet>().map_err(|_| not_ours());
        match name {
            "nohz_full" => Ok(Setting::NohzFull(cpus(value)?)),
            "irqaffinity" => Ok(Setting::IrqAffinity(cpus(value)?)),
            "rcu_nocbs" => Ok(Setting::RcuNocbs(cpus(value)?)),
            "isolcpus" => {
                let flags = IsolcpusFlags::read(value);
                if !flags.managed_irq {
                    return Err(not_ours());
                }
                Ok(Setting::Isolcpus { domain: flags.domain, cpus: cpus(flags.list)? })
            }
            _ => Err(not_ours()),
        }
    }
}

/// isolcpus=[flag,...]list; without a flag it means `domain`.
struct IsolcpusFlags<'a> {
    domain: bool,
    managed_irq: bool,
    list: &'a str,
}

impl IsolcpusFlags<'_> {
    fn read(value: &str) -> IsolcpusFlags<'_> {
        let mut flags = IsolcpusFlags { domain: false, managed_irq: false, list: value };
        let mut any = false;
        while let Some((flag, rest)) = flags.list.split_once(',') {
            match flag {
                "domain" => flags.domain = true,
                "managed_irq" => flags.managed_irq = true,
                "nohz" => {}
                _ => break,
            }
            (any, flags.list) = (true, rest);
        }
        flags.domain |= !any;
        flags
    }
}

pub(super) fn is_within(cpus: &CpuSet, all: &CpuSet) -> bool {
    cpus.without(all).is_none()
}

/// `None`: no list, an empty one, or beyond the CPUs that quietcore handles.
pub(super) fn cpu_list(list: &str, last: u32) -> Option<CpuSet> {
    let mut cpus = BTreeSet::new();
    for part in list.split(',') {
        let (range, stride) = match part.split_once(':') {
            Some((range, stride)) => (range, Some(stride.split_once('/')?)),
            None => (part, None),
        };
        let (first, end) = match range.split_once('-') {
            _ if range.eq_ignore_ascii_case("all") => (0, last),
            Some((first, end)) => (number(first, last)?, number(end, last)?),
            None => (number(range, last)?, number(range, last)?),
        };
        let (used, group) = match stride {
            Some((used, group)) => (used.parse().ok()?, group.parse().ok()?),
            None => (1, 1),
        };
        if group == 0_u32 || group < used || end < first {
            return None;
        }
        // Before the range is walked: "0-4294967295" must not cost four billion steps.
        CpuId::new(end)?;
        let chosen = (first..=end).filter(|cpu| (cpu - first) % group < used);
        cpus.extend(chosen.filter_map(CpuId::new));
    }
    CpuSet::new(cpus)
}

fn number(text: &str, last: u32) -> Option<u32> {
    if text == "N" { Some(last) } else { text.parse().ok() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn list(text: &str) -> String {
        cpu_list(text, 15).map_or("none".into(), |cpus| cpus.to_string())
    }

    #[test]
    fn cpu_lists_are_read_as_the_kernel_reads_them() {
        for (text, cpus) in [
            ("1-3,5", "1-3,5"),
            ("0-15:2/4", "0-1,4-5,8-9,12-13"),
            ("all", "0-15"),
            ("all:1/8", "0,8"),
            ("14-N", "14-15"),
            ("N", "15"),
            ("", "none"),
            ("3-1", "none"),
            ("1-3:1", "none"),
            ("1-3:1/0", "none"),
            ("1-3:2/1", "none"),
            ("0-4294967295", "none"),
        ] {
            assert_eq!(list(text), cpus, "{text}");
        }
    }

    #[test]
    fn quotes_keep_a_parameter_together_and_what_is_for_init_is_not_ours() {
        let line = split(" quiet  dyndbg=\"file a.c +p\" \"nohz-full=1-3\" -- nohz_full=9\n");
        let texts: Vec<&str> = line.iter().map(|argument| argument.text.as_str()).collect();
        assert_eq!(texts, ["quiet", "dyndbg=\"file a.c +p\"", "\"nohz-full=1-3\""]);
        let setting: Setting = "nohz_full=1-3".parse().unwrap();
        assert_eq!(setting.said_by(&line, 15), Said::Same);
    }

    #[track_caller]
    fn check(setting: &str, line: &str, said: &Said) {
        let setting: Setting = setting.parse().unwrap();
        assert_eq!(&setting.said_by(&split(line), 15), said, "{line}");
    }

    #[test]
    fn a_line_says_the_same_in_other_words() {
        check("nohz_full=1-3", "ro nohz_full=1,2,3 nohz_full=1-3", &Said::Same);
        check("isolcpus=managed_irq,1-3", "isolcpus=nohz,domain,managed_irq,1-3", &Said::Same);
        check("isolcpus=managed_irq,domain,8-15", "isolcpus=domain,managed_irq,8-N", &Said::Same);
        check("irqaffinity=0", "ro quiet nohz_full_other=1", &Said::Nothing);
    }

    #[test]
    fn a_line_that_says_otherwise_is_quoted() {
        let otherwise = |setting: &str, line: &str, text: &str| {
            check(setting, line, &Said::Otherwise(text.into()));
        };
        otherwise("nohz_full=1-3", "nohz_full=1-3 nohz_full=2", "nohz_full=2");
        otherwise("nohz_full=1-3", "nohz_full", "nohz_full");
        // No flag means domain alone.
        otherwise("isolcpus=managed_irq,1-3", "isolcpus=1-3", "isolcpus=1-3");
        otherwise("isolcpus=managed_irq,domain,1-3", "isolcpus=managed_irq,1-3", "isolcpus=managed_irq,1-3");
        otherwise("isolcpus=managed_irq,1-3", "isolcpus=managed_irq,x", "isolcpus=managed_irq,x");
    }

    #[test]
    fn only_what_quietcore_writes_is_a_setting() {
        for text in
            ["nohz_full=1-3", "isolcpus=managed_irq,domain,1", "isolcpus=managed_irq,1", "irqaffinity=0"]
        {
            assert_eq!(text.parse::<Setting>().unwrap().to_string(), text);
        }
        for text in ["quiet", "isolcpus=1-3", "nohz_full=", "init=/bin/sh"] {
            assert!(text.parse::<Setting>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_line_and_no_list_is_too_strange_to_be_read(line in "[ \"=:/,a-z0-9N-]{0,60}") {
            let setting: Setting = "isolcpus=managed_irq,1-3".parse().unwrap();
            setting.said_by(&split(&line), 15);
            cpu_list(&line, 15);
        }
    }
}
