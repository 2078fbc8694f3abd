//! Step 5: the seccomp filter that answers prctl(PR_TASK_ISOLATION) where the kernel does not know it.
//!
//! It says 0 (the guard then arms at the return), or the error that the arguments alone decide. It allows
//! every other call: the pod's own profile stays what it was. Classic BPF, seccomp(2).

use quietcore_abi::{BAD_SIGNALS, CHALLENGE, CLASSES, ENABLE, ON_EXEC, PR_TASK_ISOLATION, set_sig};

/// struct sock_filter of linux/filter.h.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instruction {
    pub code: u16,
    pub if_true: u8,
    pub if_false: u8,
    pub k: u32,
}

pub const MAX_LEN: usize = 96;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const AND: u16 = 0x54; // BPF_ALU | BPF_AND | BPF_K
const SHIFT_RIGHT: u16 = 0x74; // BPF_ALU | BPF_RSH | BPF_K
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_GREATER: u16 = 0x25; // BPF_JMP | BPF_JGT | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

const ALLOW: u32 = 0x7fff_0000; // SECCOMP_RET_ALLOW
const ERRNO: u32 = 0x0005_0000; // SECCOMP_RET_ERRNO
const EPERM: u32 = 1;
const EINVAL: u32 = 22;

// struct seccomp_data, little endian.
const NR: u32 = 0;
const ARCH: u32 = 4;
const AUDIT_ARCH_X86_64: u32 = 0xc000_003e;
const NR_PRCTL: u32 = 157;

const fn low(arg: u32) -> u32 {
    16 + arg * 8
}

const fn high(arg: u32) -> u32 {
    low(arg) + 4
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum To {
    Next,
    /// Over so many instructions.
    Over(u8),
    Allow,
    Invalid,
    NotPermitted,
}

#[derive(Debug)]
pub struct Filter {
    code: [Instruction; MAX_LEN],
    jumps: [(To, To); MAX_LEN],
    len: usize,
}

impl Filter {
    pub fn instructions(&self) -> &[Instruction] {
        &self.code[..self.len]
    }

    fn push(&mut self, code: u16, k: u32, if_true: To, if_false: To) {
        self.code[self.len] = Instruction { code, if_true: 0, if_false: 0, k };
        self.jumps[self.len] = (if_true, if_false);
        self.len += 1;
    }

    fn load(&mut self, offset: u32) {
        self.push(LOAD, offset, To::Next, To::Next);
    }

    fn must_be_zero(&mut self, offset: u32, or: To) {
        self.load(offset);
        self.push(IF_EQUAL, 0, To::Next, or);
    }

    /// The accumulator holds a signal number, or 0 for none.
    fn check_signal(&mut self) {
        self.push(IF_GREATER, 64, To::Invalid, To::Next);
        for bad in BAD_SIGNALS {
            self.push(IF_EQUAL, u32::from(bad), To::Invalid, To::Next);
        }
    }

    fn finish(mut self) -> Filter {
        let end = self.len;
        for (place, k) in [ERRNO, ALLOW, ERRNO | EINVAL, ERRNO | EPERM].into_iter().enumerate() {
            self.code[end + place] = Instruction { code: RETURN, if_true: 0, if_false: 0, k };
        }
        for idx in 0..end {
            let offset = |to| {
                let target = match to {
                    To::Next => return 0,
                    To::Over(n_instructions) => return n_instructions,
                    To::Allow => end + 1,
                    To::Invalid => end + 2,
                    To::NotPermitted => end + 3,
                };
                // MAX_LEN keeps every distance below 256.
                (target - idx - 1).to_le_bytes()[0]
            };
            let (if_true, if_false) = self.jumps[idx];
            self.code[idx].if_true = offset(if_true);
            self.code[idx].if_false = offset(if_false);
        }
        self.len = end + 4;
        self
    }
}

pub fn build(locked: bool) -> Filter {
    let mut filter =
        Filter { code: [Instruction::default(); MAX_LEN], jumps: [(To::Next, To::Next); MAX_LEN], len: 0 };
    let f = &mut filter;
    // Other ABIs (i386, x32) never reach the guard's prctl: the kernel answers them EINVAL.
    f.load(ARCH);
    f.push(IF_EQUAL, AUDIT_ARCH_X86_64, To::Next, To::Allow);
    f.load(NR);
    f.push(IF_EQUAL, NR_PRCTL, To::Next, To::Allow);
    // `int option`: the kernel looks at the low half only.
    f.load(low(0));
    f.push(IF_EQUAL, PR_TASK_ISOLATION, To::Next, To::Allow);

    f.load(low(1));
    f.push(IF_ANY_BIT, CHALLENGE | ON_EXEC, To::NotPermitted, To::Next);
    f.push(IF_ANY_BIT, !(ENABLE | CLASSES | set_sig(0x7f)), To::Invalid, To::Next);
    for zero in [high(1), low(3), high(3), low(4), high(4), high(2)] {
        f.must_be_zero(zero, To::Invalid);
    }
    // Without ENABLE only 0 has a meaning; without CLASSES arg3 has none.
    f.load(low(1));
    f.push(IF_ANY_BIT, ENABLE, To::Over(1), To::Next);
    f.push(IF_EQUAL, 0, To::Next, To::Invalid);
    f.push(IF_ANY_BIT, CLASSES, To::Over(2), To::Next);
    f.must_be_zero(low(2), To::Invalid);
    f.load(low(1));
    f.push(SHIFT_RIGHT, 8, To::Next, To::Next);
    f.check_signal();
    // Each byte of arg3 is a signal; the fourth is none of ours.
    for shift in [0, 8, 16] {
        f.load(low(2));
        f.push(SHIFT_RIGHT, shift, To::Next, To::Next);
        f.push(AND, 0xff, To::Next, To::Next);
        f.check_signal();
    }
    f.load(low(2));
    f.push(SHIFT_RIGHT, 24, To::Next, To::Next);
    f.push(IF_EQUAL, 0, To::Next, To::Invalid);
    if locked {
        // Arm by the policy's own signals, and nothing else.
        f.must_be_zero(low(2), To::NotPermitted);
        f.load(low(1));
        f.push(IF_EQUAL, ENABLE | CLASSES, To::Next, To::NotPermitted);
    }
    filter.finish()
}

#[cfg(test)]
#[path = "filter_tests.rs"]
mod tests;
