//! `quietcore node`: what a machine must be booted with, so that the agent can make cores quiet at run time. Beside
//! the nine steps: it runs before there is a pod, and the agent asks it one thing, whether a reboot is outstanding.
//!
//! Facts are read (facts), judged (plan, kubelet: pure) and told (print); apply gives them to the boot loader and
//! remembers in boot.json what it did. Nothing of that touches the running kernel: that is the agent's, and of release
//! where no agent is left.

pub mod args;
mod error;
mod cmdline;
mod facts;
mod plan;
mod kubelet;
mod boot_loader;
mod grub;
mod grubby;
mod systemd_boot;
mod state;
mod tools;
mod apply;
mod print;
mod release;
#[cfg(test)]
mod tests;

use std::{
    io::{self, Write},
    path::Path,
};

use serde::Serialize;

use self::{
    apply::{Outcome, Place},
    args::{ApplyArgs, NodeArgs, NodeCommand, PlanArgs, PlanFormat, RestoreArgs, Tree},
    boot_loader::within,
    kubelet::CpuManager,
    tools::InRoot,
};
pub use self::{error::NodeError, plan::Missing};
use crate::args::Format;

pub fn run(args: &NodeArgs, out: &mut impl Write) -> Result<(), NodeError> {
    let text = match &args.command {
        NodeCommand::Plan(args) => plan(args)?,
        NodeCommand::Apply(args) => apply(args)?,
        NodeCommand::Restore(args) => restore(args)?,
        NodeCommand::Release(args) => release::release(args)?,
    };
    out.write_all(text.as_bytes()).map_err(NodeError::Print)
}

/// The boot parameters that were applied and that the running kernel does not have. Empty where nothing was applied,
/// and where the next boot would bring nothing new.
///
/// `root` is /, or a tree with the machine's /sys and /proc.
pub fn reboot_required(state_dir: &Path, root: &Path) -> Result<Vec<Missing>, NodeError> {
    let path = state::path(state_dir);
    let Some(applied) = state::read(&path)? else { return Ok(Vec::new()) };
    let running = facts::running(root)?;
    let settings = applied.settings(&path)?;
    let needed = settings.iter().filter(|setting| plan::needs(setting) == plan::Needs::Boot);
    Ok(needed.filter_map(|setting| plan::not_in_force(setting, &running)).collect())
}

fn plan(args: &PlanArgs) -> Result<String, NodeError> {
    let PlanArgs { isolate, system, cpu_manager, output, tree: Tree { root, state_dir } } = args;
    let facts = facts::read(root, isolate)?;
    if let Some(system) = system {
        facts.can_be_systems(system)?;
    }
    let mut plan = plan::make(&facts, *cpu_manager, system.as_ref());
    // A state that cannot be read is an error of apply and restore: a plan needs none.
    if let Ok(Some(applied)) = state::read(&state::path(&within(root, state_dir))) {
        let same = plan.settings().map(ToString::to_string).eq(applied.parameters);
        plan.applied = applied.finished && same;
    }
    match output {
        PlanFormat::Text => Ok(print::plan(&plan)),
        PlanFormat::Json => json(&plan),
        PlanFormat::Kernel => Ok(plan.command_line() + "\n"),
        PlanFormat::Kubelet => Ok(kubelet::yaml(&plan.kubelet)),
    }
}

fn apply(args: &ApplyArgs) -> Result<String, NodeError> {
    let ApplyArgs { isolate, dry_run, output, tree: Tree { root, state_dir } } = args;
    let facts = facts::read(root, isolate)?;
    let plan = plan::make(&facts, CpuManager::None, None);
    let tools = InRoot { root };
    let place = Place { root, state: state::path(&within(root, state_dir)), tools: &tools };
    told(&place.apply(plan, facts.running.last, *dry_run)?, *output)
}

fn restore(args: &RestoreArgs) -> Result<String, NodeError> {
    let RestoreArgs { dry_run, output, tree: Tree { root, state_dir } } = args;
    let tools = InRoot { root };
    let place = Place { root, state: state::path(&within(root, state_dir)), tools: &tools };
    told(&place.restore(*dry_run)?, *output)
}

fn told(outcome: &Outcome, format: Format) -> Result<String, NodeError> {
    match format {
        Format::Text => Ok(print::outcome(outcome)),
        Format::Json => json(outcome),
    }
}

fn json(value: &impl Serialize) -> Result<String, NodeError> {
    let text = serde_json::to_string_pretty(value).map_err(io::Error::from).map_err(NodeError::Print)?;
    Ok(text + "\n")
}
