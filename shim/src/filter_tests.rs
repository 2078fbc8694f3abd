//! Runs the filter in a small interpreter of the instructions it uses; `tests/kernel.rs` runs it for real.

use super::*;

struct Call {
    arch: u32,
    nr: u32,
    args: [u64; 6],
}

fn run(filter: &Filter, call: &Call) -> u32 {
    let mut data = Vec::new();
    data.extend(call.nr.to_le_bytes());
    data.extend(call.arch.to_le_bytes());
    data.extend(0u64.to_le_bytes());
    call.args.iter().for_each(|arg| data.extend(arg.to_le_bytes()));
    let (mut at, mut a) = (0, 0u32);
    loop {
        let Instruction { code, if_true, if_false, k } = filter.instructions()[at];
        at += 1;
        let jump = |yes: bool| usize::from(if yes { if_true } else { if_false });
        match code {
            LOAD => a = u32::from_le_bytes(data[k as usize..][..4].try_into().unwrap()),
            AND => a &= k,
            SHIFT_RIGHT => a >>= k,
            IF_EQUAL => at += jump(a == k),
            IF_GREATER => at += jump(a > k),
            IF_ANY_BIT => at += jump(a & k != 0),
            RETURN => return k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

#[track_caller]
fn check(locked: bool, arg2: u64, arg3: u64, arg4: u64, arg5: u64, expect: u32) {
    let args = [u64::from(PR_TASK_ISOLATION), arg2, arg3, arg4, arg5, 0];
    let call = Call { arch: AUDIT_ARCH_X86_64, nr: NR_PRCTL, args };
    assert_eq!(run(&build(locked), &call), expect);
}

const OK: u32 = ERRNO;
const INVALID: u32 = ERRNO | EINVAL;
const NOT_PERMITTED: u32 = ERRNO | EPERM;
const BY_CLASS: u64 = (ENABLE | CLASSES) as u64;

#[test]
fn arming_and_disarming_are_answered_zero() {
    check(false, u64::from(ENABLE), 0, 0, 0, OK);
    check(false, u64::from(ENABLE | set_sig(10)), 0, 0, 0, OK);
    check(false, BY_CLASS, quietcore_abi::signals(10, 12, 64), 0, 0, OK);
    check(false, 0, 0, 0, 0, OK);
}

#[test]
fn bad_arguments_are_invalid() {
    check(false, 1 << 4 | 1, 0, 0, 0, INVALID);
    check(false, 1 << 32 | 1, 0, 0, 0, INVALID);
    check(false, 1, 0, 1, 0, INVALID);
    check(false, 1, 0, 0, 1 << 40, INVALID);
    check(false, 0, 10, 0, 0, INVALID);
    check(false, u64::from(CLASSES), 0, 0, 0, INVALID);
    check(false, u64::from(set_sig(10)), 0, 0, 0, INVALID);
    check(false, u64::from(ENABLE), 10, 0, 0, INVALID);
    check(false, u64::from(ENABLE), 1 << 32, 0, 0, INVALID);
    check(false, BY_CLASS, 1 << 24, 0, 0, INVALID);
    check(false, BY_CLASS, 1 << 32, 0, 0, INVALID);
    check(false, u64::from(ENABLE | set_sig(65)), 0, 0, 0, INVALID);
    for bad in BAD_SIGNALS {
        check(false, u64::from(ENABLE) | u64::from(bad) << 8, 0, 0, 0, INVALID);
        for byte in [0, 8, 16] {
            check(false, BY_CLASS, u64::from(bad) << byte, 0, 0, INVALID);
        }
    }
}

#[test]
fn what_belongs_to_the_shim_is_not_permitted() {
    check(false, u64::from(CHALLENGE), 64, 0, 0, NOT_PERMITTED);
    check(false, u64::from(ENABLE | ON_EXEC), 0, 0, 0, NOT_PERMITTED);
}

#[test]
fn a_locked_program_may_arm_and_nothing_else() {
    check(true, BY_CLASS, 0, 0, 0, OK);
    check(true, 0, 0, 0, 0, NOT_PERMITTED);
    check(true, u64::from(ENABLE), 0, 0, 0, NOT_PERMITTED);
    check(true, BY_CLASS, 10, 0, 0, NOT_PERMITTED);
    check(true, BY_CLASS | 10 << 8, 0, 0, 0, NOT_PERMITTED);
}

#[test]
fn every_other_call_is_left_alone() {
    let others = [
        (AUDIT_ARCH_X86_64, NR_PRCTL, 38),
        (AUDIT_ARCH_X86_64, 1, u64::from(PR_TASK_ISOLATION)),
        (AUDIT_ARCH_X86_64, NR_PRCTL | 0x4000_0000, u64::from(PR_TASK_ISOLATION)),
        (0x4000_0003, NR_PRCTL, u64::from(PR_TASK_ISOLATION)),
    ];
    for (arch, nr, option) in others {
        let call = Call { arch, nr, args: [option, u64::MAX, u64::MAX, u64::MAX, u64::MAX, u64::MAX] };
        assert_eq!(run(&build(true), &call), ALLOW, "{arch:#x} {nr} {option}");
    }
}
