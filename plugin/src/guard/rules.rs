//! Step 7: an effective policy and its CPUs, as the guard's map wants them. Pure.

use super::abi;
use crate::{
    cores::set::CpuSet,
    policy::effective::{Action, ArmAfter, Class, Effective},
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
        };
        grant.actions[class.index()] = u8::try_from(action).unwrap_or_default();
        grant.signals[class.index()] = signal;
    }
    grant.settle_ns = u64::try_from(policy.settle_for.as_nanos()).unwrap_or(u64::MAX);
    grant.enforce = u8::from(policy.enforce);
    grant.continuous = u8::from(policy.arm_after == ArmAfter::Continuous);
    grant.locked = u8::from(policy.locked);
    grant
}

pub(super) fn set_bit(words: &mut [u64], bit: u32) {
    if let Some(word) = words.get_mut(bit as usize / 64) {
        *word |= 1 << (bit % 64);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::policy::effective::ArmAt;

    #[test]
    fn every_field_of_the_policy_reaches_the_map() {
        let policy = Effective {
            source: None,
            enforce: true,
            actions: [Action::Signal(10), Action::Report, Action::Count, Action::Ignore],
            except: vec![0, 65, 511, 512],
            arm_at: ArmAt::Prctl,
            arm_after: ArmAfter::Continuous,
            settle_for: Duration::from_millis(500),
            locked: true,
        };
        let grant = rules(&policy, &"1,64".parse().unwrap());
        assert_eq!(grant.cpus[..2], [2, 1]);
        assert_eq!((grant.except[0], grant.except[1], grant.except[7]), (1, 2, 1 << 63));
        assert_eq!((grant.actions, grant.signals), ([3, 2, 1, 0], [10, 0, 0, 0]));
        assert_eq!((grant.settle_ns, grant.enforce, grant.continuous, grant.locked), (500_000_000, 1, 1, 1));
        assert_eq!((grant.live, grant.generation), (0, 0));
    }
}
