//! Step 3: CPU numbers and sets of them, in the kernel's list format ("1,3-5").
//!
//! Pure: no IO. The format is that of cpuset(7) "List format".

use std::{collections::BTreeSet, fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The highest CPU number we handle, plus one: as many as any x86-64 kernel has (NR_CPUS of MAXSMP). The masks of
/// the guard and of the shim have this many bits.
pub const MAX_CPUS: u32 = 8192;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CpuId(u32);

impl CpuId {
    pub fn new(number: u32) -> Option<CpuId> {
        (number < MAX_CPUS).then_some(CpuId(number))
    }

    pub fn number(self) -> u32 {
        self.0
    }
}

/// CPUs of one container, or of the node. Never empty: a runtime reads "" as "leave the cpuset alone",
/// which would hand the container every CPU of the node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuSet(BTreeSet<CpuId>);

impl CpuSet {
    pub fn new(cpus: BTreeSet<CpuId>) -> Option<CpuSet> {
        if cpus.is_empty() { None } else { Some(CpuSet(cpus)) }
    }

    pub fn iter(&self) -> impl Iterator<Item = CpuId> + '_ {
        self.0.iter().copied()
    }

    pub fn contains(&self, cpu: CpuId) -> bool {
        self.0.contains(&cpu)
    }

    pub fn overlaps(&self, other: &CpuSet) -> bool {
        !self.0.is_disjoint(&other.0)
    }

    #[expect(clippy::len_without_is_empty, reason = "it never is")]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn union(&self, other: &CpuSet) -> CpuSet {
        CpuSet(self.0.union(&other.0).copied().collect())
    }

    /// `None` when they have nothing in common.
    pub fn intersection(&self, other: &CpuSet) -> Option<CpuSet> {
        CpuSet::new(self.0.intersection(&other.0).copied().collect())
    }

    pub fn is_subset(&self, other: &CpuSet) -> bool {
        self.0.is_subset(&other.0)
    }

    pub fn first(&self) -> CpuId {
        self.0.first().copied().unwrap_or_else(|| unreachable!("a CpuSet is never empty"))
    }

    /// `None` when nothing is left: the caller must say what that means.
    pub fn without(&self, other: &CpuSet) -> Option<CpuSet> {
        CpuSet::new(self.0.difference(&other.0).copied().collect())
    }
}

impl From<CpuId> for CpuSet {
    fn from(cpu: CpuId) -> CpuSet {
        CpuSet(BTreeSet::from([cpu]))
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.0.iter().map(|cpu| cpu.0).peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while cpus.next_if_eq(&(last + 1)).is_some() {
                last += 1;
            }
            if first == last {
                write!(f, "{separator}{first}")?;
            } else {
                write!(f, "{separator}{first}-{last}")?;
            }
            separator = ",";
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseCpuSetError {
    #[error("CPU list is empty")]
    Empty,
    #[error("{0:?} is not a CPU list: expected numbers and ranges such as \"1,3-5\"")]
    Format(String),
    #[error("CPU {0} is out of range: quietcore handles CPUs 0 to {max}", max = MAX_CPUS - 1)]
    OutOfRange(u32),
}

impl FromStr for CpuSet {
    type Err = ParseCpuSetError;

    fn from_str(list: &str) -> Result<CpuSet, ParseCpuSetError> {
        let list = list.trim();
        let number = |text: &str| number(text).ok_or_else(|| ParseCpuSetError::Format(shown(list)));
        if list.is_empty() {
            return Err(ParseCpuSetError::Empty);
        }
        let mut cpus = BTreeSet::new();
        for part in list.split(',') {
            let (first, last) = match part.split_once('-') {
                Some((first, last)) => (number(first)?, number(last)?),
                None => (number(part)?, number(part)?),
            };
            if last < first {
                return Err(ParseCpuSetError::Format(shown(list)));
            }
            // Checked before the range is walked: "0-4294967295" must not cost four billion steps.
            if MAX_CPUS <= last {
                return Err(ParseCpuSetError::OutOfRange(last));
            }
            cpus.extend((first..=last).map(CpuId));
        }
        CpuSet::new(cpus).ok_or(ParseCpuSetError::Empty)
    }
}

/// `parse` alone would take a sign.
fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// A list of 8,192 CPUs may have 38,000 characters: too many for a line of a log.
fn shown(list: &str) -> String {
    let start: String = list.chars().take(64).collect();
    if start.len() < list.len() { start + ".." } else { start }
}

impl TryFrom<String> for CpuSet {
    type Error = ParseCpuSetError;

    fn try_from(list: String) -> Result<CpuSet, ParseCpuSetError> {
        list.parse()
    }
}

impl From<CpuSet> for String {
    fn from(cpus: CpuSet) -> String {
        cpus.to_string()
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(list: &str, expect: Expect) {
        expect.assert_eq(&list.parse::<CpuSet>().map_or_else(|e| e.to_string(), |set| set.to_string()));
    }

    #[test]
    fn lists_are_normalized() {
        check("5,2,3", expect!["2-3,5"]);
        check("0-2,1-4\n", expect!["0-4"]);
    }

    #[test]
    fn an_empty_set_cannot_be_made() {
        check(" ", expect!["CPU list is empty"]);
        assert_eq!(CpuSet::new(BTreeSet::new()), None);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        check("a", expect![[r#""a" is not a CPU list: expected numbers and ranges such as "1,3-5""#]]);
        check("+1", expect![[r#""+1" is not a CPU list: expected numbers and ranges such as "1,3-5""#]]);
        check("3-1", expect![[r#""3-1" is not a CPU list: expected numbers and ranges such as "1,3-5""#]]);
        check("0-4294967295", expect!["CPU 4294967295 is out of range: quietcore handles CPUs 0 to 8191"]);
    }
    #[test]
    fn sets_are_joined_and_compared() {
        let set = |list: &str| list.parse::<CpuSet>().unwrap();
        assert_eq!(set("1-2").union(&set("2,9")), set("1-2,9"));
        assert_eq!(set("1-2").intersection(&set("2,9")), Some(set("2")));
        assert_eq!(set("1-2").intersection(&set("9")), None);
        assert_eq!((set("0-8191").len(), set("0-8191").first()), (8192, CpuId(0)));
        assert!(set("2").is_subset(&set("1-2")) && !set("1-3").is_subset(&set("1-2")));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(numbers in prop::collection::btree_set(0..MAX_CPUS, 1..300)) {
            let set = CpuSet::new(numbers.into_iter().filter_map(CpuId::new).collect()).unwrap();
            prop_assert_eq!(set.to_string().parse(), Ok(set));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC*", like in "[0-9,\n +-]{0,400}") {
            let _ = (text.parse::<CpuSet>(), like.parse::<CpuSet>());
        }
    }
}
