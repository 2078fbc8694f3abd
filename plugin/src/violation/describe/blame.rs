//! Step 8: who caused what came from elsewhere, in words. Pure.

use super::COMM_MAX;
use crate::violation::{
    blame::{Blame, CameOn, Part, Relation, Sender, Task, TickDependency},
    happening::Thread,
    scene::{Scene, Ticks},
    text::printable,
};

/// A path below /sys/fs/cgroup can be as long as its author likes.
const CGROUP_MAX: usize = 80;

/// include/linux/tick.h, enum tick_dep_bits.
const DEPENDENCIES: [&str; 6] = [
    "a POSIX CPU timer",
    "a perf event",
    "the scheduler (a second runnable task, a CFS quota or a deadline server)",
    "an unstable clock",
    "RCU",
    "an expedited RCU grace period",
];

/// As it stands behind "function-call IPI" and its like.
pub(super) fn sender_words(sender: &Sender, scene: &Scene) -> String {
    let function = scene.function(sender.function).map(|name| format!(" ({name})")).unwrap_or_default();
    let others = match sender.others {
        0 => String::new(),
        others => format!(", and {others} more"),
    };
    format!("{function} from {}{others}", agent_words(sender, scene))
}

fn agent_words(sender: &Sender, scene: &Scene) -> String {
    let task = |cpu| task_words(&sender.task, sender.relation, cpu, scene);
    match sender.part {
        Part::Asked => task(Some(sender.cpu)),
        Part::Interrupted => format!("an interrupt on cpu {} that hit {}", sender.cpu, task(None)),
        Part::Ran => format!("cpu {}, which ran {}", sender.cpu, task(None)),
    }
}

pub(super) fn came_words(came: &CameOn, scene: &Scene) -> String {
    let task = task_words(&came.task, came.relation, None, scene);
    match scene.function(came.function) {
        Some(name) => format!("{task}, to run {name}"),
        None => task,
    }
}

/// Of the thread whose core was taken.
pub(super) fn taken_words(came: &CameOn, queuer: Option<&Sender>, thread: &Thread, scene: &Scene) -> String {
    let came_task = &came.task;
    let queued = match queuer {
        Some(queuer) if queuer.task.tid == came_task.tid => String::new(),
        // Nobody can be woken by a thread in user mode.
        Some(queuer) if queuer.task.tid == thread.host_tid => ", queued by the interrupt itself".into(),
        Some(queuer) => format!(", queued by {}", agent_words(queuer, scene)),
        None => String::new(),
    };
    let (place, whom) = (&scene.place, super::who(thread, &scene.place));
    format!("core taken at {place} from {whom} by {}{queued}", came_words(came, scene))
}

fn task_words(task: &Task, relation: Relation, cpu: Option<u32>, scene: &Scene) -> String {
    let Task { tid, tgid, .. } = *task;
    let comm = printable(&task.comm, COMM_MAX);
    let cpu = cpu.map(|cpu| format!(", cpu {cpu}")).unwrap_or_default();
    let thread = if tid == tgid { String::new() } else { format!(", tid {tid}") };
    match relation {
        Relation::SameProcess => format!("thread {comm} (host tid {tid}{cpu}) of the same process"),
        Relation::SameProgram => format!("{comm} (pid {tgid}{thread}{cpu}), a process of the same program"),
        Relation::SameContainer => {
            format!("process {tgid} {comm}{cpu}, started in this container by exec or a probe")
        }
        Relation::Kernel => format!("kernel thread {comm} (pid {tid}{cpu})"),
        Relation::Elsewhere => {
            let pod = task.cgroup.and_then(|id| scene.cgroups.get(&id));
            let pod = pod.map(|name| format!(", {}", printable(name, CGROUP_MAX))).unwrap_or_default();
            format!("{comm} (pid {tgid}{thread}{cpu}{pod})")
        }
    }
}

/// What the scheduler's tick runs: since Linux 6.9, and before.
pub const TICKS: [&str; 2] = ["tick_nohz_handler", "tick_sched_timer"];

/// The local timer serves the scheduler's tick and every other timer of its CPU.
pub(super) fn tick_words(blame: &Blame, cpu: u32, scene: &Scene) -> String {
    let named: Vec<&str> =
        blame.timers.iter().filter_map(|timer| scene.functions.get(timer)).map(String::as_str).collect();
    let others: Vec<&str> = named.iter().copied().filter(|name| !TICKS.contains(name)).collect();
    match (others.len() < named.len() || named.is_empty(), others.is_empty()) {
        (true, true) => tick_itself(blame.tick, cpu, scene.ticks),
        (true, false) => {
            format!("{} and timer {}", tick_itself(blame.tick, cpu, scene.ticks), others.join(", "))
        }
        (false, _) => format!("local timer ({}, not the tick)", others.join(", ")),
    }
}

fn tick_itself(dependency: Option<TickDependency>, cpu: u32, ticks: Ticks) -> String {
    let why = match ticks {
        Ticks::OnEveryCpu => "this kernel ticks on every CPU: CONFIG_NO_HZ_FULL is not set".to_owned(),
        Ticks::OnThisCpu => format!("cpu {cpu} is not in nohz_full"),
        Ticks::WhenNeeded => match dependency {
            None => return "local timer tick".to_owned(),
            Some(dependency) => kept_by(dependency),
        },
    };
    format!("local timer tick ({why})")
}

pub(super) fn kept_by(TickDependency(bits): TickDependency) -> String {
    let known = DEPENDENCIES.iter().enumerate();
    let found: Vec<_> = known.filter(|(bit, _)| bits >> bit & 1 == 1).map(|(_, name)| *name).collect();
    match (bits, found.is_empty()) {
        (0, _) => "a timer was due".to_owned(),
        (bits, true) => format!("kept by dependency {bits:#x}"),
        (_, false) => format!("kept by {}", found.join(" and ")),
    }
}

#[cfg(test)]
#[path = "blame_tests.rs"]
mod tests;
