//! Step 8: makes text from a hostile pod fit for a terminal and an Event.
//!
//! A thread's name, a symbol and a path are whatever their author wrote: escape sequences, line feeds and
//! right-to-left overrides would let one pod forge lines in somebody else's terminal. Pure.

/// An Event's note is refused by the API server above this many bytes.
pub const NOTE_BYTES: usize = 1024;

/// Printable ASCII stays, everything else becomes `?`; longer than `max` ends in "...".
pub fn printable(text: &str, max: usize) -> String {
    let mut clean: String =
        text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).take(max + 1).collect();
    if max < clean.len() {
        clean.truncate(max.saturating_sub(3));
        clean.push_str("...");
    }
    clean
}

/// Cuts at a character's boundary, so that the result has at most `NOTE_BYTES`.
pub fn fit_note(mut note: String) -> String {
    if NOTE_BYTES < note.len() {
        note.truncate(note.floor_char_boundary(NOTE_BYTES - 3));
        note.push_str("...");
    }
    note
}

/// The characters before the first NUL of a C string that may fill its array.
pub fn from_c(bytes: &[std::ffi::c_char]) -> String {
    let bytes: Vec<u8> = bytes.iter().take_while(|c| **c != 0).map(|c| c.cast_unsigned()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn escape_sequences_and_overrides_lose_their_power() {
        assert_eq!(printable("a\x1b[31mb\n\u{202e}c", 64), "a?[31mb??c");
    }

    proptest! {
        #[test]
        fn printable_text_is_short_and_ascii(text in any::<String>(), max in 3_usize..300) {
            let clean = printable(&text, max);
            prop_assert!(clean.len() <= max);
            prop_assert!(clean.bytes().all(|b| (0x20..0x7f).contains(&b)));
        }

        #[test]
        fn a_note_never_exceeds_what_the_api_server_takes(text in "\\PC{0,3000}") {
            prop_assert!(fit_note(text).len() <= NOTE_BYTES);
        }
    }
}
