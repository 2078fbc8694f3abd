//! Step 5: why the program was not run. Each is one line on stderr, and exit code 125; the README has the
//! same table.

/// What a shell and podman use for "the tool in front of the command failed".
pub const EXIT_CODE: i32 = 125;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    Usage,
    BadPlan,
    ReadAffinity,
    OtherCpus,
    MayGainPrivileges,
    FilterRefused,
    NotWatched,
    NotFound,
    PathDot,
    NoPermission,
    IsDirectory,
    Exec,
}

impl Failure {
    /// The text before and after the command's name, where one is named.
    pub fn text(self) -> (&'static str, &'static str) {
        match self {
            Failure::Usage => {
                ("this is quietcore's first program of a strict container; it is not run by hand", "")
            }
            Failure::BadPlan => (
                "the plan in argv[1] is not one of this version; the agent wrote it, or nobody should have",
                "",
            ),
            Failure::ReadAffinity => ("sched_getaffinity failed; does a seccomp profile deny it?", ""),
            Failure::OtherCpus => (
                "this thread may not run on exactly the granted CPUs; another component changed the cpuset",
                "",
            ),
            Failure::MayGainPrivileges => (
                "arming by prctl needs no_new_privs; set securityContext.allowPrivilegeEscalation: false",
                "",
            ),
            Failure::FilterRefused => {
                ("the kernel refused the seccomp filter; does a seccomp profile deny seccomp(2)?", "")
            }
            Failure::NotWatched => (
                "the alarm did not go off: the guard does not watch this thread; delete the pod and see the agent's log",
                "",
            ),
            Failure::NotFound => ("exec: \"", "\": executable file not found in $PATH"),
            Failure::PathDot => {
                ("exec: \"", "\": found only relative to the current directory; use an absolute path")
            }
            Failure::NoPermission => ("exec: \"", "\": permission denied"),
            Failure::IsDirectory => ("exec: \"", "\": is a directory"),
            Failure::Exec => {
                ("exec: \"", "\": the kernel could not start it (wrong format, or a missing interpreter)")
            }
        }
    }

    pub fn names_the_command(self) -> bool {
        !self.text().1.is_empty()
    }
}
