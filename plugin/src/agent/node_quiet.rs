//! The part of the node's object that tells how quiet its cores are. Pure.

use quietcore_crd::node::{Core, Isolation, Setting, SettingState};

use crate::{
    cores::set::{CpuId, CpuSet},
    quiet::{
        judge::{self, Boot},
        setting::{Area, Outcome, State},
        worker::Standing,
    },
    violation::text::fit_note,
};

/// The object's own bounds.
const SETTINGS: usize = 64;
const INTERRUPTS: usize = 256;

pub(super) fn settings(standing: &Standing) -> Vec<Setting> {
    let shown = standing.pass.outcomes.iter().filter(|outcome| match outcome.setting.area {
        // One for each of a hundred cores or interrupts says nothing: those that were refused do.
        Area::Interrupt => false,
        Area::Core | Area::Cgroup | Area::OthersCgroup => matches!(outcome.state, State::Refused { .. }),
        Area::Node => true,
    });
    let mut settings: Vec<Setting> = shown.map(setting).collect();
    settings.sort_by_key(|setting| setting.state != SettingState::Refused);
    settings.truncate(SETTINGS);
    settings.sort_by(|one, other| one.setting.cmp(&other.setting));
    settings.dedup_by(|one, other| one.setting == other.setting);
    settings
}

fn setting(outcome: &Outcome) -> Setting {
    let name = outcome.setting.name.clone();
    match &outcome.state {
        State::Kept { before, now } => Setting {
            setting: name,
            state: SettingState::Kept,
            before: Some(before.clone()),
            now: Some(now.clone()),
            message: None,
        },
        State::Absent => Setting { setting: name, state: SettingState::Absent, ..Setting::default() },
        State::Refused { found, why } => Setting {
            setting: name,
            state: SettingState::Refused,
            now: Some(found.clone()),
            message: Some(why.clone()),
            ..Setting::default()
        },
    }
}

pub(super) fn fixed_interrupts(standing: &Standing) -> Vec<String> {
    standing.fixed_interrupts.iter().take(INTERRUPTS).cloned().collect()
}

pub(super) fn not_restored(standing: &Standing) -> Vec<String> {
    let left = standing.pass.not_restored.iter().chain(&standing.kept_by_kernel);
    left.take(SETTINGS).cloned().collect()
}

pub(super) fn core(core: Core, cpu: CpuId, boot: &Boot, standing: &Standing) -> Core {
    let is_in = |cpus: &Option<CpuSet>| cpus.as_ref().is_some_and(|cpus| cpus.contains(cpu));
    let partitions = judge::isolated_by_partition(&standing.grants, boot, &standing.pass);
    let isolation = match (is_in(&boot.isolated), partitions.contains(&cpu)) {
        (true, _) => Isolation::Boot,
        (false, true) => Isolation::Partition,
        (false, false) => Isolation::None,
    };
    Core { nohz_full: is_in(&boot.nohz_full), isolation, ..core }
}

/// What granted cores do without. `None`: nothing, or no core is granted.
pub(super) fn lacking(boot: &Boot, standing: &Standing) -> Option<String> {
    let refused = standing.pass.outcomes.iter().filter_map(|outcome| match &outcome.state {
        State::Refused { why, .. } if outcome.setting.area != Area::Interrupt => {
            Some(format!("{}: {why}", outcome.setting.name))
        }
        State::Refused { .. } | State::Kept { .. } | State::Absent => None,
    });
    let granted = standing.grants.iter().flat_map(|grant| grant.cores.iter()).collect();
    let granted = CpuSet::new(granted);
    let others = |outcome: &&Outcome| {
        granted.as_ref().is_some_and(|granted| judge::is_others_interrupt(outcome, granted))
    };
    let n_interrupts = standing.pass.outcomes.iter().filter(others).count();
    let interrupts = (n_interrupts != 0)
        .then(|| format!("{n_interrupts} interrupts cannot be moved off granted cores (fixedInterrupts)"));
    let nohz_full = |cpu: &CpuId| boot.nohz_full.as_ref().is_some_and(|cpus| cpus.contains(*cpu));
    let ticking = granted
        .as_ref()
        .and_then(|granted| CpuSet::new(granted.iter().filter(|cpu| !nohz_full(cpu)).collect()));
    let ticking = ticking.map(|cpus| {
        format!("CPU {cpus} ticks: it is not in nohz_full (quietcore node plan --isolate {cpus} says how)")
    });
    let shared = standing
        .grants
        .iter()
        .filter(|grant| judge::isolation(grant, boot, &standing.pass) == judge::Isolation::None);
    let shared = CpuSet::new(shared.flat_map(|grant| grant.cores.iter()).collect());
    let shared = shared.map(|cpus| format!("the scheduler may put others on CPU {cpus}"));
    let words: Vec<String> = standing
        .failed
        .iter()
        .cloned()
        .chain(ticking)
        .chain(shared)
        .chain(interrupts)
        .chain(refused)
        .collect();
    (!words.is_empty()).then(|| fit_note(words.join("; ")))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;
    use crate::quiet::{
        catalogue::Quieted,
        keeper::Pass,
        setting::{self, Outcome},
        want::Want,
    };

    fn set(list: &str) -> CpuSet {
        list.parse().unwrap()
    }

    fn outcome(area: Area, name: &str, state: State) -> Outcome {
        let setting = setting::Setting {
            area,
            name: name.to_owned(),
            file: name.into(),
            want: Want::Text(String::new()),
            effective: None,
            cpus: set("2-3"),
        };
        Outcome { setting, state }
    }

    fn kept() -> State {
        State::Kept { before: "1".to_owned(), now: "120".to_owned() }
    }

    fn refused(why: &str) -> State {
        State::Refused { found: "0-3".to_owned(), why: why.to_owned() }
    }

    fn standing(outcomes: Vec<Outcome>) -> Standing {
        let grant = Quieted {
            cores: set("2-3"),
            cpus: set("2-3"),
            shared: None,
            cgroup: None,
            wakeup_latency_us: None,
            governor: None,
        };
        let pass = Pass { outcomes, not_restored: vec!["x: 1 again: no".to_owned()], ..Pass::default() };
        Standing { pass, grants: vec![grant], kept_by_kernel: vec!["y".to_owned()], ..Standing::default() }
    }

    #[test]
    fn a_node_tells_what_its_granted_cores_lack() {
        let boot = Boot { nohz_full: Some(set("2")), isolated: None };
        let standing = standing(vec![
            outcome(Area::Node, "vm.stat_interval", refused("it is read-only here")),
            outcome(Area::Interrupt, "interrupt 24", refused("managed")),
        ]);
        expect![[r#""CPU 3 ticks: it is not in nohz_full (quietcore node plan --isolate 3 says how); the scheduler may put others on CPU 2-3; 1 interrupts cannot be moved off granted cores (fixedInterrupts); vm.stat_interval: it is read-only here""#]]
            .assert_eq(&format!("{:?}", lacking(&boot, &standing).unwrap()));
        assert_eq!(not_restored(&standing), ["x: 1 again: no", "y"]);
    }

    #[test]
    fn nothing_lacks_where_everything_is_kept_or_nothing_is_granted() {
        let boot = Boot { nohz_full: Some(set("1-3")), isolated: Some(set("1-3")) };
        assert_eq!(lacking(&boot, &standing(vec![outcome(Area::Node, "vm.stat_interval", kept())])), None);
        assert_eq!(lacking(&Boot::default(), &Standing::default()), None);
    }

    #[test]
    fn what_is_kept_for_each_core_alike_is_shown_only_where_it_was_refused() {
        let standing = standing(vec![
            outcome(Area::Node, "vm.stat_interval", kept()),
            outcome(Area::Core, "deadline server of CPU 2", kept()),
            outcome(Area::Core, "deadline server of CPU 3", refused("kernel lockdown")),
            outcome(Area::Interrupt, "interrupt 24", refused("managed")),
        ]);
        let shown = settings(&standing).into_iter().map(|setting| (setting.setting, setting.state));
        let expected = [
            ("deadline server of CPU 3".to_owned(), SettingState::Refused),
            ("vm.stat_interval".to_owned(), SettingState::Kept),
        ];
        assert_eq!(shown.collect::<Vec<_>>(), expected);
    }
}
