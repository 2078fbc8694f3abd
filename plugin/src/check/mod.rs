//! `quietcore check`: what this kernel offers the guard, before anything is installed. Facts are read first
//! (probe), then judged (findings, pure), then told (print). It changes nothing, and beside strict pods it attaches
//! nothing.

mod findings;
pub mod measure;
mod print;
mod probe;

use std::{
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use measure::candidates::{self, InUse};

use crate::{
    args::{Format, parse_timeout},
    cores::set::CpuSet,
    guard::pins,
};

const ABOUT: &str = "\
EXAMPLES
  quietcore check                    the isolated CPUs, else those in nohz_full, else all but the first
  quietcore check --cpu 2-15         the cores that strict pods shall get
  quietcore check -o json | jq -r .verdict.detector

STATES
  good      there, and used
  missing   strict pods run less well without it, or not at all: see the remedy
  not here  this machine does not have it, and nothing needs it
  unknown   the file that tells could not be read

EXIT STATUS
  0  strict pods run as asked, with the better detector (Edge) and a provider with the exact errno (Native, Lsm)
  1  they run, with something that is not as good: the verdict says what and why
  2  they cannot run, or the question could not be answered

Whether a BPF LSM program answers the prctl is tried out, which takes root, and is left out while strict pods run.";

#[derive(Debug, clap::Args)]
#[command(after_long_help = ABOUT)]
pub struct CheckArgs {
    /// The cores that strict pods shall get: 2-15 [default: the isolated CPUs, else those in nohz_full, else all
    /// but the first]
    #[arg(long, value_name = "LIST")]
    pub cpu: Option<CpuSet>,
    /// Measure for this long, too, what enters each of them while a program there does nothing: 10s, 1m
    #[arg(long = "for", value_name = "TIME", value_parser = parse_timeout)]
    pub time: Option<Duration>,
    /// Measure also while strict containers run on other cores: to attach the guard's programs enters every core
    #[arg(long, requires = "time")]
    pub beside_strict_pods: bool,
    /// Where an agent pins the guard
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore")]
    pub pin_dir: PathBuf,
    /// A table for people, or one JSON object
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

pub fn run(args: &CheckArgs) -> ExitCode {
    let measured = args.time.map(|time| {
        let cores = args.cpu.clone().unwrap();
        let in_use = InUse::read(Path::new("/proc"), &cores, pins::granted(&args.pin_dir).unwrap());
        let (chosen, left_out) = candidates::choose(&cores, &in_use, args.beside_strict_pods);
        (left_out, measure::measure(&chosen.unwrap(), None, time).unwrap())
    });
    eprintln!("{}", serde_json::to_string_pretty(&measured).unwrap());
    let facts = match probe::read(Path::new("/"), &args.pin_dir, args.cpu.as_ref()) {
        Ok(facts) => facts,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(io::stderr(), "quietcore: {error}");
            return ExitCode::from(findings::Grade::Cannot.status());
        }
    };
    let report = findings::judge(&facts);
    let told = match args.output {
        Format::Text => Ok(print::table(&report)),
        Format::Json => serde_json::to_string_pretty(&report).map(|json| json + "\n"),
    };
    let written = told.map_err(io::Error::from).and_then(|text| io::stdout().write_all(text.as_bytes()));
    match written {
        Ok(()) => ExitCode::from(report.verdict.grade.status()),
        Err(_closed) => ExitCode::from(findings::Grade::Cannot.status()),
    }
}
