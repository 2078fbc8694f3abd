//! `quietcore check`: what this node offers, what is good of it and what is not, and what to do. Facts are read first
//! and judged then; with `--for` what enters its quiet cores is measured, too. It changes no setting, and without
//! `--for` it attaches nothing for longer than a blink, beside strict pods nothing at all.
//!
//! ```text
//!  probe ─► detecting ─┐
//!  facts/* ────────────┴─► findings ◄─ blame ◄─ measure (--for)
//!                              └─► verdict, print
//! ```

mod blame;
mod detecting;
pub mod facts;
pub mod finding;
pub mod measure;
mod print;
mod probe;

use std::{
    error::Error,
    io::{self, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use serde::Serialize;

use detecting::{Grade, Verdict};
use finding::Finding;
use measure::{
    Measured,
    candidates::{self, InUse, LeftOut},
};

use crate::{
    args::{Format, parse_timeout},
    cores::{
        set::CpuSet,
        topology::{Topology, TopologyError},
    },
    guard::{load::GuardError, pins},
};

const ABOUT: &str = "\
EXAMPLES
  quietcore check                    the isolated CPUs, else those in nohz_full, else all but the first
  quietcore check --cpu 2-15         the cores that strict pods shall get
  quietcore check --for 10s          and what enters each of them, by cause, while a program does nothing there
  quietcore check -o json | jq -r .verdict.detector

STATES
  good      there, and used
  missing   strict pods run less well without it, or not at all: see the remedy
  not here  this machine does not have it, and nothing needs it
  unknown   the file that tells could not be read

MEASURING
  --for TIME puts a loop on each core that nobody uses, watched by a guard that is attached for this and gone
  afterwards. Cores that are granted, or where a program runs that may run nowhere else, are left out by name. No
  setting is changed. Entries a minute beside an item are what it lets into the core that has most of it; they are
  put down to the first thing behind them that is not as it should be.

JSON
  {\"cores\", \"findings\": [{\"group\", \"item\", \"state\": \"good\" | \"missing\" | \"notHere\" | \"unknown\", \"found\", \"why\",
   \"remedy\", \"entriesPerMinute\"}], \"verdict\": {\"grade\", \"detector\", \"provider\", \"reasons\"},
   \"measured\": [{\"cpu\", \"seconds\", \"entriesPerMinute\": {CLASS: n}, \"causes\": [{\"cause\", \"class\", \"perMinute\"}]}],
   \"leftOut\": [{\"cpus\", \"why\"}]}

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
    /// Measure also while strict pods run on other cores, although to attach the guard's programs enters theirs
    #[arg(long, requires = "time")]
    pub beside_strict_pods: bool,
    /// Where an agent pins the guard
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore")]
    pub pin_dir: PathBuf,
    /// A table for people, or one JSON object
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
}

#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Topology(#[from] TopologyError),
    #[error("look for an agent's grants")]
    Granted(#[from] GuardError),
    #[error("no CPU is isolated or in nohz_full: name those to measure by --cpu")]
    NothingIsQuiet,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Report {
    cores: String,
    findings: Vec<Finding>,
    verdict: Verdict,
    measured: Vec<Measured>,
    left_out: Vec<LeftOut>,
}

/// Everything about `cores` that can be known without BPF, and without touching them: for an agent, at any time.
/// `root` is /, or a tree like it.
pub fn look(root: &Path, cores: &CpuSet) -> Vec<Finding> {
    facts::look(root, cores)
}

pub fn run(args: &CheckArgs) -> ExitCode {
    let report = match check(args) {
        Ok(report) => report,
        Err(error) => {
            // Nobody is left to tell when stderr is closed.
            let _ = writeln!(io::stderr(), "quietcore: {}", with_causes(&error));
            return ExitCode::from(Grade::Cannot.status());
        }
    };
    let told = match args.output {
        Format::Text => Ok(print::table(&report)),
        Format::Json => serde_json::to_string_pretty(&report).map(|json| json + "\n"),
    };
    let written = told.map_err(io::Error::from).and_then(|text| io::stdout().write_all(text.as_bytes()));
    match written {
        Ok(()) => ExitCode::from(report.verdict.grade.status()),
        Err(_closed) => ExitCode::from(Grade::Cannot.status()),
    }
}

fn check(args: &CheckArgs) -> Result<Report, CheckError> {
    let root = Path::new("/");
    let topology = Topology::read(&root.join("sys"))?;
    let (cores, is_quiet) = probe::cores(root, &topology, args.cpu.as_ref());
    topology.can_isolate(&cores)?;
    if args.time.is_some() && !is_quiet {
        return Err(CheckError::NothingIsQuiet);
    }
    let (mut measured, mut left_out) = (Vec::new(), Vec::new());
    // First: what the look at the kernel attaches and detaches would still be cleaned up meanwhile.
    if let Some(time) = args.time {
        let in_use = InUse::read(&root.join("proc"), &cores, pins::granted(&args.pin_dir)?);
        let (chosen, others) = candidates::choose(&cores, &in_use, args.beside_strict_pods);
        left_out = others;
        if let Some(chosen) = chosen {
            match measure::measure(&chosen, topology.nohz_full.as_ref(), time) {
                Ok(told) => measured = told,
                Err(error) => left_out.push(LeftOut { cpus: chosen, why: with_causes(&error) }),
            }
        }
    }
    let facts = probe::read(root, &args.pin_dir, &topology, &cores);
    let mut findings = detecting::judge(&facts);
    findings.extend(look(root, &cores));
    // Within its group each keeps its place.
    findings.sort_by_key(|finding| finding.group);
    blame::put_down(&measured, &mut findings);
    let verdict = detecting::verdict(&facts);
    Ok(Report { cores: cores.to_string(), findings, verdict, measured, left_out })
}

fn with_causes(error: &dyn Error) -> String {
    let (mut text, mut cause) = (error.to_string(), error.source());
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
