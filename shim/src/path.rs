//! Step 5: finds the command as the runtime would have: Go's exec.LookPath, which runc calls with the
//! container's own environment. Pure: the caller says what a candidate is.

use crate::failure::{Errno, Failure};

pub const MAX_PATH: usize = 4096; // PATH_MAX, with its NUL

/// Why a candidate is not it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Obstacle {
    /// stat(2) failed.
    NotThere(Errno),
    /// A directory, or a file that this user may not execute.
    IsThere(Errno),
}

/// A NUL-terminated path.
#[derive(Debug, Clone)]
pub struct Found {
    bytes: [u8; MAX_PATH],
    len: usize,
}

/// `path` is the value of PATH: of several in the environment the last, as runc does it (libcontainer/env.go).
/// `look` says whether this user may execute the file, like findExecutable of os/exec.
pub fn find(
    command: &[u8],
    path: &[u8],
    look: impl Fn(&Found) -> Result<(), Obstacle>,
) -> Result<Found, Failure> {
    if command.contains(&b'/') {
        let found = Found::new(&[command]).ok_or(Failure::NotExecutable(Errno(Errno::ENAMETOOLONG)))?;
        return match look(&found) {
            Ok(()) => Ok(found),
            Err(Obstacle::NotThere(errno) | Obstacle::IsThere(errno)) => Err(Failure::NotExecutable(errno)),
        };
    }
    if matches!(command, b"" | b"." | b"..") || path.is_empty() {
        return Err(Failure::NotInPath);
    }
    let mut failure = Failure::NotInPath;
    for folder in path.split(|&byte| byte == b':') {
        let absolute = folder.starts_with(b"/");
        let Some(found) = (if absolute { join(folder, command) } else { join_relative(folder, command) })
        else {
            continue;
        };
        match look(&found) {
            Ok(()) if absolute => return Ok(found),
            // Go finds it, and refuses to run it (exec.ErrDot).
            Ok(()) => return Err(Failure::OnlyRelative),
            // LookPath goes on and tells nothing of this; we do, when nothing better comes.
            Err(Obstacle::IsThere(Errno(Errno::EACCES))) => failure = Failure::NoPermissionInPath,
            Err(_) => {}
        }
    }
    Err(failure)
}

/// filepath.Join, which also cleans: a script sees the result as its $0. `None`: longer than the kernel takes.
fn join(folder: &[u8], command: &[u8]) -> Option<Found> {
    let mut found = Found::new(&[])?;
    for part in folder.split(|&byte| byte == b'/').chain([command]) {
        match part {
            b"" | b"." => {}
            b".." => found.pop(),
            _ => {
                found.push(b"/")?;
                found.push(part)?;
            }
        }
    }
    Some(found)
}

/// Only to see whether it is there. An empty element is the current directory.
fn join_relative(folder: &[u8], command: &[u8]) -> Option<Found> {
    let folder = if folder.is_empty() { b"." } else { folder };
    Found::new(&[folder, b"/", command])
}

impl Found {
    fn new(parts: &[&[u8]]) -> Option<Found> {
        let mut found = Found { bytes: [0; MAX_PATH], len: 0 };
        for part in parts {
            found.push(part)?;
        }
        Some(found)
    }

    fn push(&mut self, part: &[u8]) -> Option<()> {
        let end = self.len + part.len();
        *self.bytes.get_mut(end)? = 0;
        self.bytes[self.len..end].copy_from_slice(part);
        self.len = end;
        Some(())
    }

    fn pop(&mut self) {
        self.len = self.bytes[..self.len].iter().rposition(|&byte| byte == b'/').unwrap_or(0);
        self.bytes[self.len] = 0;
    }

    pub fn as_bytes_with_nul(&self) -> &[u8] {
        &self.bytes[..=self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERMISSION: Errno = Errno(Errno::EACCES);
    const DIRECTORY: Errno = Errno(Errno::EISDIR);
    const MISSING: Errno = Errno(Errno::ENOENT);

    #[track_caller]
    fn check(command: &str, path: &str, expect: Result<&str, Failure>) {
        let found =
            find(command.as_bytes(), path.as_bytes(), |candidate| match candidate.as_bytes_with_nul() {
                b"/bin/app\0" | b"./app\0" | b"rel/app\0" | b"/app\0" => Ok(()),
                b"/bin/data\0" => Err(Obstacle::IsThere(PERMISSION)),
                b"/bin\0" | b"/usr/app\0" => Err(Obstacle::IsThere(DIRECTORY)),
                b"/root/app\0" => Err(Obstacle::NotThere(PERMISSION)),
                _ => Err(Obstacle::NotThere(MISSING)),
            });
        let found = found.map(|found| String::from_utf8(found.as_bytes_with_nul().to_vec()).unwrap());
        assert_eq!(found, expect.map(|path| format!("{path}\0")));
    }

    #[test]
    fn a_command_with_a_slash_is_taken_as_it_is() {
        check("/bin/app", "", Ok("/bin/app"));
        check("rel/app", "/bin", Ok("rel/app"));
        check("/nope", "/bin", Err(Failure::NotExecutable(MISSING)));
        check("/bin/data", "", Err(Failure::NotExecutable(PERMISSION)));
        check("/bin", "", Err(Failure::NotExecutable(DIRECTORY)));
    }

    #[test]
    fn path_is_searched_in_order_and_only_executables_count() {
        check("app", "/usr:/bin", Ok("/bin/app"));
        check("app", "/nope:/bin", Ok("/bin/app"));
        check("app", "/usr", Err(Failure::NotInPath));
        check("app", "", Err(Failure::NotInPath));
        check("", "/bin", Err(Failure::NotInPath));
        check("..", "/bin", Err(Failure::NotInPath));
    }

    #[test]
    fn a_command_that_is_there_but_not_executable_is_told_as_that() {
        check("data", "/bin:/usr", Err(Failure::NoPermissionInPath));
        // A folder that cannot be searched says nothing about the command.
        check("app", "/root", Err(Failure::NotInPath));
    }

    #[test]
    fn the_path_is_cleaned_as_go_does_it() {
        check("app", "/bin/", Ok("/bin/app"));
        check("app", "//usr/./..//bin", Ok("/bin/app"));
        check("app", "/../..", Ok("/app"));
        check("app", "/", Ok("/app"));
    }

    #[test]
    fn the_current_directory_is_never_used_by_accident() {
        check("app", ":/bin", Err(Failure::OnlyRelative));
        check("app", "rel", Err(Failure::OnlyRelative));
        check("other", ":rel:.", Err(Failure::NotInPath));
    }

    #[test]
    fn a_path_too_long_for_the_kernel_is_not_found() {
        check(&"x".repeat(MAX_PATH), "/bin", Err(Failure::NotInPath));
        let long = format!("/{}", "x".repeat(MAX_PATH));
        check(&long, "", Err(Failure::NotExecutable(Errno(Errno::ENAMETOOLONG))));
        let fits = format!("/{}", "x".repeat(MAX_PATH - 2));
        check(&fits, "", Err(Failure::NotExecutable(MISSING)));
    }
}
