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

    #[test]
    fn the_table_is_whole() {
        assert_eq!(entries().count(), TABLE.lines().count());
        assert_eq!(
            (number("read"), number("prctl"), number("clock_gettime")),
            (Some(0), Some(157), Some(228))
        );
        assert_eq!((name(1), name(9999)), (Some("write"), None));
    }
}
