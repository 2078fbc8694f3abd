//! What a node's files say of its quietness: for each area what was read (`read`, IO) and what it means (`judge`,
//! pure). Nothing is loaded, tried or changed, so that an agent can look at any time.

pub mod interrupts;
pub mod kernel_work;
pub mod kubernetes;
pub mod machine;
pub mod memory;
pub mod power;
pub mod processes;
pub mod quota;
pub mod scheduler;
pub mod tree;

use std::path::Path;

use processes::Processes;
use tree::Tree;

use super::finding::Finding;
use crate::cores::set::CpuSet;

/// Everything about `cores` that can be known without BPF. `root` is /, or a tree like it.
pub fn look(root: &Path, cores: &CpuSet) -> Vec<Finding> {
    let tree = Tree::at(root);
    let processes = Processes::read(&tree);
    let online = tree.set(tree::ONLINE).unwrap_or_else(|| cores.clone());
    let asked = Asked { housekeeping: online.without(cores), cores: cores.clone() };
    let mut findings = machine::judge(&machine::read(&tree, cores));
    findings.extend(scheduler::judge(&scheduler::read(&tree, cores), &asked));
    findings.extend(quota::judge(&quota::read(&tree, cores)));
    findings.extend(kernel_work::judge(&kernel_work::read(&tree, &processes, cores), &asked));
    findings.extend(interrupts::judge(&interrupts::read(&tree, &processes), &asked));
    findings.extend(memory::judge(&memory::read(&tree)));
    findings.extend(power::judge(&power::read(&tree, cores), &asked));
    findings.extend(kubernetes::judge(&kubernetes::read(&tree, &processes), &asked));
    findings
}

/// What the facts are judged for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub cores: CpuSet,
    /// The other CPUs that are online. `None`: there is none.
    pub housekeeping: Option<CpuSet>,
}

impl Asked {
    /// As a list for a file that takes one.
    pub(super) fn others(&self) -> String {
        self.housekeeping.as_ref().map_or("0".to_owned(), ToString::to_string)
    }

    /// The cores that `list` does not hold.
    pub(super) fn outside(&self, list: Option<&CpuSet>) -> Option<CpuSet> {
        list.map_or_else(|| Some(self.cores.clone()), |list| self.cores.without(list))
    }

    /// The cores that `list` holds.
    pub(super) fn hit(&self, list: &CpuSet) -> Option<CpuSet> {
        CpuSet::new(self.cores.iter().filter(|cpu| list.contains(*cpu)).collect())
    }
}

/// The first few by name, the rest by their number.
pub(super) fn few(names: &[String]) -> String {
    const SHOWN: usize = 6;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
pub(super) mod testing {
    use std::{fs, path::Path};

    use super::{Asked, tree::Tree};
    use crate::check::finding::Finding;

    /// A tree with these files.
    pub(in crate::check) fn files(files: &[(&str, &str)]) -> (tempfile::TempDir, Tree) {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            write(root.path(), path, text);
        }
        let tree = Tree::at(root.path());
        (root, tree)
    }

    pub(in crate::check) fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::check) fn asked() -> Asked {
        Asked { cores: "1-3".parse().unwrap(), housekeeping: "0".parse().ok() }
    }

    pub(in crate::check) fn lines(findings: &[Finding]) -> String {
        let line = |finding: &Finding| {
            let Finding { item, state, found, remedy, .. } = finding;
            format!("{item}: {}: {found} -> {remedy}\n", state.name())
        };
        findings.iter().map(line).collect()
    }
}
