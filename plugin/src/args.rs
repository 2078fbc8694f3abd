//! The command line. Each chart value is one flag; `agent::run` destructures them all, so a flag that nobody
//! uses does not compile.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    check::CheckArgs, cores::set::CpuSet, exec::args::ExecArgs, guard::detector::Allowed,
    node::args::NodeArgs,
};

/// Isolated CPU cores with a strict dataplane policy, and proof that it is kept.
#[derive(Debug, Parser)]
#[command(name = "quietcore", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node agent: NRI plugin, device plugin and guard.
    ///
    /// Needs root, or the capabilities that the chart's DaemonSet names with their reasons, and a kernel with BTF.
    Agent(Box<AgentArgs>),
    /// Ask nodes to let go: no cores published, nothing pinned. All of them, or none: fails, and names the pods, while
    /// strict pods run.
    Release(ReleaseArgs),
    /// Let a process go on that action Freeze stopped; run on its node, such as in the agent's container.
    ///
    /// Needs root, or CAP_BPF and CAP_KILL. A debugger may look at the process before: gdb -p, gcore.
    Resume(ResumeArgs),
    /// Run a command on a quiet core, and tell each of its kernel entries: like strace, without slowing what is quiet.
    ///
    /// Needs root, or CAP_BPF and CAP_PERFMON, and a kernel with BTF. Nothing else: no cluster, no agent, no bpffs.
    Exec(Box<ExecArgs>),
    /// What this kernel offers, what quietcore would use of it, and what to change.
    Check(CheckArgs),
    /// What to boot this machine with for quiet cores, and the kubelet's configuration for them.
    Node(NodeArgs),
    /// The process that becomes the command of `exec`.
    #[command(hide = true)]
    ExecChild {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Does nothing on one core, for `check --for` to look at.
    #[command(hide = true)]
    CheckSpinner {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Reads one binary on behalf of the agent, without capabilities.
    #[command(hide = true)]
    SymbolizeChild {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// CPUs that strict pods may get, in the kernel's list format: 2-15,18-31
    #[arg(long, value_name = "LIST", env = "QUIETCORE_ISOLATED_CPUS")]
    pub isolated_cpus: CpuSet,
    /// Which detectors this node may run
    #[arg(long, value_enum, value_name = "WHICH", default_value = "auto", env = "QUIETCORE_DETECTOR")]
    pub detector: Allowed,
    /// Where the ledger, the last accepted policies and the shim are kept, across restarts and reboots
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quietcore")]
    pub state_dir: PathBuf,
    /// Where the guard's programs and maps are pinned; must be on a bpffs
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore")]
    pub pin_dir: PathBuf,
    /// Where the host's /proc and /sys are, writable: settings that keep cores quiet are made there
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub host_root: PathBuf,
    /// The container runtime's NRI socket
    #[arg(long, value_name = "PATH", default_value = "/var/run/nri/nri.sock")]
    pub nri_socket: PathBuf,
    /// The kubelet's device plugin folder
    #[arg(long, value_name = "DIR", default_value = "/var/lib/kubelet/device-plugins")]
    pub kubelet_dir: PathBuf,
    /// Take policies from *.yaml files in DIR instead of the API server; violations are JSON lines on stdout
    #[arg(long, value_name = "DIR")]
    pub policy_dir: Option<PathBuf>,
    /// This node's name in the cluster
    #[arg(long, value_name = "NAME", env = "NODE_NAME", required_unless_present = "policy_dir")]
    pub node_name: Option<String>,
    /// The agent's own namespace
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = "quietcore-system")]
    pub namespace: String,
    /// Address of /healthz, /readyz and /metrics
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:9753")]
    pub listen: SocketAddr,
    /// For tests of a node: panic this long after the start
    #[arg(long, value_name = "TIME", env = "QUIETCORE_PANIC_AFTER", hide = true, value_parser = parse_timeout)]
    pub panic_after: Option<Duration>,
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// Every node of the cluster
    #[arg(long, required = true)]
    pub all_nodes: bool,
    /// Evict strict pods, as their PodDisruptionBudgets allow it, instead of failing while they run
    #[arg(long)]
    pub drain: bool,
    /// How long to wait for the agents, and for pods to be gone: 90s, 5m
    #[arg(long, value_name = "TIME", default_value = "120s", value_parser = parse_timeout)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
#[group(id = "which", required = true, multiple = false, args = ["pod", "pid", "all"])]
pub struct ResumeArgs {
    /// The pod, as NAME or NAMESPACE/NAME
    #[arg(value_name = "POD")]
    pub pod: Option<String>,
    /// One process, by its number where this runs
    #[arg(long)]
    pub pid: Option<i32>,
    /// Whatever is frozen on this node
    #[arg(long)]
    pub all: bool,
    /// The agent's
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quietcore")]
    pub state_dir: PathBuf,
    /// The agent's
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore")]
    pub pin_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

pub(crate) fn parse_timeout(text: &str) -> Result<Duration, String> {
    let error = || format!("{text:?} is not a time: expected one such as 500ms, 90s or 5m");
    let units = [("ms", 1), ("s", 1_000), ("m", 60_000)];
    let split = |(unit, millis)| text.strip_suffix(unit).map(|number| (number, millis));
    let (number, millis) = units.into_iter().find_map(split).ok_or_else(error)?;
    let number: u64 = number.parse().map_err(|_| error())?;
    number.checked_mul(millis).map(Duration::from_millis).ok_or_else(error)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn resume_is_told_whom_and_only_once() {
        let parses = |words: &[&str]| Cli::try_parse_from([&["quietcore", "resume"], words].concat()).is_ok();
        assert!(parses(&["a/p"]) && parses(&["--pid", "7"]) && parses(&["--all"]));
        assert!(!parses(&[]) && !parses(&["p", "--all"]) && !parses(&["--all", "--pid", "7"]));
    }

    #[test]
    fn timeouts_have_a_unit() {
        assert_eq!(parse_timeout("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse_timeout("5m"), Ok(Duration::from_secs(300)));
        for bad in ["", "5", "s", "-1s", "18446744073709551615m"] {
            assert!(parse_timeout(bad).is_err(), "{bad}");
        }
    }
}
