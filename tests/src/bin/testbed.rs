//! `testbed`: starts a cluster, runs a command in it, and takes everything down again whatever happens.
#![expect(clippy::print_stdout, reason = "its output is for the shell that called it")]

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use quietcore_tests::cluster::Cluster;
use quietcore_tests::command::watch;
use quietcore_tests::image::Image;
use quietcore_tests::kube::KEEP_VARIABLE;
use quietcore_tests::testbed::{ENGINE_VARIABLE, NAME_VARIABLE};
use quietcore_tests::{interrupt, logs, progress};

/// The name that the chart's values of development have.
const AGENT_IMAGE: &str = "localhost/quietcore:dev";

/// A real Kubernetes cluster on this machine, for tests and for people.
#[derive(Parser, Debug)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Start a cluster and leave it running; prints how to reach it
    Up {
        /// The cluster's name
        #[arg(long, env = "QUIETCORE_CLUSTER", default_value = "quietcore")]
        name: String,
        #[command(flatten)]
        options: Options,
    },
    /// Remove a cluster
    Down {
        /// The cluster's name
        #[arg(long, env = "QUIETCORE_CLUSTER", default_value = "quietcore")]
        name: String,
    },
    /// Start a cluster, run a command with KUBECONFIG set, remove the cluster
    Run {
        // another default than `up`: a test run must not take away the cluster that somebody works with
        /// The cluster's name
        #[arg(long, env = "QUIETCORE_RUN_CLUSTER", default_value = "quietcore-run")]
        name: String,
        #[command(flatten)]
        options: Options,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
    /// Make an image of the agent's binary and load it into a running cluster
    Image {
        /// The cluster's name
        #[arg(long, env = "QUIETCORE_CLUSTER", default_value = "quietcore")]
        name: String,
        /// The image's name in the cluster
        #[arg(long, default_value = AGENT_IMAGE)]
        tag: String,
        /// A static program
        binary: PathBuf,
    },
}

#[derive(Args, Debug)]
struct Options {
    /// One control plane, the others are workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=8))]
    nodes: u8,
    /// The agent's binary, loaded as localhost/quietcore:dev
    #[arg(long)]
    agent: Option<PathBuf>,
    /// Leave the cluster as it is after a failure
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = interrupt::install().and_then(|()| match &arguments.verb {
        Verb::Up { name, options } => up(name, options),
        Verb::Down { name } => down(name),
        Verb::Run { name, options, command } => run_in_cluster(name, options, command),
        Verb::Image { name, tag, binary } => {
            load_image(&Cluster::named(name)?, tag, binary)?;
            Ok(ExitCode::SUCCESS)
        }
    });
    result.unwrap_or_else(|error| {
        progress::say(&format!("testbed: {error:#}"));
        ExitCode::FAILURE
    })
}

fn up(name: &str, options: &Options) -> Result<ExitCode> {
    let cluster = Cluster::named(name)?;
    let _claim = cluster.claim()?;
    if !cluster.is_up(options.nodes.into())
        && let Err(error) = cluster.up(options.nodes.into())
    {
        clean_up(&cluster, false, options.keep)?;
        return Err(error);
    }
    load_agent(&cluster, options)?;
    for (variable, value) in variables(&cluster) {
        println!("export {variable}={value}");
    }
    Ok(ExitCode::SUCCESS)
}

fn down(name: &str) -> Result<ExitCode> {
    let cluster = Cluster::named(name)?;
    let _claim = cluster.claim()?;
    cluster.down()?;
    Ok(ExitCode::SUCCESS)
}

fn run_in_cluster(name: &str, options: &Options, words: &[String]) -> Result<ExitCode> {
    let cluster = Cluster::named(name)?;
    let _claim = cluster.claim()?;
    let start = || cluster.up(options.nodes.into()).and_then(|()| load_agent(&cluster, options));
    let outcome = start().and_then(|()| {
        let [program, arguments @ ..] = words else { bail!("no command to run") };
        let mut command = Command::new(program);
        command.args(arguments).envs(variables(&cluster)).env("PATH", path_with_tools(&cluster));
        if options.keep {
            command.env(KEEP_VARIABLE, "1");
        }
        watch(&mut command)
    });
    let succeeded = matches!(&outcome, Ok(status) if status.success()) && !interrupt::was_interrupted();
    clean_up(&cluster, succeeded, options.keep)?;
    let status = outcome?;
    if succeeded {
        return Ok(ExitCode::SUCCESS);
    }
    progress::say(&format!("testbed: `{}` ended with {status}", words.join(" ")));
    let code = status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0);
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

/// The end of every run. After a failure the logs stay, and with `--keep` the cluster does.
fn clean_up(cluster: &Cluster, succeeded: bool, keep: bool) -> Result<()> {
    interrupt::shield();
    if !succeeded {
        let folder = progress::step("keep the logs", || logs::keep(cluster))?;
        progress::say(&format!("logs of the cluster are in {}", folder.display()));
        if keep {
            progress::say(&format!(
                "cluster {} is still up; `testbed down --name {0}` removes it",
                cluster.name
            ));
            return Ok(());
        }
    }
    cluster.down()
}

fn load_agent(cluster: &Cluster, options: &Options) -> Result<()> {
    options.agent.as_deref().map_or(Ok(()), |binary| load_image(cluster, AGENT_IMAGE, binary))
}

fn load_image(cluster: &Cluster, tag: &str, binary: &Path) -> Result<()> {
    let folder = tempfile::tempdir().context("make a temporary folder")?;
    let archive = folder.path().join("image.tar");
    Image::new(tag).file(binary, "/quietcore").entrypoint(&["/quietcore"]).write(&archive)?;
    cluster.load_image(&archive)
}

/// What a command needs to find the cluster, and to be root on its nodes.
fn variables(cluster: &Cluster) -> [(&'static str, String); 3] {
    [
        ("KUBECONFIG", cluster.kubeconfig.display().to_string()),
        (NAME_VARIABLE, cluster.name.clone()),
        (ENGINE_VARIABLE, cluster.engine.name().to_owned()),
    ]
}

fn path_with_tools(cluster: &Cluster) -> String {
    let path = std::env::var("PATH").unwrap_or_default();
    format!("{}:{path}", cluster.tools.folder().display())
}
