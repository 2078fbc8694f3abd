//! Step 8: does a call instruction end here? What a frame pointer leads to is a return address only then: code built
//! without frame pointers leaves anything in that register. x86-64 (Intel SDM volume 2, CALL). Pure.

/// The longest call: FF /2 with a SIB byte and 32 bits of displacement.
pub(super) const LONGEST: usize = 7;

/// `before` are the bytes in front of the return address.
pub(super) fn ends_in_call(before: &[u8]) -> bool {
    let from_end = |n: usize| before.len().checked_sub(n).and_then(|at| before.get(at..));
    let direct = from_end(5).is_some_and(|bytes| bytes.first() == Some(&0xe8));
    direct || (2..=LONGEST).filter_map(from_end).any(|bytes| indirect_length(bytes) == Some(bytes.len()))
}

/// FF /2 by its ModRM byte. Prefixes come in front and change no length.
fn indirect_length(bytes: &[u8]) -> Option<usize> {
    let &[0xff, modrm, ref rest @ ..] = bytes else { return None };
    let (mode, operation, rm) = (modrm >> 6, modrm >> 3 & 7, modrm & 7);
    if operation != 2 {
        return None;
    }
    let sib = (mode != 3 && rm == 4).then(|| rest.first().copied());
    let base_is_displacement = match sib {
        Some(sib) => sib? & 7 == 5,
        None => rm == 5,
    };
    let displacement = match mode {
        0 if base_is_displacement => 4,
        1 => 1,
        2 => 4,
        _ => 0,
    };
    Some(2 + usize::from(sib.is_some()) + displacement)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_of_a_call_is_known_and_nothing_else() {
        for call in [
            &[0xe8, 1, 2, 3, 4][..],         // call rel32
            &[0xff, 0xd0],                   // call *%rax
            &[0x41, 0xff, 0xd4],             // call *%r12
            &[0xff, 0x13],                   // call *(%rbx)
            &[0xff, 0x53, 0x18],             // call *0x18(%rbx)
            &[0xff, 0x14, 0xc7],             // call *(%rdi,%rax,8)
            &[0xff, 0x54, 0x24, 0x08],       // call *0x8(%rsp)
            &[0xff, 0x15, 1, 2, 3, 4],       // call *0x4030201(%rip)
            &[0xff, 0x93, 1, 2, 3, 4],       // call *0x4030201(%rbx)
            &[0xff, 0x14, 0x25, 1, 2, 3, 4], // call *0x4030201
            &[0xff, 0x94, 0x24, 1, 2, 3, 4], // call *0x4030201(%rsp)
        ] {
            assert!(ends_in_call(&[&[0x90; 8], call].concat()), "{call:x?}");
            assert!(ends_in_call(call), "{call:x?}");
        }
        for other in [&[][..], &[0xff], &[0xc3; 7], &[0xff, 0xe0], &[0xff, 0x10, 0], &[0xe8, 1, 2, 3]] {
            assert!(!ends_in_call(other), "{other:x?}");
        }
    }
}
