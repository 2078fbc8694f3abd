//! The guard's tests, with those that only the lab has: a cargo test binary built here, and the C programs that it
//! runs there, where no compiler is.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::run;
use crate::lab::{node::built, root::Root};

/// The test that builds the programs, and prints where they are.
const BUILDS: &str = "its_programs_are_built";
const AT: &str = "/lab/tests";

#[derive(Debug)]
pub struct Suite {
    executable: PathBuf,
    programs: Vec<PathBuf>,
}

impl Suite {
    pub fn build() -> Result<Suite> {
        let executable = built(
            &["test", "--no-run", "-p", "quietcore", "--features", "kernel,lab", "--test", "guard"],
            "guard",
        )?;
        let printed = run(Command::new(&executable).args(["--exact", BUILDS, "--nocapture"]))?;
        // on a machine of one CPU the first line begins with the test's name
        let named = printed.lines().filter_map(|line| Some(line.split_once("program ")?.1));
        let programs: Vec<PathBuf> = named.map(PathBuf::from).collect();
        if programs.is_empty() {
            bail!("test {BUILDS} of {} named no program", executable.display());
        }
        Ok(Suite { executable, programs })
    }

    pub fn put(&self, root: &Root) -> Result<()> {
        root.program(&self.executable, AT)?;
        self.programs.iter().try_for_each(|program| root.program(program, &program.to_string_lossy()))
    }

    /// With what a person adds: a test's name, `--nocapture`.
    pub fn command(&self, arguments: &[String]) -> Vec<String> {
        let words = ["env", "QUIETCORE_PROGRAMS_ARE_BUILT=1", AT, "--test-threads=1"];
        words.into_iter().map(str::to_owned).chain(arguments.iter().cloned()).collect()
    }
}
