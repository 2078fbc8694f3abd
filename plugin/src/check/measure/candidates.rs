//! Which cores can be measured now. The rule is pure; `InUse::read` has the facts.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde::Serialize;

use crate::cores::set::{CpuId, CpuSet};

/// As many as the guard has slots.
const AT_ONCE: usize = 255;

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    pub cpus: CpuSet,
    pub why: String,
}

#[derive(Debug, Default)]
pub struct InUse {
    /// By an agent, to strict containers.
    pub granted: Option<CpuSet>,
    /// Programs that run there at the moment and may run nowhere but on cores that are asked about: "name (pid N)".
    pub bound: BTreeMap<CpuId, String>,
}

impl InUse {
    /// `proc` is /proc, or a tree like it.
    pub fn read(proc: &Path, cores: &CpuSet, granted: Option<CpuSet>) -> InUse {
        let mut bound = BTreeMap::new();
        let numbered = |path: &Path| {
            let entries = fs::read_dir(path).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok()).collect::<Vec<_>>()
        };
        for pid in numbered(proc) {
            let tasks = proc.join(pid.to_string()).join("task");
            for tid in numbered(&tasks) {
                let task = tasks.join(tid.to_string());
                // Tasks end while they are looked at.
                let read = |file| fs::read_to_string(task.join(file)).ok();
                if let (Some(stat), Some(status)) = (read("stat"), read("status"))
                    && let Some((cpu, comm)) = runs_bound(&stat, &status, cores)
                {
                    bound.insert(cpu, format!("{comm} (pid {pid})"));
                }
            }
        }
        InUse { granted, bound }
    }
}

/// proc_pid_stat(5), proc_pid_status(5).
fn runs_bound(stat: &str, status: &str, cores: &CpuSet) -> Option<(CpuId, String)> {
    // The name may hold brackets and spaces of its own.
    let (before, after) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = after.split_ascii_whitespace().collect();
    let (state, processor) = (fields.first()?, fields.get(36)?);
    let cpu = CpuId::new(processor.parse().ok()?)?;
    let allowed = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    let allowed: CpuSet = allowed.parse().ok()?;
    let is_here = *state == "R" && cores.contains(cpu) && allowed.without(cores).is_none();
    is_here.then(|| (cpu, before.split_once('(').map_or(before, |(_, comm)| comm).to_owned()))
}

/// The cores to measure, and the others with why not.
pub fn choose(cores: &CpuSet, in_use: &InUse, beside_strict_pods: bool) -> (Option<CpuSet>, Vec<LeftOut>) {
    let mut left_out = Vec::new();
    if let Some(granted) = in_use.granted.as_ref().filter(|_| !beside_strict_pods) {
        let why = format!(
            "strict containers run on CPU {granted}, and to attach the guard's programs enters every core once more: \
             wait for their end, or accept it by --beside-strict-pods"
        );
        return (None, vec![LeftOut { cpus: cores.clone(), why }]);
    }
    let mut chosen = BTreeSet::new();
    for cpu in cores.iter() {
        let why = match (&in_use.granted, in_use.bound.get(&cpu)) {
            (Some(granted), _) if granted.contains(cpu) => {
                "the agent on this machine has granted it to a strict container".to_owned()
            }
            (_, Some(program)) => format!("{program} runs there"),
            _ if chosen.len() == AT_ONCE => format!("{AT_ONCE} cores are measured at once: name it by --cpu"),
            _ => {
                chosen.insert(cpu);
                continue;
            }
        };
        left_out.push(LeftOut { cpus: CpuSet::from(cpu), why });
    }
    (CpuSet::new(chosen), left_out)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    #[track_caller]
    fn check(granted: &str, beside_strict_pods: bool, expect: Expect) {
        let bound = [(CpuId::new(2).unwrap(), "stress (pid 77)".to_owned())].into();
        let in_use = InUse { granted: granted.parse().ok(), bound };
        let (chosen, left_out) = choose(&set("1-4"), &in_use, beside_strict_pods);
        let chosen = chosen.map_or("none".to_owned(), |cpus| cpus.to_string());
        let left_out: String =
            left_out.iter().map(|LeftOut { cpus, why }| format!("{cpus}: {why}\n")).collect();
        expect.assert_eq(&format!("{chosen}\n{left_out}"));
    }

    #[test]
    fn a_core_on_which_a_program_runs_is_left_out_by_its_name() {
        check(
            "",
            false,
            expect![[r#"
            1,3-4
            2: stress (pid 77) runs there
        "#]],
        );
    }

    #[test]
    fn beside_strict_pods_nothing_is_measured_unless_that_is_asked_for() {
        check(
            "3",
            false,
            expect![[r#"
            none
            1-4: strict containers run on CPU 3, and to attach the guard's programs enters every core once more: wait for their end, or accept it by --beside-strict-pods
        "#]],
        );
        check(
            "3",
            true,
            expect![[r#"
            1,4
            2: stress (pid 77) runs there
            3: the agent on this machine has granted it to a strict container
        "#]],
        );
    }

    #[test]
    fn no_more_cores_are_measured_at_once_than_the_guard_has_slots() {
        let (chosen, left_out) = choose(&set("1-300"), &InUse::default(), false);
        assert_eq!((chosen, left_out.len()), (Some(set("1-255")), 45));
    }

    fn task(state: &str, cpu: u32, allowed: &str) -> Option<(CpuId, String)> {
        let stat = format!("77 (a) R (b) {state} {}{cpu} 0 0\n", "0 ".repeat(35));
        runs_bound(&stat, &format!("Name:\tx\nCpus_allowed_list:\t{allowed}\n"), &set("2-3"))
    }

    #[test]
    fn only_a_task_that_runs_and_may_run_nowhere_else_is_in_the_way() {
        assert_eq!(task("R", 2, "2"), Some((CpuId::new(2).unwrap(), "a) R (b".to_owned())));
        assert_eq!(task("R", 3, "2-3").map(|(cpu, _)| cpu.number()), Some(3));
        assert_eq!([task("S", 2, "2"), task("R", 2, "0-3"), task("R", 1, "1")], [None, None, None]);
    }
}
