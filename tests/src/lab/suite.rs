//! The guard's tests, with those that only the lab has: a cargo test binary built here, and the C programs that it
//! runs there, where no compiler is.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::command::run;
use crate::lab::root::Root;

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
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
        let mut build = Command::new(cargo);
        build.args(["test", "--no-run", "--quiet", "--message-format=json-render-diagnostics"]);
        build.args(["-p", "quietcore", "--features", "kernel,lab", "--test", "guard"]);
        let messages = run(&mut build)?;
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let tests = messages.filter(|message| message["target"]["name"] == "guard");
        let executable =
            tests.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
        let executable = executable.context("cargo built no test `guard`")?;
        let printed = run(Command::new(&executable).args(["--exact", BUILDS, "--nocapture"]))?;
        let programs: Vec<PathBuf> =
            printed.lines().filter_map(|line| line.strip_prefix("program ")).map(PathBuf::from).collect();
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
