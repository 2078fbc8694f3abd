//! Step 3: what one container's cores lack, in words for its owner, and whether its policy can live with it. Pure.

use std::collections::BTreeSet;

use super::{
    catalogue::{Quieted, cgroup::PARTITION},
    keeper::Pass,
    setting::{Area, Outcome, State},
};
use crate::{
    cores::set::{CpuId, CpuSet},
    policy::effective::Nohz,
};

/// What is true since the boot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Boot {
    pub nohz_full: Option<CpuSet>,
    /// isolcpus=domain
    pub isolated: Option<CpuSet>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    None,
    Boot,
    Partition,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotQuietEnough {
    #[error(
        "the policy has nohz: Required, and the kernel cannot stop the tick on CPU {0}: boot the node with nohz_full={0} \
         (quietcore node plan --isolate {0}), or choose nohz: Preferred"
    )]
    Ticking(CpuSet),
    #[error(
        "the policy has nohz: Required, and whether a CPU quota keeps the tick alive cannot be seen: the agent does not \
         find the container's cgroup below /sys/fs/cgroup"
    )]
    NoQuotaSeen,
    #[error("the policy has nohz: Required, and a CPU quota keeps the tick alive: {0}")]
    Quota(String),
}

/// The CPUs of `cpus` that are not in `quiet`.
fn outside(cpus: &CpuSet, quiet: Option<&CpuSet>) -> Option<CpuSet> {
    match quiet {
        Some(quiet) => cpus.without(quiet),
        None => Some(cpus.clone()),
    }
}

/// Known before anything is changed, so that CreateContainer can say it.
pub fn refuse_ticking(nohz: Nohz, cpus: &CpuSet, boot: &Boot) -> Result<(), NotQuietEnough> {
    match outside(cpus, boot.nohz_full.as_ref()) {
        Some(ticking) if nohz == Nohz::Required => Err(NotQuietEnough::Ticking(ticking)),
        _ => Ok(()),
    }
}

/// Known once everything was tried.
pub fn refuse_quota(nohz: Nohz, grant: &Quieted, pass: &Pass) -> Result<(), NotQuietEnough> {
    if nohz != Nohz::Required {
        return Ok(());
    }
    let quotas = of(grant, pass)
        .filter(|outcome| outcome.setting.area == Area::Cgroup && outcome.setting.name.contains(" cpu."));
    let mut n_lifted = 0;
    for Outcome { setting, state } in quotas {
        match state {
            State::Kept { .. } => n_lifted += 1,
            State::Refused { why, .. } => {
                return Err(NotQuietEnough::Quota(format!("{}: {why}", setting.name)));
            }
            State::Absent => {}
        }
    }
    // The container's own, and its pod's.
    if n_lifted < 2 {
        return Err(NotQuietEnough::NoQuotaSeen);
    }
    Ok(())
}

pub fn isolation(grant: &Quieted, boot: &Boot, pass: &Pass) -> Isolation {
    if outside(&grant.cpus, boot.isolated.as_ref()).is_none() {
        return Isolation::Boot;
    }
    let mut partitions = of(grant, pass).filter(|outcome| is_partition(outcome));
    match partitions.next() {
        Some(Outcome { state: State::Kept { .. }, .. }) => Isolation::Partition,
        _ => Isolation::None,
    }
}

/// What this container does without. Empty: its cores have everything that this kernel can give.
pub fn shortcomings(nohz: Nohz, grant: &Quieted, boot: &Boot, pass: &Pass) -> Vec<String> {
    let mut words = Vec::new();
    if let Some(ticking) = outside(&grant.cpus, boot.nohz_full.as_ref())
        && nohz != Nohz::Ignored
    {
        words.push(format!(
            "the tick goes on: CPU {ticking} is not in nohz_full (quietcore node plan --isolate {ticking} says how)"
        ));
    }
    if isolation(grant, boot, pass) == Isolation::None {
        let why = match &grant.shared {
            Some(_) => "a cpuset with shared CPUs cannot be a partition",
            None => "there is neither a partition nor isolcpus=domain",
        };
        words.push(format!("the scheduler may put others on CPU {}: {why}", grant.cpus));
    }
    let n = refused(grant, pass).filter(|(outcome, _)| is_others_interrupt(outcome, &grant.cores)).count();
    if n != 0 {
        words.push(format!(
            "{n} interrupts cannot be moved away: their names are in the DataplaneNode (fixedInterrupts)"
        ));
    }
    let others = refused(grant, pass)
        .filter(|(outcome, _)| outcome.setting.area != Area::Interrupt && !is_partition(outcome));
    words.extend(others.map(|(outcome, why)| format!("{}: {why}", outcome.setting.name)));
    words
}

/// Cores that others are to be kept off by other means.
pub fn without_partition(pass: &Pass) -> Option<CpuSet> {
    let refused = pass
        .outcomes
        .iter()
        .filter(|outcome| is_partition(outcome) && matches!(outcome.state, State::Refused { .. }));
    CpuSet::new(refused.flat_map(|outcome| outcome.setting.cpus.iter()).collect())
}

pub fn is_partition(outcome: &Outcome) -> bool {
    outcome.setting.name == PARTITION
}

fn of<'a>(grant: &'a Quieted, pass: &'a Pass) -> impl Iterator<Item = &'a Outcome> {
    pass.outcomes.iter().filter(|outcome| outcome.setting.cpus.overlaps(&grant.cores))
}

fn refused<'a>(grant: &'a Quieted, pass: &'a Pass) -> impl Iterator<Item = (&'a Outcome, &'a str)> {
    of(grant, pass).filter_map(|outcome| match &outcome.state {
        State::Refused { why, .. } => Some((outcome, why.as_str())),
        State::Kept { .. } | State::Absent => None,
    })
}

/// An interrupt that stays may serve only what these cores themselves ask for: the queue that a device has for each
/// CPU (isolcpus=managed_irq in Documentation/admin-guide/kernel-parameters.txt says when).
pub fn is_others_interrupt(outcome: &Outcome, cores: &CpuSet) -> bool {
    let State::Refused { found, .. } = &outcome.state else { return false };
    let serves_others = || {
        let mask = found.parse::<CpuSet>();
        mask.is_ok_and(|mask| mask.overlaps(cores) && mask.without(cores).is_some())
    };
    outcome.setting.area == Area::Interrupt && serves_others()
}

/// CPUs that are free of others by boot or by a partition of `grants`, for the node's object.
pub fn isolated_by_partition(grants: &[Quieted], boot: &Boot, pass: &Pass) -> BTreeSet<CpuId> {
    let isolated = grants.iter().filter(|grant| isolation(grant, boot, pass) == Isolation::Partition);
    isolated.flat_map(|grant| grant.cpus.iter()).collect()
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::quiet::{setting::Setting, want::Want};

    fn set(list: &str) -> Option<CpuSet> {
        list.parse().ok()
    }

    fn grant() -> Quieted {
        Quieted {
            cores: set("2-3").unwrap(),
            cpus: set("2-3").unwrap(),
            shared: None,
            cgroup: None,
            wakeup_latency_us: None,
            governor: None,
        }
    }

    fn refused(area: Area, name: &str, cpus: &str, why: &str) -> Outcome {
        let setting = Setting {
            area,
            name: name.to_owned(),
            file: name.into(),
            want: Want::Text(String::new()),
            effective: None,
            cpus: set(cpus).unwrap(),
        };
        let found = if area == Area::Interrupt { "0-3" } else { "" };
        Outcome { setting, state: State::Refused { found: found.to_owned(), why: why.to_owned() } }
    }

    fn lifted(whose: &str) -> Outcome {
        let refused = refused(Area::Cgroup, &format!("{whose} cpu.max"), "2-3", "");
        let (before, now) = ("50000 100000".to_owned(), "max 100000".to_owned());
        Outcome { state: State::Kept { before, now }, ..refused }
    }

    /// Of a container without a quota, unless the outcomes say otherwise.
    #[track_caller]
    fn check(boot: (&str, &str), outcomes: &[Outcome], nohz: Nohz, expect: Expect) {
        let boot = Boot { nohz_full: set(boot.0), isolated: set(boot.1) };
        let mut outcomes = outcomes.to_vec();
        outcomes.extend([lifted("pod's"), lifted("container's")]);
        let pass = Pass { outcomes, ..Pass::default() };
        let words = shortcomings(nohz, &grant(), &boot, &pass).join("\n");
        let refusals = refuse_ticking(nohz, &grant().cpus, &boot).and(refuse_quota(nohz, &grant(), &pass));
        let refused = refusals.map_or_else(|no| format!("\nrefused: {no}"), |()| String::new());
        expect.assert_eq(&(words + &refused));
    }

    #[test]
    fn a_core_with_everything_lacks_nothing() {
        let others = refused(Area::Core, "deadline server of CPU 4", "4", "no");
        check(("1-7", "1-7"), &[others], Nohz::Required, expect![""]);
    }

    #[test]
    fn what_a_core_lacks_is_said_with_the_way_out() {
        let outcomes = [
            refused(Area::Interrupt, "interrupt 24", "2-3", "managed"),
            refused(Area::Interrupt, "interrupt 25", "2-3", "managed"),
            refused(Area::Node, "vm.stat_interval", "2-3", "it is read-only here"),
            refused(Area::Cgroup, "pod's cpu.max", "2-3", "no"),
        ];
        check(
            ("2", ""),
            &outcomes,
            Nohz::Preferred,
            expect![[r"
            the tick goes on: CPU 3 is not in nohz_full (quietcore node plan --isolate 3 says how)
            the scheduler may put others on CPU 2-3: there is neither a partition nor isolcpus=domain
            2 interrupts cannot be moved away: their names are in the DataplaneNode (fixedInterrupts)
            vm.stat_interval: it is read-only here
            pod's cpu.max: no"]],
        );
    }

    #[test]
    fn a_queue_of_the_cores_own_is_no_harm() {
        let mut queue = refused(Area::Interrupt, "interrupt 26", "2-3", "managed");
        queue.state = State::Refused { found: "3".to_owned(), why: "managed".to_owned() };
        check(("1-7", "1-7"), &[queue], Nohz::Required, expect![""]);
    }

    #[test]
    fn a_quota_that_nobody_looked_at_may_be_there() {
        let pass = Pass { outcomes: vec![lifted("container's")], ..Pass::default() };
        assert_eq!(refuse_quota(Nohz::Required, &grant(), &pass), Err(NotQuietEnough::NoQuotaSeen));
        assert_eq!(refuse_quota(Nohz::Preferred, &grant(), &pass), Ok(()));
    }

    #[test]
    fn only_what_is_required_is_refused() {
        check(("2", "2-3"), &[], Nohz::Ignored, expect![""]);
        check(
            ("2", "2-3"),
            &[],
            Nohz::Required,
            expect![[r"
            the tick goes on: CPU 3 is not in nohz_full (quietcore node plan --isolate 3 says how)
            refused: the policy has nohz: Required, and the kernel cannot stop the tick on CPU 3: boot the node with nohz_full=3 (quietcore node plan --isolate 3), or choose nohz: Preferred"]],
        );
        let quota = refused(Area::Cgroup, "pod's cpu.max", "2-3", "no such luck");
        check(
            ("2-3", "2-3"),
            &[quota],
            Nohz::Required,
            expect![[r"
            pod's cpu.max: no such luck
            refused: the policy has nohz: Required, and a CPU quota keeps the tick alive: pod's cpu.max: no such luck"]],
        );
    }
}
