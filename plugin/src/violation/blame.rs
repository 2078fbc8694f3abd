//! Step 8: who caused what came from elsewhere, as a guard's record has it. Pure.
//!
//! With happening.rs the only place that looks into a raw `qc_record`.

use crate::{guard::abi, violation::text};

/// The cgroup that every hierarchy begins with is nobody's container.
const ROOT_CGROUP: u64 = 1;

/// What is known besides the thread itself. Empty for what the thread did itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blame {
    /// Who sent the interrupt, or queued the task that came on.
    pub sender: Option<Sender>,
    pub came: Option<CameOn>,
    /// Of a tick on a core in nohz_full.
    pub tick: Option<TickDependency>,
    /// What the first timers that were due run, the tick's own among them: addresses in the kernel.
    pub timers: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Task {
    pub comm: String,
    /// Both in the initial PID namespace.
    pub tid: u32,
    pub tgid: u32,
    /// Its number in the cpuset controller's hierarchy; `None`: unknown, or the root.
    pub cgroup: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub task: Task,
    pub cpu: u32,
    pub part: Part,
    pub relation: Relation,
    /// What it wants run there: an address in the kernel.
    pub function: Option<u64>,
    /// Who asked for more, before this CPU came to the first.
    pub others: u32,
}

/// What the task has to do with what its CPU did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// It asked for it.
    Asked,
    /// It only ran there when an interrupt came.
    Interrupted,
    /// Its own fault, or an interrupt: not known.
    Ran,
}

/// Whose it is, seen from the thread that was disturbed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Relation {
    SameProcess,
    /// Watched like the thread: a process that its program started.
    SameProgram,
    /// In its container and not of its program.
    SameContainer,
    Kernel,
    Elsewhere,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CameOn {
    pub task: Task,
    pub relation: Relation,
    /// What a kernel's worker is about to run: an address in the kernel.
    pub function: Option<u64>,
}

/// Why a core in nohz_full could not stop its tick (include/linux/tick.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickDependency(pub u32);

impl Blame {
    pub(super) fn of(record: &abi::qc_record) -> Blame {
        let kind = u32::from(record.kind);
        let comes = [abi::QC_KIND_SWITCH, abi::QC_KIND_CAME_ON].contains(&kind);
        Blame {
            sender: (record.blame.known != 0).then(|| sender(record)),
            came: comes.then(|| came_on(record)),
            tick: tick(record.tick_dependency),
            timers: record.timers.into_iter().filter(|function| *function != 0).collect(),
        }
    }
}

fn tick(dependency: u32) -> Option<TickDependency> {
    (dependency & abi::QC_TICK_KNOWN != 0).then_some(TickDependency(dependency & !abi::QC_TICK_KNOWN))
}

fn sender(record: &abi::qc_record) -> Sender {
    let blame = &record.blame;
    let task = task(&blame.by);
    let relation = relation(record, &blame.by, false, false);
    Sender {
        task,
        cpu: blame.cpu,
        part: match u32::from(blame.context) {
            abi::QC_IN_TASK => Part::Asked,
            abi::QC_IN_INTERRUPT => Part::Interrupted,
            _ => Part::Ran,
        },
        relation,
        function: address(blame.function),
        others: blame.others,
    }
}

fn came_on(record: &abi::qc_record) -> CameOn {
    let has = |flag| record.came_flags & flag != 0;
    CameOn {
        task: task(&record.came),
        relation: relation(record, &record.came, has(abi::QC_CAME_KTHREAD), has(abi::QC_CAME_WATCHED)),
        function: address(record.came_to),
    }
}

fn task(task: &abi::qc_task) -> Task {
    Task { comm: text::from_c(&task.comm), tid: task.tid, tgid: task.tgid, cgroup: container(task.cgroup) }
}

/// What `kubectl exec` or a probe starts is put into the container's cgroup by the runtime; what the program
/// starts inherits being watched as well.
fn relation(record: &abi::qc_record, task: &abi::qc_task, kernel: bool, watched: bool) -> Relation {
    match () {
        () if kernel => Relation::Kernel,
        () if task.tgid == record.tgids[0] => Relation::SameProcess,
        () if watched => Relation::SameProgram,
        () if container(task.cgroup).is_some_and(|cgroup| cgroup == record.cgroup) => Relation::SameContainer,
        () => Relation::Elsewhere,
    }
}

fn container(cgroup: u64) -> Option<u64> {
    (ROOT_CGROUP < cgroup).then_some(cgroup)
}

fn address(address: u64) -> Option<u64> {
    (address != 0).then_some(address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn came(tgid: u32, cgroup: u64, came_flags: u32) -> Relation {
        let record = abi::qc_record {
            kind: u16::try_from(abi::QC_KIND_CAME_ON).unwrap(),
            tgids: [100, 1, 0, 0],
            cgroup: 7,
            came: abi::qc_task { tgid, cgroup, ..Default::default() },
            came_flags,
            ..Default::default()
        };
        Blame::of(&record).came.unwrap().relation
    }

    #[test]
    fn what_shares_the_cgroup_and_is_not_watched_came_by_exec_or_a_probe() {
        assert_eq!(came(200, 7, 0), Relation::SameContainer);
        assert_eq!(came(200, 7, abi::QC_CAME_WATCHED), Relation::SameProgram);
        assert_eq!(came(200, 8, 0), Relation::Elsewhere);
    }

    #[test]
    fn the_root_cgroup_is_no_container() {
        let record = abi::qc_record { cgroup: 1, tgids: [100, 0, 0, 0], ..Default::default() };
        let other = abi::qc_task { tgid: 200, cgroup: 1, ..Default::default() };
        assert_eq!(relation(&record, &other, false, false), Relation::Elsewhere);
    }

    #[test]
    fn threads_of_the_process_are_its_own_and_kernel_threads_the_kernels() {
        assert_eq!(came(100, 7, abi::QC_CAME_WATCHED), Relation::SameProcess);
        assert_eq!(came(2, 1, abi::QC_CAME_KTHREAD), Relation::Kernel);
    }
}
