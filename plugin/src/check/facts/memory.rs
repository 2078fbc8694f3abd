//! What the kernel does to memory behind a program's back.

use super::tree::{Said, Tree};
use crate::check::finding::{Finding, Group, Item, State};

pub const HUGE_PAGES_FILE: &str = "sys/kernel/mm/transparent_hugepage/enabled";
pub const KHUGEPAGED_DEFRAG: &str = "sys/kernel/mm/transparent_hugepage/khugepaged/defrag";
pub const KSM_RUN: &str = "sys/kernel/mm/ksm/run";
pub const NUMA_BALANCING_FILE: &str = "proc/sys/kernel/numa_balancing";
pub const COMPACTION_FILE: &str = "proc/sys/vm/compaction_proactiveness";

pub const HUGE_PAGES: Item = Item {
    group: Group::Memory,
    name: "transparent huge pages",
    why: "khugepaged has every CPU hand over its page lists (lru_add_drain_per_cpu), and flushes TLBs; programs in \
          Go ask for huge pages, so madvise is enough for it",
};
pub const KSM: Item = Item {
    group: Group::Memory,
    name: "same-page merging (KSM)",
    why: "ksmd has every CPU hand over its page lists, and a write to a merged page faults",
};
pub const NUMA_BALANCING: Item = Item {
    group: Group::Memory,
    name: "NUMA balancing",
    why: "it unmaps pages to see who uses them: page faults of a program that touches only its own memory",
};
pub const COMPACTION: Item = Item {
    group: Group::Memory,
    name: "proactive compaction",
    why: "kcompactd moves pages although nobody waits for it: page faults, and every CPU hands over its page lists",
};

#[derive(Debug)]
pub struct Facts {
    pub huge_pages: Said,
    pub khugepaged_defrag: Said,
    pub ksm: Said,
    pub numa_balancing: Said,
    pub compaction: Said,
}

pub fn read(tree: &Tree) -> Facts {
    Facts {
        huge_pages: tree.said(HUGE_PAGES_FILE),
        khugepaged_defrag: tree.said(KHUGEPAGED_DEFRAG),
        ksm: tree.said(KSM_RUN),
        numa_balancing: tree.said(NUMA_BALANCING_FILE),
        compaction: tree.said(COMPACTION_FILE),
    }
}

pub fn judge(facts: &Facts) -> Vec<Finding> {
    let off = |item: &Item, said: &Said, remedy: &str| match said {
        Said::Text(value) => {
            let found = if value == "0" { "off".to_owned() } else { value.clone() };
            item.good_or_missing(value == "0", found, remedy)
        }
        Said::Absent | Said::Refused(_) => item.not_here("this kernel has none"),
    };
    vec![
        huge_pages(facts),
        match facts.ksm.text() {
            Some("1") => KSM.is(State::Missing, "ksmd runs", KSM_REMEDY),
            Some(_) => KSM.is(State::Good, "ksmd does not run", KSM_REMEDY),
            None => KSM.not_here("this kernel has none"),
        },
        off(&NUMA_BALANCING, &facts.numa_balancing, "sysctl kernel.numa_balancing=0"),
        off(&COMPACTION, &facts.compaction, "sysctl vm.compaction_proactiveness=0"),
    ]
}

const KSM_REMEDY: &str = "echo 0 > /sys/kernel/mm/ksm/run";

/// The word in brackets is in force.
fn huge_pages(facts: &Facts) -> Finding {
    let remedy = format!("echo never > /{HUGE_PAGES_FILE}, or boot with transparent_hugepage=never");
    match &facts.huge_pages {
        Said::Text(choices) => {
            let chosen =
                choices.split_ascii_whitespace().find_map(|word| word.strip_prefix('[')?.strip_suffix(']'));
            let chosen = chosen.unwrap_or(choices);
            let defrag = match (chosen, facts.khugepaged_defrag.text()) {
                ("never", _) | (_, None) => "",
                (_, Some("0")) => ", khugepaged without compaction",
                (_, Some(_)) => ", khugepaged with compaction",
            };
            HUGE_PAGES.good_or_missing(chosen == "never", format!("{chosen}{defrag}"), remedy)
        }
        Said::Absent | Said::Refused(_) => HUGE_PAGES.not_here("this kernel has none"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;
    use crate::check::facts::testing::{files, lines};

    #[track_caller]
    fn check(tree: &[(&str, &str)], expect: Expect) {
        let (_root, tree) = files(tree);
        expect.assert_eq(&lines(&judge(&read(&tree))));
    }

    #[test]
    fn what_moves_pages_is_told_with_its_switch() {
        check(
            &[
                (HUGE_PAGES_FILE, "always [madvise] never\n"),
                (KHUGEPAGED_DEFRAG, "1\n"),
                (KSM_RUN, "1\n"),
                (NUMA_BALANCING_FILE, "1\n"),
                (COMPACTION_FILE, "20\n"),
            ],
            expect![[r#"
                transparent huge pages: missing: madvise, khugepaged with compaction -> echo never > /sys/kernel/mm/transparent_hugepage/enabled, or boot with transparent_hugepage=never
                same-page merging (KSM): missing: ksmd runs -> echo 0 > /sys/kernel/mm/ksm/run
                NUMA balancing: missing: 1 -> sysctl kernel.numa_balancing=0
                proactive compaction: missing: 20 -> sysctl vm.compaction_proactiveness=0
            "#]],
        );
    }

    #[test]
    fn what_is_off_is_good_and_what_is_absent_is_not_here() {
        check(
            &[(HUGE_PAGES_FILE, "always madvise [never]\n"), (KSM_RUN, "2\n"), (COMPACTION_FILE, "0\n")],
            expect![[r#"
                transparent huge pages: good: never -> echo never > /sys/kernel/mm/transparent_hugepage/enabled, or boot with transparent_hugepage=never
                same-page merging (KSM): good: ksmd does not run -> echo 0 > /sys/kernel/mm/ksm/run
                NUMA balancing: not here: this kernel has none -> nothing needs to change
                proactive compaction: good: off -> sysctl vm.compaction_proactiveness=0
            "#]],
        );
    }
}
