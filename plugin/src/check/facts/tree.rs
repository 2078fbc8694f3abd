//! Reads the small files of /proc and /sys below a root that a test can choose.

use std::{
    collections::BTreeSet,
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::cores::set::{CpuId, CpuSet};

pub const ONLINE: &str = "sys/devices/system/cpu/online";
pub const CPUS: &str = "sys/devices/system/cpu";

/// What a file says, or why it says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Text(String),
    Absent,
    Refused(String),
}

impl Said {
    pub fn text(&self) -> Option<&str> {
        match self {
            Said::Text(text) => Some(text),
            Said::Absent | Said::Refused(_) => None,
        }
    }

    pub fn number(&self) -> Option<i64> {
        self.text()?.parse().ok()
    }
}

#[derive(Debug)]
pub struct Tree {
    root: PathBuf,
}

impl Tree {
    pub fn at(root: &Path) -> Tree {
        Tree { root: root.to_owned() }
    }

    pub fn said(&self, path: &str) -> Said {
        match fs::read_to_string(self.root.join(path)) {
            Ok(text) => Said::Text(text.trim().to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => Said::Absent,
            Err(error) => Said::Refused(error.to_string()),
        }
    }

    pub fn text(&self, path: &str) -> Option<String> {
        match self.said(path) {
            Said::Text(text) => Some(text),
            Said::Absent | Said::Refused(_) => None,
        }
    }

    /// A list as "0,2-3"; `None` also where it is empty.
    pub fn set(&self, path: &str) -> Option<CpuSet> {
        self.text(path)?.parse().ok()
    }

    /// A mask as "ffffffff,00000003"; `None` also where it is empty.
    pub fn mask(&self, path: &str) -> Option<CpuSet> {
        mask(&self.text(path)?)
    }

    pub fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    /// The names in a directory, sorted, those with numbers by their number.
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort_by_key(|name| (number_in(name), name.clone()));
        names
    }

    pub fn folders(&self, path: &str) -> Vec<String> {
        let is_folder = |name: &String| self.root.join(path).join(name).is_dir();
        self.names(path).into_iter().filter(is_folder).collect()
    }
}

fn number_in(name: &str) -> u64 {
    let digits: String = name.chars().filter(char::is_ascii_digit).take(18).collect();
    digits.parse().unwrap_or_default()
}

/// Words of 32 bits, the highest first (lib/bitmap.c, %*pb).
pub fn mask(text: &str) -> Option<CpuSet> {
    let mut cpus = BTreeSet::new();
    for (word, digits) in text.trim().rsplit(',').enumerate() {
        let bits = u32::from_str_radix(digits, 16).ok()?;
        let first = u32::try_from(word).ok()?.checked_mul(u32::BITS)?;
        let set = (0..u32::BITS).filter(|bit| bits >> bit & 1 == 1);
        cpus.extend(set.filter_map(|bit| CpuId::new(first.checked_add(bit)?)));
    }
    CpuSet::new(cpus)
}

/// As the kernel writes it and takes it.
pub fn mask_text(cpus: &CpuSet) -> String {
    let mut words: Vec<u32> = Vec::new();
    for cpu in cpus.iter() {
        let word = cpu.number() as usize / 32;
        words.resize(words.len().max(word + 1), 0);
        words[word] |= 1 << (cpu.number() % 32);
    }
    let mut text = Vec::new();
    for word in words.iter().rev() {
        text.push(if text.is_empty() { format!("{word:x}") } else { format!("{word:08x}") });
    }
    text.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_mask_has_its_highest_word_first() {
        let set = |text: &str| mask(text).map(|cpus| cpus.to_string());
        assert_eq!(set("00000000,00000003"), Some("0-1".to_owned()));
        assert_eq!(set("00000001,80000000\n"), Some("31-32".to_owned()));
        assert_eq!([set("0"), set(""), set("x"), set("fffffffff")], [None, None, None, None]);
    }

    proptest! {
        #[test]
        fn what_is_written_as_a_mask_is_read_back(cpus in prop::collection::btree_set(0_u32..1024, 1..40)) {
            let cpus = CpuSet::new(cpus.into_iter().filter_map(CpuId::new).collect()).unwrap();
            prop_assert_eq!(mask(&mask_text(&cpus)), Some(cpus));
        }

        #[test]
        fn any_text_is_read_without_harm(text in "[0-9a-f,x \n]{0,80}") {
            let _ = mask(&text);
        }
    }

    #[test]
    fn absent_is_not_refused() {
        let (root, tree) = crate::check::facts::testing::files(&[("a/b1", "7\n")]);
        std::fs::create_dir(root.path().join("a/b0")).unwrap();
        assert_eq!((tree.said("a/b1").number(), tree.said("a/c")), (Some(7), Said::Absent));
        assert!(matches!(tree.said("a/b0"), Said::Refused(_)));
        assert_eq!((tree.names("a"), tree.folders("a")), (vec!["b0".into(), "b1".into()], vec!["b0".into()]));
    }
}
