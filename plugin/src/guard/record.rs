//! Step 7: a record's bytes, as the type that step 8 reads. Pure.

#![expect(unsafe_code, reason = "reads a plain C struct from bytes of its size")]

use super::abi::qc_record;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a record of {found} bytes, expected {expected}: the pinned guard is of another version")]
pub struct WrongSize {
    found: usize,
    expected: usize,
}

pub fn decode(bytes: &[u8]) -> Result<qc_record, WrongSize> {
    let expected = size_of::<qc_record>();
    if bytes.len() != expected {
        return Err(WrongSize { found: bytes.len(), expected });
    }
    // SAFETY: the length was just checked, read_unaligned asks for no alignment, and every field is an
    // integer or an array of integers, for which any bytes are a value.
    Ok(unsafe { bytes.as_ptr().cast::<qc_record>().read_unaligned() })
}

/// The text of a NUL-padded field of the kernel's, such as `comm`: up to 15 bytes that a program may choose.
pub fn text(field: &[core::ffi::c_char]) -> String {
    let bytes: Vec<u8> =
        field.iter().map(|&byte| byte.cast_unsigned()).take_while(|&byte| byte != 0).collect();
    String::from_utf8_lossy(&bytes).replace(char::is_control, "?")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_of_the_right_length_decode_and_all_others_are_refused(bytes: Vec<u8>) {
            prop_assert_eq!(decode(&bytes).is_ok(), bytes.len() == size_of::<qc_record>());
        }
    }

    #[test]
    fn names_end_at_the_first_nul_and_cannot_carry_control_characters() {
        let field = b"a\x1bb\0c".map(|byte| byte.cast_signed());
        assert_eq!(text(&field), "a?b");
    }
}
