//! What to boot with, why, and what of it the running kernel does not have. Pure.

use serde::{Serialize, Serializer};

use super::{
    cmdline::{Setting, is_within},
    facts::{Cgroup, Facts, Kernel, Running},
    kubelet::{self, CpuManager, Kubelet},
};
use crate::cores::set::CpuSet;

const PARAMETERS: &str = "Documentation/admin-guide/kernel-parameters.txt";
const CGROUP: &str = "Documentation/admin-guide/cgroup-v2.rst, cpuset.cpus.partition";

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Plan {
    pub(super) isolate: CpuSet,
    pub(super) housekeeping: CpuSet,
    pub(super) found: Kernel,
    pub(super) kernel: Vec<Parameter>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) kubelet: Kubelet,
    /// What the plan's reader may want to do otherwise; nothing fails for it.
    pub(super) advice: Vec<String>,
    /// What only another boot brings.
    pub(super) missing: Vec<Missing>,
    /// `node apply` did it, and the next boot brings it.
    pub(super) applied: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Parameter {
    #[serde(rename = "parameter", serialize_with = "as_text")]
    pub(super) setting: Setting,
    pub(super) reason: String,
    pub(super) source: &'static str,
    pub(super) needs: Needs,
    pub(super) in_force: bool,
}

/// When a parameter's effect can be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) enum Needs {
    Boot,
    /// The agent does the same while cores are granted; from the boot on it holds earlier. Asks for no reboot.
    Nothing,
}

/// What other guides add, and why it is not here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LeftOut {
    pub(super) parameter: &'static str,
    pub(super) reason: &'static str,
    pub(super) source: &'static str,
}

/// A boot parameter that was planned and is not in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// As on the kernel's command line.
    pub parameter: String,
    /// What the running kernel has instead.
    pub found: String,
}

/// On no machine, whatever its facts are.
const NOWHERE: [LeftOut; 4] = [
    LeftOut {
        parameter: "nosoftlockup, nmi_watchdog=0",
        reason: "kernel.watchdog_cpumask does it at run time, for the isolated CPUs only",
        source: "Documentation/admin-guide/sysctl/kernel.rst, watchdog_cpumask",
    },
    LeftOut {
        parameter: "skew_tick=1",
        reason: "it spreads the ticks of CPUs that have one",
        source: PARAMETERS,
    },
    LeftOut {
        parameter: "rcu_nocb_poll",
        reason: "it spares isolated CPUs a wakeup when they queue a callback, which a program that stays out of \
            the kernel does not, and keeps housekeeping CPUs polling",
        source: PARAMETERS,
    },
    LeftOut {
        parameter: "tsc=nowatchdog",
        reason: "the kernel itself stops verifying a TSC that it trusts; one that it does not trust should be \
            verified, although that interrupts each CPU now and then",
        source: "arch/x86/kernel/tsc.c, check_system_tsc_reliable()",
    },
];

// === impl Plan ===

pub(super) fn make(facts: &Facts, policy: CpuManager, system: Option<&CpuSet>) -> Plan {
    let mut kernel = Vec::new();
    let mut left_out = Vec::new();
    let isolate = &facts.isolate;
    let mut add = |setting: Setting, reason: String| {
        let in_force = not_in_force(&setting, &facts.running).is_none();
        kernel.push(Parameter { needs: needs(&setting), setting, reason, source: PARAMETERS, in_force });
    };
    if facts.kernel.nohz_full == Some(false) {
        left_out.push(LeftOut {
            parameter: "nohz_full",
            reason: "this kernel is built without NO_HZ_FULL and would ignore it: the tick stays on every core; \
                kernels of Debian, Ubuntu, Fedora and RHEL have it",
            source: "Documentation/timers/no_hz.rst",
        });
        if facts.kernel.rcu_nocb == Some(false) {
            left_out.push(LeftOut {
                parameter: "rcu_nocbs",
                reason: "this kernel is built without RCU_NOCB_CPU and would ignore it",
                source: PARAMETERS,
            });
        } else {
            let reason =
                "RCU callbacks run on housekeeping CPUs; no nohz_full here that would imply it".into();
            add(Setting::RcuNocbs(isolate.clone()), reason);
        }
    } else {
        let sure =
            if facts.kernel.nohz_full.is_none() { "; whether this kernel has it is not known" } else { "" };
        let reason = format!("no tick while one task runs there, and RCU callbacks run elsewhere{sure}");
        add(Setting::NohzFull(isolate.clone()), reason);
        left_out.push(LeftOut {
            parameter: "rcu_nocbs",
            reason: "nohz_full implies it for its CPUs",
            source: PARAMETERS,
        });
    }
    let (domain, why) = domain(facts);
    let managed = "interrupts that the kernel manages itself (NVMe, virtio queues) prefer housekeeping CPUs";
    let reason = if domain { format!("{managed}; domain: {why}") } else { managed.into() };
    add(Setting::Isolcpus { domain, cpus: isolate.clone() }, reason);
    if !domain {
        left_out.push(LeftOut { parameter: "isolcpus=domain", reason: why, source: CGROUP });
    }
    let reason =
        "interrupts of drivers start on housekeeping CPUs; the agent moves them only while cores are granted"
            .into();
    add(Setting::IrqAffinity(facts.housekeeping.clone()), reason);
    left_out.extend(NOWHERE);
    let missing = kernel.iter().filter(|parameter| parameter.needs == Needs::Boot);
    let missing = missing.filter_map(|parameter| not_in_force(&parameter.setting, &facts.running)).collect();
    Plan {
        isolate: isolate.clone(),
        housekeeping: facts.housekeeping.clone(),
        found: facts.kernel.clone(),
        kernel,
        left_out,
        kubelet: kubelet::fragment(facts, policy, system),
        advice: advice(facts),
        missing,
        applied: false,
    }
}

impl Plan {
    pub(super) fn settings(&self) -> impl Iterator<Item = &Setting> {
        self.kernel.iter().map(|parameter| &parameter.setting)
    }

    pub(super) fn command_line(&self) -> String {
        let words: Vec<String> = self.settings().map(Setting::to_string).collect();
        words.join(" ")
    }
}

pub(super) fn needs(setting: &Setting) -> Needs {
    match setting {
        Setting::NohzFull(_) | Setting::Isolcpus { .. } | Setting::RcuNocbs(_) => Needs::Boot,
        Setting::IrqAffinity(_) => Needs::Nothing,
    }
}

fn advice(facts: &Facts) -> Vec<String> {
    let about = |node: &u32| {
        format!(
            "NUMA node {node} keeps no housekeeping CPU: interrupts and kernel threads of its devices then run across \
             the interconnect; leave one of its cores out of --isolate"
        )
    };
    facts.nodes_without_house.iter().map(about).collect()
}

/// Whether the scheduler's domains have to leave the cores out from the boot on, and why.
fn domain(facts: &Facts) -> (bool, &'static str) {
    match (facts.kernel.cgroup, facts.kernel.housekeeping_at_run_time) {
        (Cgroup::RemotePartitions, Some(true)) => (
            false,
            "an isolated partition takes a granted core out of the scheduler's domains at run time and gives it \
                back, and this kernel moves unbound kernel threads and timers with it",
        ),
        (Cgroup::RemotePartitions, _) => (
            false,
            "an isolated partition takes a granted core out of the scheduler's domains at run time and gives it \
                back; set at boot, it could not be given back",
        ),
        (Cgroup::LocalPartitions, _) => (
            true,
            "this kernel has no cpuset.cpus.exclusive (6.7), so that a container cannot be an isolated partition",
        ),
        (Cgroup::NoCpuset, _) => (
            true,
            "no cgroup has the cpuset controller, so that remote partitions could not be looked for: with one, \
                plan again",
        ),
        (Cgroup::V1, _) => (true, "cgroup v1 has no isolated partitions"),
    }
}

/// Files of sysfs tell what the kernel made of a parameter; for the rest there is the command line alone.
pub(super) fn not_in_force(setting: &Setting, running: &Running) -> Option<Missing> {
    let said = setting.covered_by(&running.line, running.last);
    let file = |name: &str, has: Option<&CpuSet>, cpus: &CpuSet| match has {
        Some(has) if is_within(cpus, has) => None,
        Some(has) => Some(format!("/sys/devices/system/cpu/{name} is {has}")),
        None if said => {
            Some(format!("it is on the command line, but /sys/devices/system/cpu/{name} names no CPU"))
        }
        None => Some("not on the kernel's command line".into()),
    };
    let line = || (!said).then(|| "not on the kernel's command line".to_owned());
    let found = match setting {
        Setting::NohzFull(cpus) => file("nohz_full", running.nohz_full.as_ref(), cpus),
        Setting::Isolcpus { domain: true, cpus } => {
            line().or_else(|| file("isolated", running.isolated.as_ref(), cpus))
        }
        Setting::Isolcpus { domain: false, .. } | Setting::IrqAffinity(_) | Setting::RcuNocbs(_) => line(),
    };
    Some(Missing { parameter: setting.to_string(), found: found? })
}

fn as_text<S: Serializer>(setting: &Setting, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(setting)
}

/// Where a plan's facts come from, for its reader.
pub(super) fn about(kernel: &Kernel) -> Vec<(&'static str, &'static str)> {
    let known = |value: Option<bool>, yes, no| match value {
        Some(true) => yes,
        Some(false) => no,
        None => "not known",
    };
    vec![
        ("NO_HZ_FULL", known(kernel.nohz_full, "built in", "not built in")),
        (
            "isolation at run time",
            match kernel.cgroup {
                Cgroup::RemotePartitions => "cgroup v2, partitions of containers",
                Cgroup::LocalPartitions => "cgroup v2, without partitions of containers",
                Cgroup::NoCpuset => "cgroup v2, cpuset controller nowhere enabled",
                Cgroup::V1 => "cgroup v1, none",
            },
        ),
        (
            "housekeeping at run time",
            known(
                kernel.housekeeping_at_run_time,
                "follows the partitions",
                "fixed at boot, except the scheduler's domains",
            ),
        ),
    ]
}
