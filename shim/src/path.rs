//! Step 5: finds the command as the runtime would have: Go's exec.LookPath, which runc calls with the
//! container's own environment. Pure: the caller says what a candidate is.

use crate::failure::Failure;

pub const MAX_PATH: usize = 4096; // PATH_MAX, with its NUL

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Candidate {
    Executable,
    Missing,
    NoPermission,
    Directory,
}

/// A NUL-terminated path.
#[derive(Debug, Clone)]
pub struct Found {
    bytes: [u8; MAX_PATH],
}

impl Found {
    pub fn as_bytes_with_nul(&self) -> &[u8] {
        let end = self.bytes.iter().position(|&byte| byte == 0).unwrap_or(MAX_PATH - 1);
        &self.bytes[..=end]
    }
}

/// `path` is the value of PATH: of several in the environment the last, as Go's os.Setenv in a row leaves it.
pub fn find(command: &[u8], path: &[u8], look: impl Fn(&Found) -> Candidate) -> Result<Found, Failure> {
    if command.contains(&b'/') {
        let found = join(b"", command).ok_or(Failure::NotFound)?;
        return match look(&found) {
            Candidate::Executable => Ok(found),
            Candidate::Missing => Err(Failure::NotFound),
            Candidate::NoPermission => Err(Failure::NoPermission),
            Candidate::Directory => Err(Failure::IsDirectory),
        };
    }
    if command.is_empty() || path.is_empty() {
        return Err(Failure::NotFound);
    }
    for folder in path.split(|&byte| byte == b':') {
        // An empty element is the current directory; Go finds a program there, and refuses to run it.
        let folder = if folder.is_empty() { b"." } else { folder };
        let Some(found) = join(folder, command) else { continue };
        if look(&found) == Candidate::Executable {
            return if folder.starts_with(b"/") { Ok(found) } else { Err(Failure::PathDot) };
        }
    }
    Err(Failure::NotFound)
}

fn join(folder: &[u8], command: &[u8]) -> Option<Found> {
    let mut bytes = [0; MAX_PATH];
    let separator: &[u8] = if folder.is_empty() { b"" } else { b"/" };
    let mut end = 0;
    for part in [folder, separator, command] {
        // The last byte stays 0.
        bytes[..MAX_PATH - 1].get_mut(end..end + part.len())?.copy_from_slice(part);
        end += part.len();
    }
    Some(Found { bytes })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(command: &str, path: &str, expect: Result<&str, Failure>) {
        let found =
            find(command.as_bytes(), path.as_bytes(), |candidate| match candidate.as_bytes_with_nul() {
                b"/bin/app\0" | b"./app\0" | b"rel/app\0" => Candidate::Executable,
                b"/bin/data\0" => Candidate::NoPermission,
                b"/bin\0" | b"/usr/app\0" => Candidate::Directory,
                _ => Candidate::Missing,
            });
        let found = found.map(|found| String::from_utf8(found.as_bytes_with_nul().to_vec()).unwrap());
        assert_eq!(found, expect.map(|path| format!("{path}\0")));
    }

    #[test]
    fn a_command_with_a_slash_is_taken_as_it_is() {
        check("/bin/app", "", Ok("/bin/app"));
        check("rel/app", "/bin", Ok("rel/app"));
        check("/nope", "/bin", Err(Failure::NotFound));
        check("/bin/data", "", Err(Failure::NoPermission));
        check("/bin", "", Err(Failure::IsDirectory));
    }

    #[test]
    fn path_is_searched_in_order_and_only_executables_count() {
        check("app", "/usr:/bin", Ok("/bin/app"));
        check("data", "/bin", Err(Failure::NotFound));
        check("app", "", Err(Failure::NotFound));
        check("", "/bin", Err(Failure::NotFound));
    }

    #[test]
    fn the_current_directory_is_never_used_by_accident() {
        check("app", ":/bin", Err(Failure::PathDot));
        check("app", "rel", Err(Failure::PathDot));
    }

    #[test]
    fn a_path_too_long_for_the_kernel_is_not_found() {
        check(&"x".repeat(MAX_PATH), "/bin", Err(Failure::NotFound));
        check(&format!("/{}", "x".repeat(MAX_PATH)), "", Err(Failure::NotFound));
    }
}
