//! How the lab's kernel is told to boot. Pure.

use clap::ValueEnum;

const BASE: &str = "root=/dev/nvme0n1 rw init=/init console=ttyS0 loglevel=4 panic=-1 tsc=reliable mitigations=off \
    8250.nr_uarts=4";
/// CPU 0 keeps house; 1 to 3 are what a node would isolate.
const ISOLATED: &str = "1-3";

/// The choices of one boot.
#[derive(Debug, Clone, Default)]
pub struct Boot {
    pub isolcpus: Isolcpus,
    /// The lab's first process leaves the kernel's settings alone.
    pub as_booted: bool,
    /// Added last: for most parameters the last one wins.
    pub arguments: Vec<String>,
}

/// Whether the scheduler's domains leave the isolated CPUs out from the boot on, or a cpuset partition may do it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Isolcpus {
    /// isolcpus=managed_irq,domain: a local isolated partition is then refused by the kernel
    #[default]
    Domain,
    /// isolcpus=managed_irq
    NoDomain,
    /// As a node boots that nobody prepared: no nohz_full, no rcu_nocbs either, interrupts and the watchdog everywhere
    Plain,
}

impl Boot {
    pub fn command_line(&self) -> String {
        let isolated = |isolcpus| {
            format!(
                "{BASE} nowatchdog nohz_full={ISOLATED} isolcpus={isolcpus},{ISOLATED} rcu_nocbs={ISOLATED} irqaffinity=0"
            )
        };
        let mut line = match self.isolcpus {
            Isolcpus::Domain => isolated("managed_irq,domain"),
            Isolcpus::NoDomain => isolated("managed_irq"),
            Isolcpus::Plain => BASE.to_owned(),
        };
        if self.as_booted {
            line.push_str(" lab.as_booted");
        }
        for argument in &self.arguments {
            line.push(' ');
            line.push_str(argument);
        }
        line
    }
}

#[cfg(test)]
mod tests {
    use super::{Boot, Isolcpus};

    #[track_caller]
    fn check(boot: &Boot, end: &str) {
        let line = boot.command_line();
        assert!(line.ends_with(end), "{line}");
    }

    #[test]
    fn the_scheduler_leaves_the_cores_out_unless_told_not_to() {
        check(&Boot::default(), "isolcpus=managed_irq,domain,1-3 rcu_nocbs=1-3 irqaffinity=0");
        let no_domain = Boot { isolcpus: Isolcpus::NoDomain, ..Boot::default() };
        check(&no_domain, "isolcpus=managed_irq,1-3 rcu_nocbs=1-3 irqaffinity=0");
    }

    #[test]
    fn a_plain_boot_sets_nothing_that_keeps_a_core_quiet() {
        let line = Boot { isolcpus: Isolcpus::Plain, ..Boot::default() }.command_line();
        let quiets = ["nohz", "isolcpus", "rcu_nocbs", "irqaffinity", "nowatchdog"];
        assert!(!quiets.iter().any(|word| line.contains(word)), "{line}");
    }

    #[test]
    fn what_a_person_adds_comes_last() {
        let boot = Boot { arguments: vec!["mitigations=auto".into(), "nopti".into()], ..Boot::default() };
        check(&boot, " irqaffinity=0 mitigations=auto nopti");
    }
}
