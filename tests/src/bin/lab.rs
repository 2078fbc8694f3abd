//! `lab`: runs one command on a nohz_full kernel in qemu, prints what it printed, ends as it ended.
#![expect(clippy::print_stdout, reason = "its output is the command's")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use quietcore_tests::cache::Cache;
use quietcore_tests::lab::kernel::Kernel;
use quietcore_tests::lab::machine::{Ended, Machine};
use quietcore_tests::lab::root::Root;
use quietcore_tests::lab::suite::Suite;
use quietcore_tests::{interrupt, packages, progress};

/// Runs a command on a machine with nohz_full cores (CPUs 1 to 3), in an emulator.
///
/// Exit status: the command's; 124 when its time was over; 125 when the machine went down.
#[derive(Parser, Debug)]
struct Arguments {
    /// A file to put there, with the libraries it loads if it is a program
    #[arg(long, value_name = "SOURCE:PATH")]
    file: Vec<String>,
    /// After this many seconds the machine is switched off
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    time: u32,
    /// Where its serial ports are written: console, output, end
    #[arg(long, value_name = "FOLDER", default_value = "target/lab")]
    out: PathBuf,
    /// Run the guard's lab tests; what follows `--` are arguments for them
    #[arg(long)]
    test: bool,
    /// The command and its arguments, with paths in the lab
    #[arg(last = true, required_unless_present = "test")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match interrupt::install().and_then(|()| run(&arguments)) {
        Ok(Ended::Command(status)) => return ExitCode::from(status),
        Ok(Ended::TimedOut) => {
            progress::say(&format!("lab: still running after {} s", arguments.time));
            return ExitCode::from(124);
        }
        Ok(Ended::Died) => {
            progress::say(&format!(
                "lab: the machine went down; see {}",
                arguments.out.join("console").display()
            ));
        }
        Err(error) => progress::say(&format!("lab: {error:#}")),
    }
    ExitCode::from(125)
}

fn run(arguments: &Arguments) -> Result<Ended> {
    packages::ensure(packages::LAB)?;
    let suite = arguments.test.then(|| progress::step("build the lab's tests", Suite::build)).transpose()?;
    let kernel = Kernel::get(&Cache::open()?)?;
    let work = tempfile::tempdir().context("make a temporary folder")?;
    let image = work.path().join("root.img");
    progress::step("make the lab's root image", || {
        let root = Root::make(work.path().join("root"), &kernel)?;
        for file in &arguments.file {
            let (source, path) = file.split_once(':').context("--file is SOURCE:PATH")?;
            root.program(source.as_ref(), path)?;
        }
        match &suite {
            Some(suite) => {
                suite.put(&root)?;
                root.command(&suite.command(&arguments.command))?;
            }
            None => root.command(&arguments.command)?,
        }
        root.write(&image)
    })?;
    let machine =
        Machine { kernel: &kernel, image: &image, folder: arguments.out.clone(), seconds: arguments.time };
    let ended = progress::step("lab", || machine.run())?;
    print!("{}", machine.output()?);
    Ok(ended)
}
