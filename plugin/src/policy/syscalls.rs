//! Step 2: system calls of the native x86-64 ABI by name. Pure.
//!
//! `syscalls_x86_64.txt` is Linux's arch/x86/entry/syscalls/syscall_64.tbl as the C headers carry it; a call
//! newer than the table is named by its number.

const TABLE: &str = include_str!("syscalls_x86_64.txt");

fn entries() -> impl Iterator<Item = (&'static str, u16)> {
    TABLE.lines().filter_map(|line| {
        let (name, number) = line.split_once(' ')?;
        Some((name, number.parse().ok()?))
    })
}

pub fn number(name: &str) -> Option<u16> {
    entries().find(|(known, _)| *known == name).map(|(_, number)| number)
}

pub fn name(number: u64) -> Option<&'static str> {
    entries().find(|(_, known)| u64::from(*known) == number).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::guard::abi::QC_SYSCALLS;

    #[test]
    fn the_table_is_whole() {
        assert_eq!(entries().count(), TABLE.lines().count());
        assert_eq!(
            (number("read"), number("prctl"), number("clock_gettime")),
            (Some(0), Some(157), Some(228))
        );
        assert_eq!((name(1), name(9999)), (Some("write"), None));
    }

    /// An `except` list is a bitmap of the guard: what it cannot hold would be accepted and ignored.
    #[test]
    fn the_guard_has_a_bit_for_every_call() {
        assert!(entries().all(|(_, number)| u32::from(number) < QC_SYSCALLS));
    }

    #[test]
    fn the_table_agrees_with_the_kernels_header() {
        let header = std::fs::read_to_string("/usr/include/x86_64-linux-gnu/asm/unistd_64.h").unwrap();
        let calls: Vec<(&str, u16)> = header
            .lines()
            .filter_map(|line| line.strip_prefix("#define __NR_")?.split_once(' '))
            .map(|(name, number)| (name, number.trim().parse().unwrap()))
            .collect();
        assert!(300 < calls.len());
        // Newer headers may know more calls; none of them may disagree about one.
        for (name, known) in entries() {
            assert!(calls.iter().all(|(call, at)| (*call == name) == (*at == known)), "{name} {known}");
        }
    }
}
