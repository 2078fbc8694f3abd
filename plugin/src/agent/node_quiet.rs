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
        Area::Core | Area::Cgroup => matches!(outcome.state, State::Refused { .. }),
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
pub(super) fn lacking(standing: &Standing) -> Option<String> {
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
    let words: Vec<String> = standing.failed.iter().cloned().chain(interrupts).chain(refused).collect();
    (!words.is_empty()).then(|| fit_note(words.join("; ")))
}
