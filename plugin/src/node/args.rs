//! The flags of `quietcore node`.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::kubelet::CpuManager;
use crate::{args::Format, cores::set::CpuSet};

const PLAN: &str = "\
EXAMPLES
  quietcore node plan --isolate 2-15                what to boot with and why, and what the running kernel lacks
  quietcore node plan --isolate 2-15 -o kernel      the parameters alone, for a boot loader of one's own
  quietcore node plan --isolate 2-15 -o kubelet     for a file in the folder of `kubelet --config-dir`
  quietcore node plan --isolate 2-15 -o json | jq '.missing'

It changes nothing.";

const APPLY: &str = "\
EXAMPLES
  quietcore node apply --isolate 2-15 --dry-run     what would be written, and where
  quietcore node apply --isolate 2-15               write it; it holds from the next boot on
  quietcore node apply --isolate 2-15 --root /mnt   for a tree below /mnt that has this machine's /sys and /proc

BOOT LOADERS
  GRUB          /etc/default/grub.d/50-quietcore.cfg, then update-grub, grub-mkconfig or grub2-mkconfig
  grubby        every boot entry, and those of later kernels (Fedora, RHEL)
  systemd-boot  /etc/kernel/cmdline, then kernel-install for every kernel
With another one it fails, and prints what to add by hand.

The kubelet's configuration stays as it is: see `quietcore node plan -o kubelet`.";

const RESTORE: &str = "\
EXAMPLES
  quietcore node restore             undo what apply did; it holds from the next boot on
  quietcore node restore --dry-run

What an administrator wrote stays. A second time it finds nothing to do.";

const RELEASE: &str = "\
EXAMPLES
  quietcore node release             as root on the node, or in the agent's container
  quietcore node release --host-root /host

Where an agent serves the node, it does that itself: `helm uninstall` asks all of them, and for one node
  kubectl patch dataplanenode NODE --type merge -p '{\"spec\":{\"release\":true}}'
What `quietcore node apply` gave to the boot loader stays: see `quietcore node restore`.";

#[derive(Debug, Args)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: NodeCommand,
}

#[derive(Debug, Subcommand)]
pub enum NodeCommand {
    /// Print boot parameters and kubelet configuration for isolated cores, with reasons; change nothing.
    #[command(after_long_help = PLAN)]
    Plan(PlanArgs),
    /// Give the boot parameters of the plan to the boot loader.
    #[command(after_long_help = APPLY)]
    Apply(ApplyArgs),
    /// Undo what apply did.
    #[command(after_long_help = RESTORE)]
    Restore(RestoreArgs),
    /// Give a node back that no agent serves any more: its settings as they were, nothing pinned. Fails, and names them,
    /// while strict containers run.
    #[command(after_long_help = RELEASE)]
    Release(ReleaseArgs),
}

#[derive(Debug, Args)]
pub struct PlanArgs {
    /// CPUs that strict pods shall get, whole cores: 2-15
    #[arg(long, value_name = "LIST")]
    pub isolate: CpuSet,
    /// Housekeeping CPUs that the kubelet keeps for the system's services [default: the first core, unless it is the
    /// only one]
    #[arg(long, value_name = "LIST")]
    pub system: Option<CpuSet>,
    /// The kubelet's CPU manager policy
    #[arg(long, value_enum, value_name = "POLICY", default_value = "none")]
    pub cpu_manager: CpuManager,
    /// A table for people, one JSON object, the kernel's parameters alone, or the kubelet's configuration alone
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: PlanFormat,
    #[command(flatten)]
    pub tree: Tree,
}

#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// CPUs that strict pods shall get, whole cores: 2-15
    #[arg(long, value_name = "LIST")]
    pub isolate: CpuSet,
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// A table for people, or one JSON object
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
    #[command(flatten)]
    pub tree: Tree,
}

#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Say what would be done, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// A table for people, or one JSON object
    #[arg(short, long, value_enum, default_value = "text")]
    pub output: Format,
    #[command(flatten)]
    pub tree: Tree,
}

#[derive(Debug, Args)]
pub struct ReleaseArgs {
    /// The agent's
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quietcore")]
    pub state_dir: PathBuf,
    /// The agent's
    #[arg(long, value_name = "DIR", default_value = "/sys/fs/bpf/quietcore")]
    pub pin_dir: PathBuf,
    /// Where the host's /proc and /sys are, writable
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub host_root: PathBuf,
}

#[derive(Debug, Args)]
pub struct Tree {
    /// Work on the tree below DIR, which has the machine's /sys and /proc
    #[arg(long, value_name = "DIR", default_value = "/")]
    pub root: PathBuf,
    /// Where boot.json is kept, as seen from the root
    #[arg(long, value_name = "DIR", default_value = "/var/lib/quietcore")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PlanFormat {
    Text,
    Json,
    Kernel,
    Kubelet,
}
