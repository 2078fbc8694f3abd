//! Step 7: an effective policy and its CPUs, as the guard's map wants them. Pure.

use std::time::Duration;

use super::abi;
use crate::{
    cores::set::CpuSet,
    policy::effective::{Action, ArmAfter, ArmAt, Class, Effective},
};

/// A slot's content but for `live` and `generation`, which belong to the slot.
pub fn rules(policy: &Effective, cpus: &CpuSet) -> abi::qc_grant {
    let mut grant = abi::qc_grant::default();
    for cpu in cpus.iter() {
        set_bit(&mut grant.cpus, cpu.number());
    }
    for &number in &policy.except {
        if u32::from(number) < abi::QC_SYSCALLS {
            set_bit(&mut grant.except, u32::from(number));
        }
    }
    for class in Class::ALL {
        let (action, signal) = match policy.actions[class.index()] {
            Action::Ignore => (abi::QC_IGNORE, 0),
            Action::Count => (abi::QC_COUNT, 0),
            Action::Report => (abi::QC_REPORT, 0),
            Action::Signal(number) => (abi::QC_SIGNAL, number),
            Action::Freeze => (abi::QC_FREEZE, 0),
        };
        grant.actions[class.index()] = u8::try_from(action).unwrap_or_default();
        grant.signals[class.index()] = signal;
        grant.restless[class.index()] = u8::from(Action::Report <= policy.actions[class.index()]);
        if let Some(budget) = policy.budgets[class.index()] {
            grant.budget_ns[class.index()] = nanoseconds(budget.per);
            grant.budget_entries[class.index()] = budget.entries;
        }
    }
    grant.settle_ns = nanoseconds(policy.settle_for);
    grant.enforce_ns = policy.enforce_for.map_or(0, nanoseconds);
    grant.seats = u8::from(policy.arm_at == ArmAt::Settled);
    grant.enforce = u8::from(policy.enforce);
    grant.continuous = u8::from(policy.arm_after == ArmAfter::Continuous);
    grant.locked = u8::from(policy.locked);
    grant
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn set_bit(words: &mut [u64], bit: u32) {
    if let Some(word) = words.get_mut(bit as usize / 64) {
        *word |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::effective::{Budget, CoresWanted};

    #[test]
    fn every_field_of_the_policy_reaches_the_map() {
        let policy = Effective {
            source: None,
            enforce: true,
            enforce_for: Some(Duration::from_secs(60)),
            actions: [Action::Signal(10), Action::Freeze, Action::Count, Action::Ignore],
            budgets: [None, Some(Budget { entries: 3, per: Duration::from_millis(2) }), None, None],
            except: vec![0, 65, 511, 512],
            arm_at: ArmAt::Prctl,
            arm_after: ArmAfter::Continuous,
            settle_for: Duration::from_millis(500),
            locked: true,
            cores: CoresWanted::default(),
        };
        let grant = rules(&policy, &"1,64".parse().unwrap());
        assert_eq!(grant.cpus[..2], [2, 1]);
        assert_eq!((grant.except[0], grant.except[1], grant.except[7]), (1, 2, 1 << 63));
        assert_eq!((grant.actions, grant.signals), ([3, 4, 1, 0], [10, 0, 0, 0]));
        assert_eq!(grant.restless, [1, 1, 0, 0]);
        assert_eq!((grant.settle_ns, grant.enforce, grant.continuous, grant.locked), (500_000_000, 1, 1, 1));
        assert_eq!((grant.budget_ns[1], grant.budget_entries[1], grant.budget_ns[0]), (2_000_000, 3, 0));
        assert_eq!((grant.enforce_ns, grant.seats), (60_000_000_000, 0));
        assert_eq!((grant.live, grant.generation), (0, 0));
    }
}
