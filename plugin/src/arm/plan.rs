//! Step 6: the shim's plan, the one argument it is told everything by.
//!
//! Pure. `shim/src/plan.rs` reads what this writes; e2e tests hold the two together.

use crate::{
    cores::set::CpuSet,
    policy::effective::{ArmAt, Effective},
};

/// Where the shim lies inside a strict container.
pub const SHIM_PATH: &str = "/.quietcore/shim";

/// Who answers the prctl. Which one a node uses is decided once, at agent start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// A seccomp filter that the shim adds. It needs no_new_privs.
    Seccomp,
}

/// A program that is armed by its exec never makes the prctl itself, so it needs no one to answer it.
pub fn filter_needed(policy: &Effective) -> bool {
    policy.arm_at == ArmAt::Prctl
}

pub fn shim_plan(cpus: &CpuSet, policy: &Effective, provider: Provider) -> String {
    let provider = match provider {
        Provider::Seccomp if filter_needed(policy) => "seccomp",
        Provider::Seccomp => "none",
    };
    let arm = match policy.arm_at {
        ArmAt::Prctl => "prctl",
        ArmAt::Exec => "exec",
    };
    let locked = if policy.locked { "yes" } else { "no" };
    format!("v1 cpus={cpus} provider={provider} arm={arm} locked={locked}")
}
