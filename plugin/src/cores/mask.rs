//! Step 3: CPU sets in the kernel's mask format ("1,00000003"), which smp_affinity, rps_cpus and the masks of
//! the workqueues and the watchdog have.
//!
//! Pure: no IO. The format is that of cpuset(7) "Mask format". Unlike a `CpuSet` a mask may be empty: rps_cpus
//! of a queue that does not steer packets is "0".

use std::{collections::BTreeSet, fmt::Write as _};

use super::set::{CpuId, MAX_CPUS};

/// CPUs of one word.
const WORD: u32 = u32::BITS;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MaskError {
    #[error("{0:?} is not a CPU mask: expected words of at most 8 hexadecimal digits such as \"1,0000000f\"")]
    Format(String),
    #[error("the CPU mask has CPU {0}: quietcore handles CPUs 0 to {max}", max = MAX_CPUS - 1)]
    OutOfRange(usize),
}

pub fn parse(text: &str) -> Result<BTreeSet<CpuId>, MaskError> {
    let mut cpus = BTreeSet::new();
    for (idx, word) in text.trim().rsplit(',').enumerate() {
        let bits = word_of(word).ok_or_else(|| MaskError::Format(shown(text)))?;
        for bit in (0..WORD).filter(|bit| bits >> bit & 1 == 1) {
            let number = idx * WORD as usize + bit as usize;
            let cpu = u32::try_from(number).ok().and_then(CpuId::new);
            cpus.insert(cpu.ok_or(MaskError::OutOfRange(number))?);
        }
    }
    Ok(cpus)
}

/// No more words than needed: the kernel refuses words above its number of CPUs, even those that are zero
/// (`bitmap_parse`, lib/bitmap-str.c).
pub fn print(cpus: impl IntoIterator<Item = CpuId>) -> String {
    let mut words = vec![0u32];
    for cpu in cpus {
        let idx = (cpu.number() / WORD) as usize;
        if words.len() <= idx {
            words.resize(idx + 1, 0);
        }
        words[idx] |= 1 << (cpu.number() % WORD);
    }
    let mut words = words.into_iter().rev();
    let mut text = words.next().map(|highest| format!("{highest:x}")).unwrap_or_default();
    for word in words {
        let _ = write!(text, ",{word:08x}");
    }
    text
}

/// `from_str_radix` alone would take a sign.
fn word_of(word: &str) -> Option<u32> {
    let digits = word.bytes().all(|byte| byte.is_ascii_hexdigit()) && word.len() <= 8;
    if digits { u32::from_str_radix(word, 16).ok() } else { None }
}

/// A mask of 8,192 CPUs has 2,303 characters: too many for a line of a log.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(64).collect();
    if start.len() < text.len() { start + ".." } else { start }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;
    use crate::cores::set::CpuSet;

    #[track_caller]
    fn check(text: &str, expect: Expect) {
        let told = parse(text).map(|cpus| {
            let list = CpuSet::new(cpus.clone()).map_or_else(|| "none".to_owned(), |set| set.to_string());
            format!("{list} = {}", print(cpus))
        });
        expect.assert_eq(&told.unwrap_or_else(|error| error.to_string()));
    }

    #[test]
    fn words_count_from_the_last() {
        check("3\n", expect!["0-1 = 3"]);
        check("00000000,80000001", expect!["0,31 = 80000001"]);
        check("1,00000000", expect!["32 = 1,00000000"]);
        check("FF,ffFFffff,00000000\n", expect!["32-71 = ff,ffffffff,00000000"]);
    }

    #[test]
    fn a_mask_may_be_empty() {
        check("0\n", expect!["none = 0"]);
        check("00000000,00000000", expect!["none = 0"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let format = |text: &str| {
            assert_eq!(parse(text), Err(MaskError::Format(text.to_owned())), "{text:?}");
        };
        for text in
            ["", "\n", ",", "1,", ",1", "1,,1", "0x1", "+1", "-1", "g", "000000001", "1 1", "1;1", "é"]
        {
            format(text);
        }
        check(
            &"z".repeat(5000),
            expect![[
                r#""zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz.." is not a CPU mask: expected words of at most 8 hexadecimal digits such as "1,0000000f""#
            ]],
        );
    }

    #[test]
    fn a_cpu_beyond_the_last_is_refused_and_zeros_are_not() {
        let above = |word: &str| format!("{word}{}", ",00000000".repeat(256));
        check(&above("1"), expect!["the CPU mask has CPU 8192: quietcore handles CPUs 0 to 8191"]);
        check(&above("0"), expect!["none = 0"]);
        let last = format!("80000000{}", ",00000000".repeat(255));
        assert_eq!(parse(&last).map(print), Ok(last));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(numbers in prop::collection::btree_set(0..MAX_CPUS, 0..300)) {
            let cpus: BTreeSet<CpuId> = numbers.into_iter().filter_map(CpuId::new).collect();
            prop_assert_eq!(parse(&print(cpus.clone())), Ok(cpus));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", like in "[0-9a-fA-F,\n +x-]{0,400}") {
            let _ = (parse(&text), parse(&like));
        }
    }
}
