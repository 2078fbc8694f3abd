//! Step 5: why the program was not run: one line on stderr, and exit code 125. Pure.
//!
//! The line comes from the first bytes of a container's log: it names what was asked for, and what to change.

use core::fmt::{self, Display, Write as _};

use crate::plan::CpuMask;

/// What a shell and podman use for "the tool in front of the command failed".
pub const EXIT_CODE: i32 = 125;

#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "made once, and there is no allocator")]
pub enum Failure {
    /// argv is not `shim PLAN -- COMMAND...`
    Usage,
    BadPlan,
    ReadAffinity(Errno),
    OtherCpus {
        allowed: CpuMask,
        planned: CpuMask,
    },
    Move {
        to: CpuMask,
        errno: Errno,
    },
    MayGainPrivileges,
    FilterRefused(Errno),
    NotWatched,
    NotInPath,
    /// PATH has the command, but nothing there may be executed.
    NoPermissionInPath,
    OnlyRelative,
    /// A command with a slash, which is not looked for in PATH.
    NotExecutable(Errno),
    Exec(Errno),
}

impl Failure {
    /// The line with its newline: one write(2), so that nothing of another process gets between.
    pub fn line(&self, command: &[u8]) -> Line {
        let mut line = Line { bytes: [0; Line::MAX], len: 0 };
        // Cannot fail: a line that is too long is cut.
        let _ = match self.about_the_command() {
            true => write!(line, "quietcore-shim: exec: \"{}\": {self}", Escaped(command)),
            false => write!(line, "quietcore-shim: {self}"),
        };
        line.bytes[line.len] = b'\n';
        line.len += 1;
        line
    }

    fn about_the_command(&self) -> bool {
        use Failure::{Exec, NoPermissionInPath, NotExecutable, NotInPath, OnlyRelative};
        matches!(self, NotInPath | NoPermissionInPath | OnlyRelative | NotExecutable(_) | Exec(_))
    }
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Failure::Usage => {
                "this is quietcore's first program of a strict container; it is not run by hand"
            }
            Failure::BadPlan => {
                "the plan in argv[1] is not one of this version; the agent wrote it, or nobody should have"
            }
            Failure::ReadAffinity(errno) => {
                return write!(f, "sched_getaffinity: {errno}; does a seccomp profile deny it?");
            }
            Failure::OtherCpus { allowed, planned } => {
                return write!(
                    f,
                    "this thread may run on CPUs {allowed}, its container's are {planned}; another component changed the cpuset"
                );
            }
            Failure::Move { to, errno } => {
                return write!(f, "sched_setaffinity to CPUs {to}: {errno}; does a seccomp profile deny it?");
            }
            Failure::MayGainPrivileges => {
                "arming by prctl needs no_new_privs; set securityContext.allowPrivilegeEscalation: false"
            }
            Failure::FilterRefused(errno) => {
                return write!(f, "seccomp filter: {errno}; does a seccomp profile deny seccomp(2)?");
            }
            Failure::NotWatched => {
                "the alarm did not go off: the guard does not watch this thread; delete the pod and see the agent's log"
            }
            Failure::NotInPath => "executable file not found in $PATH",
            Failure::NoPermissionInPath => "found in $PATH, but permission denied",
            Failure::OnlyRelative => {
                "found only relative to the current directory; use an absolute path"
            }
            Failure::Exec(Errno(Errno::ENOENT)) => {
                "no such file or directory: its interpreter or dynamic loader is not in the image"
            }
            Failure::NotExecutable(errno) | Failure::Exec(errno) => return errno.fmt(f),
        })
    }
}

/// Of errno-base.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    pub const EPERM: i32 = 1;
    pub const ENOENT: i32 = 2;
    pub const E2BIG: i32 = 7;
    pub const ENOEXEC: i32 = 8;
    pub const ENOMEM: i32 = 12;
    pub const EACCES: i32 = 13;
    pub const ENOTDIR: i32 = 20;
    pub const EISDIR: i32 = 21;
    pub const EINVAL: i32 = 22;
    pub const ETXTBSY: i32 = 26;
    pub const ENAMETOOLONG: i32 = 36;
    pub const ENOSYS: i32 = 38;
    pub const ELOOP: i32 = 40;
}

/// In the words of strerror(3), which runc's messages use too.
impl Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Errno::EPERM => "operation not permitted",
            Errno::ENOENT => "no such file or directory",
            Errno::E2BIG => "argument list too long",
            Errno::ENOEXEC => "exec format error",
            Errno::ENOMEM => "cannot allocate memory",
            Errno::EACCES => "permission denied",
            Errno::ENOTDIR => "not a directory",
            Errno::EISDIR => "is a directory",
            Errno::EINVAL => "invalid argument",
            Errno::ETXTBSY => "text file busy",
            Errno::ENAMETOOLONG => "file name too long",
            Errno::ENOSYS => "function not implemented",
            Errno::ELOOP => "too many levels of symbolic links",
            other => return write!(f, "errno {other}"),
        })
    }
}

/// The command is the pod's own text: what could end the line, or look like another one, is written as \xNN.
struct Escaped<'a>(&'a [u8]);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Enough to know it by, and the reason behind it still fits.
        for &byte in self.0.iter().take(256) {
            match byte {
                b'"' | b'\\' | 0..0x20 | 0x7f.. => write!(f, "\\x{byte:02x}")?,
                _ => f.write_char(char::from(byte))?,
            }
        }
        if 256 < self.0.len() { f.write_str("...") } else { Ok(()) }
    }
}

#[derive(Debug)]
pub struct Line {
    bytes: [u8; Line::MAX],
    len: usize,
}

impl Line {
    /// More than the longest message with 256 escaped bytes.
    const MAX: usize = 2048;

    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let room = Line::MAX - 1 - self.len; // 1: the newline
        let text = &text.as_bytes()[..text.len().min(room)];
        self.bytes[self.len..self.len + text.len()].copy_from_slice(text);
        self.len += text.len();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(failure: &Failure, command: &[u8], expect: &str) {
        let line = failure.line(command);
        assert_eq!(str::from_utf8(line.as_bytes()).unwrap(), format!("quietcore-shim: {expect}\n"));
    }

    #[test]
    fn the_cpus_are_named() {
        let cpus = |list: &[u8]| CpuMask::parse(list).unwrap();
        check(
            &Failure::OtherCpus { allowed: cpus(b"0-3,8"), planned: cpus(b"1") },
            b"app",
            "this thread may run on CPUs 0-3,8, its container's are 1; another component changed the cpuset",
        );
    }

    #[test]
    fn a_command_is_named_as_runc_names_it() {
        check(&Failure::NotInPath, b"app", r#"exec: "app": executable file not found in $PATH"#);
        let errno = |number| Failure::NotExecutable(Errno(number));
        check(&errno(Errno::ENOENT), b"/app", r#"exec: "/app": no such file or directory"#);
        check(&errno(Errno::EISDIR), b"/bin", r#"exec: "/bin": is a directory"#);
        check(&Failure::Exec(Errno(Errno::ENOEXEC)), b"/app", r#"exec: "/app": exec format error"#);
        check(&Failure::Exec(Errno(121)), b"/app", r#"exec: "/app": errno 121"#);
    }

    #[test]
    fn a_command_cannot_write_lines_of_its_own() {
        check(
            &Failure::NotInPath,
            b"a\nquietcore-shim: \"b\"\xff",
            r#"exec: "a\x0aquietcore-shim: \x22b\x22\xff": executable file not found in $PATH"#,
        );
    }

    #[test]
    fn a_long_command_is_cut_and_the_reason_still_there() {
        let shown = "\\x0a".repeat(256);
        let expect = format!("exec: \"{shown}...\": executable file not found in $PATH");
        check(&Failure::NotInPath, &[b'\n'; 5000], &expect);
    }
}
