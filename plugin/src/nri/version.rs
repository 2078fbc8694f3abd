//! Step 4: which NRI a runtime has, and so what it can do for a strict pod. Pure.

use std::fmt;

/// `args` exists from here on; older runtimes drop the field as unknown, without a word, and would start the
/// container without the shim (containerd/nri v0.10.0, pkg/api/api.proto).
pub const WITH_ARGS: NriVersion = NriVersion { major: 0, minor: 10 };

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NriVersion {
    pub major: u32,
    pub minor: u32,
}

impl fmt::Display for NriVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// What Configure told of the runtime.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtime {
    pub name: String,
    pub version: String,
    /// `None`: a runtime that is neither old nor known, such as a build from a git commit.
    pub nri: Option<NriVersion>,
}

impl Runtime {
    /// `nri_version` is sent from NRI 0.12 on; before that the runtime's own version tells.
    pub fn new(name: &str, version: &str, nri_version: &str) -> Runtime {
        let nri = parse(nri_version).or_else(|| nri_of(name, parse(version)?));
        Runtime { name: name.to_owned(), version: version.to_owned(), nri }
    }

    /// Unknown counts as no: a container without its shim would not be strict.
    pub fn supports_args(&self) -> bool {
        self.nri.is_some_and(|nri| WITH_ARGS <= nri)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.name, self.version)?;
        match self.nri {
            Some(nri) => write!(f, " (NRI {nri})"),
            None => f.write_str(" (NRI of unknown version)"),
        }
    }
}

/// The NRI that go.mod of each release names.
fn nri_of(name: &str, runtime: NriVersion) -> Option<NriVersion> {
    let nri = |minor| Some(NriVersion { major: 0, minor });
    let at_least = |major, minor| NriVersion { major, minor } <= runtime;
    match name {
        // containerd 2.0.0 to 2.0.3 call themselves "v2" (containerd#11529).
        "containerd" | "v2" if at_least(2, 3) => nri(12),
        "containerd" | "v2" if at_least(2, 2) => nri(10),
        "containerd" | "v2" if at_least(2, 0) => nri(8),
        "containerd" | "v2" => nri(6),
        "cri-o" if at_least(1, 35) => nri(11),
        "cri-o" if at_least(1, 34) => nri(10),
        "cri-o" => nri(6),
        _ => None,
    }
}

/// "v2.1.5-k3s1", "2.2.1-0ubuntu1~24.04.2", "v0.12.0": the first two numbers. A git hash has no dot.
fn parse(text: &str) -> Option<NriVersion> {
    let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?;
    Some(NriVersion { major, minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(name: &str, version: &str, nri: &str, expect: &str, args: bool) {
        let runtime = Runtime::new(name, version, nri);
        assert_eq!((runtime.to_string().as_str(), runtime.supports_args()), (expect, args));
    }

    #[test]
    fn the_runtimes_version_tells_its_nri() {
        check("containerd", "v2.3.4", "v0.12.0", "containerd v2.3.4 (NRI 0.12)", true);
        check(
            "containerd",
            "2.2.1-0ubuntu1~24.04.2",
            "",
            "containerd 2.2.1-0ubuntu1~24.04.2 (NRI 0.10)",
            true,
        );
        check("containerd", "v2.1.5-k3s1", "", "containerd v2.1.5-k3s1 (NRI 0.8)", false);
        check("v2", "v2.0.2", "", "v2 v2.0.2 (NRI 0.8)", false);
        check("containerd", "1.7.24", "", "containerd 1.7.24 (NRI 0.6)", false);
        check("cri-o", "1.34.0", "", "cri-o 1.34.0 (NRI 0.10)", true);
        check("cri-o", "1.33.2", "", "cri-o 1.33.2 (NRI 0.6)", false);
    }

    #[test]
    fn what_nobody_can_tell_counts_as_too_old() {
        check("containerd", "301026e5", "", "containerd 301026e5 (NRI of unknown version)", false);
        check("mine", "9.9.9", "", "mine 9.9.9 (NRI of unknown version)", false);
        check("mine", "9.9.9", "v0.12.0", "mine 9.9.9 (NRI 0.12)", true);
    }
}
