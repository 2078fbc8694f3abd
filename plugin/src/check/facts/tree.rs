//! Reads the small files of /proc and /sys below a root that a test can choose.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};

use crate::cores::{mask, set::CpuSet};

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

/// `None` also where it is empty.
pub fn mask(text: &str) -> Option<CpuSet> {
    CpuSet::new(mask::parse(text).ok()?)
}

/// As the kernel writes it and takes it.
pub fn mask_text(cpus: &CpuSet) -> String {
    mask::print(cpus.iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_without_a_cpu_is_none_as_one_that_cannot_be_read_is() {
        let set = |text: &str| mask(text).map(|cpus| cpus.to_string());
        assert_eq!(set("00000001,80000000\n"), Some("31-32".to_owned()));
        assert_eq!([set("0"), set(""), set("x")], [None, None, None]);
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
