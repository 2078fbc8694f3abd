//! Devices' interrupts, and what the network's packets make of them.

use super::{
    Asked, few,
    processes::Processes,
    tree::{Tree, mask_text},
};
use crate::{
    check::finding::{Finding, Group, Item, State},
    cores::set::CpuSet,
};

/// N/effective_affinity_list and N/smp_affinity_list below it.
pub const IRQS: &str = "proc/irq";
pub const DEFAULT_MASK: &str = "proc/irq/default_smp_affinity";
pub const COMMAND_LINE: &str = "proc/cmdline";
/// NIC/queues/rx-N/rps_cpus and NIC/queues/tx-N/xps_cpus below it.
pub const NETWORK: &str = "sys/class/net";
/// With CONFIG_GENERIC_IRQ_DEBUGFS.
pub const IRQ_DEBUG: &str = "sys/kernel/debug/irq/irqs";

pub const MANAGED: Item = Item {
    group: Group::Interrupts,
    name: "managed interrupts",
    why: "the kernel spreads their queues over every CPU, and only the boot keeps them off isolated ones",
};
pub const DEVICES: Item = Item {
    group: Group::Interrupts,
    name: "device interrupts",
    why: "each enters the core that its affinity names",
};
pub const DEFAULT_AFFINITY: Item = Item {
    group: Group::Interrupts,
    name: "default affinity",
    why: "interrupts that come later, such as a device's that is plugged in, begin with it",
};
pub const IRQBALANCE: Item = Item {
    group: Group::Interrupts,
    name: "irqbalance",
    why: "it moves interrupts to any CPU that it is not told to leave alone",
};
pub const PACKETS: Item = Item {
    group: Group::Interrupts,
    name: "packet steering (RPS, XPS)",
    why: "other CPUs hand packets to a core by an IPI, or send through a queue whose interrupt comes there",
};

#[derive(Debug)]
pub struct Facts {
    pub irqs: Vec<Irq>,
    pub default: Option<CpuSet>,
    /// Of isolcpus=managed_irq.
    pub managed_off: Option<CpuSet>,
    pub irqbalance: Balancer,
    pub isolated_by_boot: Option<CpuSet>,
    /// "eth0 rx-0" and its CPUs.
    pub queues: Vec<(String, CpuSet)>,
}

#[derive(Debug, Clone)]
pub struct Irq {
    /// "24 (eth0-rx-0)"
    pub name: String,
    pub cpus: CpuSet,
    pub managed: bool,
}

#[derive(Debug, Clone)]
pub enum Balancer {
    NotRunning,
    /// By its environment; `None`: its own default.
    Bans(Option<CpuSet>),
    Unreadable,
}

pub fn read(tree: &Tree, processes: &Processes) -> Facts {
    let numbers =
        tree.folders(IRQS).into_iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
    Facts {
        irqs: numbers.filter_map(|number| irq(tree, &number)).collect(),
        default: tree.mask(DEFAULT_MASK),
        managed_off: tree.text(COMMAND_LINE).as_deref().and_then(managed_off),
        irqbalance: balancer(tree, processes),
        isolated_by_boot: {
            let lists = [super::scheduler::ISOLATED_FILE, super::scheduler::NOHZ_FULL_FILE];
            let both = lists.into_iter().filter_map(|path| tree.set(path));
            CpuSet::new(both.flat_map(|cpus| cpus.iter().collect::<Vec<_>>()).collect())
        },
        queues: queues(tree),
    }
}

/// `None`: nobody handles it, so it does not come.
fn irq(tree: &Tree, number: &str) -> Option<Irq> {
    let folder = format!("{IRQS}/{number}");
    let handler = tree.folders(&folder).into_iter().next()?;
    let effective = tree.set(&format!("{folder}/effective_affinity_list"));
    let cpus = effective.or_else(|| tree.set(&format!("{folder}/smp_affinity_list")))?;
    let known = tree.text(&format!("{IRQ_DEBUG}/{number}"));
    let managed = match known {
        Some(state) => state.contains("IRQD_AFFINITY_MANAGED"),
        None => looks_managed(&handler),
    };
    Some(Irq { name: format!("{number} ({handler})"), cpus, managed })
}

/// Only debugfs tells for sure. Queues of NVMe and of virtio-blk and virtio-scsi are (drivers that call
/// `pci_alloc_irq_vectors_affinity` or give `vp_find_vqs` an `irq_affinity`).
fn looks_managed(handler: &str) -> bool {
    let queue_of = |name: &str, separator: &str| {
        handler.strip_prefix(name).and_then(|rest| rest.split_once(separator)).is_some_and(
            |(device, queue)| {
                device.bytes().all(|byte| byte.is_ascii_digit()) && queue.parse::<u32>().is_ok()
            },
        )
    };
    let nvme = queue_of("nvme", "q") && !handler.ends_with("q0");
    nvme || queue_of("virtio", "-req.") || queue_of("virtio", "-request.")
}

/// isolcpus=[flag,...,]LIST; without a flag it means "domain" (kernel-parameters.txt).
fn managed_off(command_line: &str) -> Option<CpuSet> {
    let mut arguments =
        command_line.split_ascii_whitespace().filter_map(|word| word.strip_prefix("isolcpus="));
    arguments.next_back().and_then(|argument| {
        let (flags, list): (Vec<&str>, Vec<&str>) =
            argument.split(',').partition(|word| word.starts_with(|first: char| first.is_ascii_alphabetic()));
        flags.contains(&"managed_irq").then(|| list.join(",").parse().ok())?
    })
}

fn balancer(tree: &Tree, processes: &Processes) -> Balancer {
    let Some(process) = processes.named("irqbalance").next() else { return Balancer::NotRunning };
    let Some(environment) = tree.text(&format!("proc/{}/environ", process.pid)) else {
        return Balancer::Unreadable;
    };
    let value = |name: &str| environment.split('\0').find_map(|word| word.strip_prefix(name));
    let list = value("IRQBALANCE_BANNED_CPULIST=").and_then(|list| list.parse().ok());
    Balancer::Bans(list.or_else(|| super::tree::mask(value("IRQBALANCE_BANNED_CPUS=")?)))
}

fn queues(tree: &Tree) -> Vec<(String, CpuSet)> {
    let mut queues = Vec::new();
    for device in tree.names(NETWORK) {
        for queue in tree.names(&format!("{NETWORK}/{device}/queues")) {
            let file = if queue.starts_with("rx-") { "rps_cpus" } else { "xps_cpus" };
            if let Some(cpus) = tree.mask(&format!("{NETWORK}/{device}/queues/{queue}/{file}")) {
                queues.push((format!("{device} {queue}"), cpus));
            }
        }
    }
    queues
}

pub fn judge(facts: &Facts, asked: &Asked) -> Vec<Finding> {
    vec![
        managed(facts, asked),
        devices(facts, asked),
        default(facts, asked),
        balance(facts, asked),
        packets(facts, asked),
    ]
}

fn here(facts: &Facts, asked: &Asked, managed: bool) -> Vec<String> {
    let here = facts.irqs.iter().filter(|irq| irq.managed == managed && irq.cpus.overlaps(&asked.cores));
    here.map(|irq| irq.name.clone()).collect()
}

fn managed(facts: &Facts, asked: &Asked) -> Finding {
    let here = here(facts, asked, true);
    let remedy = format!("boot with isolcpus=managed_irq,domain,{}", asked.cores);
    match (asked.outside(facts.managed_off.as_ref()), here.is_empty()) {
        (None, true) => MANAGED.is(State::Good, "isolcpus=managed_irq", remedy),
        (None, false) => MANAGED.is(
            State::Good,
            format!(
                "isolcpus=managed_irq; these come here while programs on these cores alone use them: {}",
                few(&here)
            ),
            remedy,
        ),
        (Some(_), true) if !facts.irqs.iter().any(|irq| irq.managed) => {
            MANAGED.not_here("no device here is known to have any")
        }
        (Some(outside), _) => {
            let found = if here.is_empty() { "none comes here now".to_owned() } else { few(&here) };
            MANAGED.is(State::Missing, format!("CPU {outside} not in isolcpus=managed_irq; {found}"), remedy)
        }
    }
}

fn devices(facts: &Facts, asked: &Asked) -> Finding {
    let here = here(facts, asked, false);
    let others = asked.others();
    let remedy = format!("echo {others} > /{IRQS}/N/smp_affinity_list, or boot with irqaffinity={others}");
    match here.is_empty() {
        true => DEVICES.is(State::Good, "none comes here", remedy),
        false => DEVICES.is(State::Missing, few(&here), remedy),
    }
}

fn default(facts: &Facts, asked: &Asked) -> Finding {
    let mask = asked.housekeeping.as_ref().map(mask_text).unwrap_or_default();
    let remedy = format!("echo {mask} > /{DEFAULT_MASK}, or boot with irqaffinity={}", asked.others());
    match &facts.default {
        None => DEFAULT_AFFINITY.is(State::Unknown, "not told", remedy),
        Some(cpus) => {
            DEFAULT_AFFINITY.good_or_missing(!cpus.overlaps(&asked.cores), format!("CPU {cpus}"), remedy)
        }
    }
}

fn balance(facts: &Facts, asked: &Asked) -> Finding {
    let remedy = format!(
        "IRQBALANCE_BANNED_CPULIST={} in /etc/default/irqbalance or /etc/sysconfig/irqbalance, then restart it; or stop it",
        asked.cores
    );
    match &facts.irqbalance {
        Balancer::NotRunning => IRQBALANCE.is(State::Good, "not running", remedy),
        Balancer::Unreadable => {
            IRQBALANCE.is(State::Unknown, "running; its environment is not readable", remedy)
        }
        Balancer::Bans(Some(banned)) => match asked.outside(Some(banned)) {
            None => IRQBALANCE.is(State::Good, format!("running, told to leave CPU {banned} alone"), remedy),
            Some(outside) => IRQBALANCE.is(
                State::Missing,
                format!("running, not told to leave CPU {outside} alone"),
                remedy,
            ),
        },
        // irqbalance(1), IRQBALANCE_BANNED_CPUS: where it is not set.
        Balancer::Bans(None) => match asked.outside(facts.isolated_by_boot.as_ref()) {
            None => IRQBALANCE.is(
                State::Good,
                "running; by itself it leaves CPUs alone that the boot isolated",
                remedy,
            ),
            Some(outside) => IRQBALANCE.is(
                State::Missing,
                format!("running, not told to leave CPU {outside} alone"),
                remedy,
            ),
        },
    }
}

fn packets(facts: &Facts, asked: &Asked) -> Finding {
    let here = facts.queues.iter().filter(|(_, cpus)| cpus.overlaps(&asked.cores));
    let here: Vec<String> = here.map(|(name, _)| name.clone()).collect();
    let mask = asked.housekeeping.as_ref().map(mask_text).unwrap_or_default();
    let remedy = format!("echo {mask} > /{NETWORK}/NIC/queues/rx-N/rps_cpus, and the same for tx-N/xps_cpus");
    match here.is_empty() {
        true => PACKETS.is(State::Good, "no queue's mask holds the cores", remedy),
        false => PACKETS.is(State::Missing, few(&here), remedy),
    }
}

#[cfg(test)]
#[path = "interrupts_tests.rs"]
mod tests;
