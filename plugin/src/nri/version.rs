//! Step 4: which NRI a runtime has, and so what it can do for a strict pod. Pure.

use std::{fmt, time::Duration};

/// `args` exists from here on; older runtimes drop the field as unknown, without a word, and would start the
/// container without the shim (containerd/nri v0.10.0, pkg/api/api.proto).
pub const WITH_ARGS: NriVersion = NriVersion { major: 0, minor: 10 };

/// An older runtime refuses a plugin that subscribes ValidateContainerAdjustment ("invalid plugin events").
pub const WITH_VALIDATION: NriVersion = NriVersion { major: 0, minor: 10 };

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
    /// How long it waits for an answer.
    pub patience: Duration,
}

/// Where the runtime does not say (containerd/nri pkg/adaptation, `DefaultPluginRequestTimeout`).
const PATIENCE: Duration = Duration::from_secs(2);

impl Runtime {
    /// `nri_version` is sent from NRI 0.12 on; before that the runtime's own version tells.
    pub fn new(name: &str, version: &str, nri_version: &str) -> Runtime {
        let told = parse(nri_version).map(|(major, minor, _)| NriVersion { major, minor });
        let nri = told.or_else(|| nri_of(name, parse(version)?));
        Runtime { name: name.to_owned(), version: version.to_owned(), nri, patience: PATIENCE }
    }

    /// As Configure tells it; 0 is "not said".
    pub fn waiting(self, milliseconds: i64) -> Runtime {
        match u64::try_from(milliseconds) {
            Ok(0) | Err(_) => self,
            Ok(milliseconds) => Runtime { patience: Duration::from_millis(milliseconds), ..self },
        }
    }

    /// Unknown counts as no: a container without its shim would not be strict.
    pub fn supports_args(&self) -> bool {
        self.nri.is_some_and(|nri| WITH_ARGS <= nri)
    }

    /// Unknown counts as no: a runtime that does not know the event would refuse us as a whole.
    pub fn supports_validation(&self) -> bool {
        self.nri.is_some_and(|nri| WITH_VALIDATION <= nri)
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

type Release = (u32, u32, u32);

/// The first release of each runtime with an NRI 0.x, from its go.mod.
const CONTAINERD: [(Release, u32); 7] = [
    ((1, 7, 0), 3),
    ((1, 7, 7), 4),
    ((1, 7, 14), 6),
    ((1, 7, 26), 8),
    ((2, 2, 0), 10),
    ((2, 2, 1), 11),
    ((2, 3, 0), 12),
];
const CRI_O: [(Release, u32); 7] = [
    ((1, 26, 0), 3),
    ((1, 29, 0), 5),
    ((1, 29, 2), 6),
    ((1, 32, 0), 9),
    ((1, 34, 0), 10),
    ((1, 35, 0), 11),
    ((1, 37, 0), 12),
];

fn nri_of(name: &str, runtime: Release) -> Option<NriVersion> {
    let table = match name {
        // containerd 2.0.0 to 2.0.3 call themselves "v2" (containerd#11529).
        "containerd" | "v2" => CONTAINERD,
        "cri-o" => CRI_O,
        _ => return None,
    };
    let (_, minor) = table.into_iter().rfind(|(since, _)| *since <= runtime)?;
    Some(NriVersion { major: 0, minor })
}

/// "v2.1.5-k3s1", "2.2.1-0ubuntu1~24.04.2", "v0.12.0": the first three numbers. A git hash has no dot.
fn parse(text: &str) -> Option<Release> {
    let mut parts = text.strip_prefix('v').unwrap_or(text).splitn(3, '.');
    let mut number = || parts.next()?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok();
    let (major, minor) = (number()?, number()?);
    Some((major, minor, number().unwrap_or(0)))
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
            "containerd 2.2.1-0ubuntu1~24.04.2 (NRI 0.11)",
            true,
        );
        check("containerd", "v2.2.0", "", "containerd v2.2.0 (NRI 0.10)", true);
        check("containerd", "v2.1.5-k3s1", "", "containerd v2.1.5-k3s1 (NRI 0.8)", false);
        check("v2", "v2.0.2", "", "v2 v2.0.2 (NRI 0.8)", false);
        check("containerd", "1.7.24~ds1", "", "containerd 1.7.24~ds1 (NRI 0.6)", false);
        check("containerd", "1.7.34", "", "containerd 1.7.34 (NRI 0.8)", false);
        check("containerd", "v2.3.4", "", "containerd v2.3.4 (NRI 0.12)", true);
        check("containerd", "2.4.0", "v0.13.1", "containerd 2.4.0 (NRI 0.13)", true);
        check("cri-o", "1.34.0", "", "cri-o 1.34.0 (NRI 0.10)", true);
        check("cri-o", "1.33.2", "", "cri-o 1.33.2 (NRI 0.9)", false);
        check("cri-o", "1.37.0-dev", "", "cri-o 1.37.0-dev (NRI 0.12)", true);
    }

    #[test]
    fn what_nobody_can_tell_counts_as_too_old() {
        check("containerd", "301026e5", "", "containerd 301026e5 (NRI of unknown version)", false);
        check("containerd", "1.6.33", "", "containerd 1.6.33 (NRI of unknown version)", false);
        check("containerd", "2.3.4+unknown", "(devel)", "containerd 2.3.4+unknown (NRI 0.12)", true);
        check("containerd", "7", "", "containerd 7 (NRI of unknown version)", false);
        check("containerd", "v1.2e9", "", "containerd v1.2e9 (NRI of unknown version)", false);
        check("mine", "9.9.9", "", "mine 9.9.9 (NRI of unknown version)", false);
        check("mine", "9.9.9", "v0.12.0", "mine 9.9.9 (NRI 0.12)", true);
    }
}
