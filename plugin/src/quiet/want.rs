//! Step 3: what a file of the kernel must say while cores are granted. Pure.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::cores::{
    mask,
    set::{CpuId, CpuSet},
};

/// How the kernel writes sets of CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// cpuset(7), "List format": 0,2-3
    List,
    /// The same, but none at all stands for all: cpuset.cpus with cgroup v2.
    ListOrAll,
    /// cpuset(7), "Mask format": 0000000d
    Mask,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Want {
    /// Exactly this.
    Text(String),
    /// This as its first word: cpu.max is "max 100000".
    Word(String),
    /// No smaller number, and no larger one where it is already so.
    AtLeast(u64),
    /// Exactly these CPUs, as a list; maybe none.
    Cpus(BTreeSet<CpuId>),
    /// Whatever it was, and these; as a list.
    Including(CpuSet),
    /// Whatever it was, without these. Where nothing is left of it: `instead`.
    Without { cpus: CpuSet, instead: CpuSet, format: Format },
}

impl Want {
    pub fn is_met(&self, found: &str) -> bool {
        match self {
            Want::Text(text) => found.trim() == text,
            Want::Word(word) => found.split_whitespace().next() == Some(word),
            Want::AtLeast(least) => found.trim().parse::<u64>().is_ok_and(|number| *least <= number),
            Want::Cpus(cpus) => read(Format::List, found).as_ref() == Some(cpus),
            Want::Including(cpus) => {
                read(Format::List, found).is_some_and(|found| cpus.iter().all(|cpu| found.contains(&cpu)))
            }
            // What cannot be read is not known to keep away.
            Want::Without { cpus, format, .. } => read(*format, found).is_some_and(|found| {
                let is_all = found.is_empty() && *format == Format::ListOrAll;
                !is_all && !found.iter().any(|cpu| cpus.contains(*cpu))
            }),
        }
    }

    /// What to write where it said `before` when nothing was granted. `None`: what it said is no set of CPUs.
    pub fn text(&self, before: &str) -> Option<String> {
        Some(match self {
            Want::Text(text) | Want::Word(text) => text.clone(),
            Want::AtLeast(number) => number.to_string(),
            Want::Cpus(cpus) => print(Format::List, cpus),
            Want::Including(cpus) => {
                let before = read(Format::List, before)?;
                print(Format::List, &before.into_iter().chain(cpus.iter()).collect())
            }
            Want::Without { cpus, instead, format } => {
                let before = read(*format, before)?;
                let left: BTreeSet<CpuId> =
                    before.iter().copied().filter(|cpu| !cpus.contains(*cpu)).collect();
                // An empty mask of a network queue means "nowhere else", and stays.
                let nothing_left = left.is_empty() && (!before.is_empty() || *format == Format::ListOrAll);
                print(*format, &if nothing_left { instead.iter().collect() } else { left })
            }
        })
    }

    /// How sets of CPUs are written in its file, if it is one.
    pub fn format(&self) -> Option<Format> {
        match self {
            Want::Cpus(_) | Want::Including(_) => Some(Format::List),
            Want::Without { format, .. } => Some(*format),
            Want::Text(_) | Want::Word(_) | Want::AtLeast(_) => None,
        }
    }
}

/// Do both say the same? The kernel prints sets of CPUs in its own way.
pub fn same(format: Option<Format>, one: &str, other: &str) -> bool {
    let sets = format.and_then(|format| Some((read(format, one)?, read(format, other)?)));
    let by_words = || one.split_whitespace().eq(other.split_whitespace());
    sets.map_or_else(by_words, |(one, other)| one == other)
}

fn read(format: Format, text: &str) -> Option<BTreeSet<CpuId>> {
    match format {
        Format::Mask => mask::parse(text).ok(),
        Format::List | Format::ListOrAll if text.trim().is_empty() => Some(BTreeSet::new()),
        Format::List | Format::ListOrAll => Some(text.parse::<CpuSet>().ok()?.iter().collect()),
    }
}

fn print(format: Format, cpus: &BTreeSet<CpuId>) -> String {
    match format {
        Format::Mask => mask::print(cpus.iter().copied()),
        Format::List | Format::ListOrAll => {
            CpuSet::new(cpus.clone()).map(|cpus| cpus.to_string()).unwrap_or_default()
        }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn without(cpus: &str, format: Format) -> Want {
        Want::Without { cpus: cpus.parse().unwrap(), instead: "0".parse().unwrap(), format }
    }

    #[track_caller]
    fn check(want: &Want, before: &str, expect: Expect) {
        let text = want.text(before);
        if let Some(text) = &text {
            assert!(want.is_met(text), "{text:?} is what {want:?} asks for");
        }
        expect.assert_eq(&format!("{} {text:?}", want.is_met(before)));
    }

    #[test]
    fn cores_leave_a_set_and_what_else_was_in_it_stays() {
        check(&without("2-3", Format::List), "0-7\n", expect![[r#"false Some("0-1,4-7")"#]]);
        check(&without("2-3", Format::List), "0-1\n", expect![[r#"true Some("0-1")"#]]);
        check(&without("2-3", Format::List), "3\n", expect![[r#"false Some("0")"#]]);
        check(&without("2-3", Format::Mask), "ff\n", expect![[r#"false Some("f3")"#]]);
        check(&without("2-3", Format::Mask), "00\n", expect![[r#"true Some("0")"#]]);
        check(&without("2-3", Format::List), "\n", expect![[r#"true Some("")"#]]);
        check(&without("2-3", Format::ListOrAll), "\n", expect![[r#"false Some("0")"#]]);
        check(&without("2-3", Format::ListOrAll), "1-2\n", expect![[r#"false Some("1")"#]]);
    }

    #[test]
    fn cores_join_a_set_and_what_was_in_it_stays() {
        let cores = Want::Including("2-3".parse().unwrap());
        check(&cores, "", expect![[r#"false Some("2-3")"#]]);
        check(&cores, "0,2", expect![[r#"false Some("0,2-3")"#]]);
        check(&cores, "1-5", expect![[r#"true Some("1-5")"#]]);
        check(&cores, "?", expect!["false None"]);
    }

    #[test]
    fn what_is_no_set_is_left_alone_and_not_taken_for_a_good_one() {
        check(&without("2-3", Format::List), "0-\n", expect!["false None"]);
        check(&without("2-3", Format::Mask), "xyz\n", expect!["false None"]);
    }

    #[test]
    fn a_word_is_the_first_of_a_line() {
        check(&Want::Word("max".into()), "50000 100000\n", expect![[r#"false Some("max")"#]]);
        check(&Want::Word("max".into()), "max 100000\n", expect![[r#"true Some("max")"#]]);
    }

    #[test]
    fn a_partition_that_the_kernel_did_not_make_is_none() {
        check(
            &Want::Text("isolated".into()),
            "isolated invalid (Parent unable to distribute cpu downstream)\n",
            expect![[r#"false Some("isolated")"#]],
        );
    }

    #[test]
    fn a_longer_interval_than_asked_for_is_good_too() {
        check(&Want::AtLeast(120), "1\n", expect![[r#"false Some("120")"#]]);
        check(&Want::AtLeast(120), "300\n", expect![[r#"true Some("120")"#]]);
        check(&Want::AtLeast(120), "soon\n", expect![[r#"false Some("120")"#]]);
    }

    #[test]
    fn the_kernel_may_print_a_set_in_another_way_than_it_was_written() {
        let mask = Some(Format::Mask);
        assert!(same(mask, "00000000,0000000f\n", "f") && !same(mask, "f", "e"));
        assert!(same(Some(Format::List), "\n", "") && same(Some(Format::List), "0,1\n", "0-1"));
        assert!(same(None, "max 100000\n", "max  100000"));
    }
}
