//! Step 8: lines of /proc/PID/maps (proc_pid_maps(5)). Pure.

use std::{ffi::OsString, os::unix::ffi::OsStringExt, path::PathBuf};

/// One executable mapping of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub start: u64,
    pub end: u64,
    /// Of `start`, in the file.
    pub offset: u64,
    /// "fd:00", as the kernel writes it.
    pub device: String,
    pub inode: u64,
    /// `None`: anonymous memory, a stack, [vdso].
    pub path: Option<PathBuf>,
}

impl Mapping {
    pub fn contains(&self, ip: u64) -> bool {
        (self.start..self.end).contains(&ip)
    }

    /// Where `ip` is in the mapped file. Never overflows: the kernel's offsets are below 2^63, ours are checked.
    pub fn file_offset(&self, ip: u64) -> Option<u64> {
        ip.checked_sub(self.start)?.checked_add(self.offset)
    }

    /// The last part of the path, as a person says it.
    pub fn module_name(&self) -> String {
        let name = self.path.as_deref().and_then(|path| path.file_name());
        name.map_or_else(|| "?".into(), |name| name.to_string_lossy().into_owned())
    }

    /// `None`: not executable, or not such a line.
    pub fn parse(line: &[u8]) -> Option<Mapping> {
        // "start-end perms offset dev inode          path": the path may hold spaces and any byte but LF.
        let mut fields = line.splitn(6, |b| *b == b' ');
        let mut text = || std::str::from_utf8(fields.next()?).ok();
        let (start, end) = text()?.split_once('-')?;
        let executable = text()?.as_bytes().get(2) == Some(&b'x');
        let offset = text()?;
        let (device, inode) = (text()?.to_owned(), text()?.parse::<u64>().ok()?);
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        let hex = |number| u64::from_str_radix(number, 16).ok();
        let mapping = Mapping {
            start: hex(start)?,
            end: hex(end)?,
            offset: hex(offset)?,
            device,
            inode,
            path: (inode != 0 && path.starts_with(b"/"))
                .then(|| PathBuf::from(OsString::from_vec(unescape(path)))),
        };
        executable.then_some(mapping)
    }
}

/// seq_file writes a line feed in a path as `\012`, and nothing else so.
fn unescape(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let Some((first, tail)) = rest.split_first() {
        if let Some(tail) = rest.strip_prefix(br"\012") {
            plain.push(b'\n');
            rest = tail;
        } else {
            plain.push(*first);
            rest = tail;
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(line: &str, expect: Expect) {
        let mapping = Mapping::parse(line.as_bytes());
        expect.assert_eq(
            &mapping.map_or("none".into(), |m| {
                format!("{:x}-{:x} at {:x} {:?}", m.start, m.end, m.offset, m.path)
            }),
        );
    }

    #[test]
    fn executable_mappings_of_files_have_a_path() {
        check(
            "55e0c0c01000-55e0c0c02000 r-xp 00001000 fd:00 1234                       /usr/bin/my l2fwd",
            expect![[r#"55e0c0c01000-55e0c0c02000 at 1000 Some("/usr/bin/my l2fwd")"#]],
        );
        check(
            r"00401000-00402000 r-xp 00001000 00:2b 99 /a\012b (deleted)",
            expect![[r#"401000-402000 at 1000 Some("/a\nb (deleted)")"#]],
        );
    }

    #[test]
    fn data_is_not_code() {
        check("55e0c0c00000-55e0c0c01000 rw-p 00000000 fd:00 1234   /usr/bin/l2fwd", expect!["none"]);
    }

    #[test]
    fn generated_code_and_the_vdso_have_no_path() {
        check(
            "7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ",
            expect!["7f0000000000-7f0000001000 at 0 None"],
        );
        check(
            "7fff00000000-7fff00002000 r-xp 00000000 00:00 0    [vdso]",
            expect!["7fff00000000-7fff00002000 at 0 None"],
        );
    }

    #[test]
    fn nonsense_is_no_mapping() {
        check("", expect!["none"]);
        check("zz-1 r-xp 0 0:0 1 /x", expect!["none"]);
        check("1-2 r", expect!["none"]);
    }

    proptest! {
        #[test]
        fn no_line_panics(line in any::<Vec<u8>>(), ip in any::<u64>()) {
            if let Some(mapping) = Mapping::parse(&line) {
                mapping.file_offset(ip);
            }
        }
    }
}
