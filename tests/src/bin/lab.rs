//! `lab`: runs one command on a nohz_full kernel in qemu, prints what it printed, ends as it ended.
#![expect(clippy::print_stdout, reason = "its output is the command's")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};
use quietcore_tests::cache::Cache;
use quietcore_tests::lab::boot::{Boot, Isolcpus};
use quietcore_tests::lab::kernel::Kernel;
use quietcore_tests::lab::machine::{Ended, Machine};
use quietcore_tests::lab::node::Node;
use quietcore_tests::lab::root::Root;
use quietcore_tests::lab::suite::Suite;
use quietcore_tests::{interrupt, logs, packages, progress};

/// As timeout(1) says it.
const TIMED_OUT: u8 = 124;
const DIED: u8 = 125;

/// Runs a command on a machine with nohz_full cores (CPUs 1 to 3), in an emulator.
///
/// Exit status: the command's; 124 when its time was over; 125 when the machine went down or never ran.
#[derive(Parser, Debug)]
struct Arguments {
    /// A file to put there, with the libraries it loads if it is a program
    #[arg(long, value_name = "SOURCE:PATH")]
    file: Vec<String>,
    /// After this many seconds the machine is switched off
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    time: u32,
    /// Where /out and the serial ports (console, output, end) are written; without it they are kept after a
    /// failure only
    #[arg(long, value_name = "FOLDER")]
    out: Option<PathBuf>,
    /// Who keeps the scheduler off the isolated CPUs: the boot, or nobody until a cpuset partition does
    #[arg(long, value_enum, default_value_t)]
    isolcpus_boot: Isolcpus,
    /// A parameter of the kernel's command line, after the lab's own
    #[arg(long, value_name = "ARGUMENT", allow_hyphen_values = true)]
    kernel_arg: Vec<String>,
    /// Run the guard's tests, those of strict pods on a node, or a bench of such pods; what follows `--` are arguments
    /// for them
    #[arg(long, value_enum, value_name = "WHICH")]
    test: Option<Which>,
    /// Leave the kernel as it booted: nothing is set that keeps cores quiet. Always so on a node
    #[arg(long)]
    as_booted: bool,
    /// The command and its arguments, with paths in the lab
    #[arg(last = true, required_unless_present = "test")]
    command: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let status = interrupt::install().and_then(|()| run(&arguments)).unwrap_or_else(|error| {
        progress::say(&format!("lab: {error:#}"));
        DIED
    });
    ExitCode::from(status)
}

fn run(arguments: &Arguments) -> Result<u8> {
    packages::ensure(packages::LAB)?;
    let cache = Cache::open()?;
    let tests = arguments.test.map(|which| Tests::build(which, &cache)).transpose()?;
    let kernel = Kernel::get(&cache)?;
    let work = tempfile::tempdir().context("make a temporary folder")?;
    let image = work.path().join("root.img");
    progress::step("make the lab's root image", || {
        make_root(arguments, tests.as_ref(), &kernel, work.path())?.write(&image)
    })?;
    let folder = match &arguments.out {
        Some(folder) => folder.clone(),
        None => logs::new_folder(&format!("lab-{}", std::process::id()))?,
    };
    let boot = Boot {
        isolcpus: arguments.isolcpus_boot,
        as_booted: arguments.as_booted || arguments.test.is_some_and(|which| which != Which::Guard),
        arguments: arguments.kernel_arg.clone(),
    };
    let machine = Machine {
        kernel: &kernel,
        image: &image,
        boot: &boot,
        folder: folder.clone(),
        seconds: arguments.time,
    };
    let ended = progress::step("lab", || machine.run());
    let status = ended.as_ref().map_or(DIED, |ended| status_of(ended, arguments.time));
    print!("{}", machine.output().unwrap_or_default());
    if status != 0 {
        progress::say(&format!("lab: its serial ports and /out are in {}", folder.display()));
    } else if arguments.out.is_none() {
        fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    }
    ended.map(|_| status)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Which {
    /// On cores that the lab itself made quiet.
    Guard,
    /// The agent makes them quiet.
    Node,
    /// No test: what enters a core, whoever keeps it quiet. For `make bench-quiet`, which brings who counts.
    BenchQuiet,
}

enum Tests {
    Guard(Suite),
    Node(Node),
}

impl Tests {
    fn build(which: Which, cache: &Cache) -> Result<Tests> {
        progress::step("build the lab's tests", || match which {
            Which::Guard => Suite::build().map(Tests::Guard),
            Which::Node => Node::build_tests(cache).map(Tests::Node),
            Which::BenchQuiet => Node::build_bench(cache).map(Tests::Node),
        })
    }

    fn put(&self, root: &Root, work: &Path) -> Result<()> {
        match self {
            Tests::Guard(suite) => suite.put(root),
            Tests::Node(node) => node.put(root, work),
        }
    }

    fn command(&self, arguments: &[String]) -> Vec<String> {
        match self {
            Tests::Guard(suite) => suite.command(arguments),
            Tests::Node(node) => node.command(arguments),
        }
    }
}

fn make_root(arguments: &Arguments, tests: Option<&Tests>, kernel: &Kernel, work: &Path) -> Result<Root> {
    let root = Root::make(work.join("root"), kernel)?;
    for file in &arguments.file {
        let paths = file.split_once(':').filter(|(_, path)| path.starts_with('/'));
        let (source, path) = paths.with_context(|| format!("--file {file} is not SOURCE:/PATH"))?;
        root.program(source.as_ref(), path)?;
    }
    match tests {
        Some(tests) => {
            tests.put(&root, work)?;
            root.command(&tests.command(&arguments.command))?;
        }
        None => root.command(&arguments.command)?,
    }
    Ok(root)
}

fn status_of(ended: &Ended, seconds: u32) -> u8 {
    match ended {
        Ended::Command(status) => *status,
        Ended::TimedOut => {
            progress::say(&format!("lab: still running after {seconds} s"));
            TIMED_OUT
        }
        Ended::Died => {
            progress::say("lab: the machine went down before the command ended");
            DIED
        }
    }
}
