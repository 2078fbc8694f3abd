//! Step 4b: at StartContainer, is what the runtime made what we asked for?
//!
//! The runtime's init process exists and waits; nothing of the pod has run. Pure: `facts` are read by the
//! gate. Every refusal tells the pod's owner, or the node's, what to change.

use quietcore_proto::nri::Container;

use super::adjust::TRIPWIRE;
use crate::{
    arm::plan::{Provider, SHIM_PATH},
    cores::set::CpuSet,
    policy::effective::Effective,
};

/// What the kernel says about the container's init, from /proc/PID/status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InitFacts {
    pub allowed_cpus: CpuSet,
    pub no_new_privs: bool,
    /// CAP_SYS_ADMIN in the effective set: seccomp(2) then needs no no_new_privs.
    pub sys_admin: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyRefusal {
    #[error(
        "the runtime did not put quietcore's shim in front of the command: it needs NRI 0.10 or newer \
         (containerd >= 2.2, CRI-O >= 1.34)"
    )]
    NoShim,
    #[error(
        "the runtime changed the shim's plan: another NRI plugin or hook rewrites `args`; remove it from this node"
    )]
    OtherPlan,
    #[error(
        "the runtime left the tripwire mount in place: another NRI plugin restores it; remove it from this node"
    )]
    TripwireLeft,
    #[error(
        "the container may run on CPUs {found}, not on exactly those it was given, {given}: another component sets \
         cpusets on this node (CPU manager policy, another NRI plugin); let only one of them do it"
    )]
    OtherCpus { found: CpuSet, given: CpuSet },
    #[error(
        "arming by prctl needs no_new_privs: set securityContext.allowPrivilegeEscalation: false in the \
         container, or arm.at: Exec in its policy"
    )]
    MayGainPrivileges,
}

/// `given`: all that its cpuset was to hold, granted and shared.
pub fn verify(
    container: &Container,
    plan: &str,
    given: &CpuSet,
    policy: &Effective,
    provider: Provider,
    facts: &InitFacts,
) -> Result<(), VerifyRefusal> {
    match container.args.as_slice() {
        [shim, found, separator, ..] if shim == SHIM_PATH && separator == "--" => {
            if found != plan {
                return Err(VerifyRefusal::OtherPlan);
            }
        }
        _ => return Err(VerifyRefusal::NoShim),
    }
    if container.mounts.iter().any(|mount| mount.destination == TRIPWIRE) {
        return Err(VerifyRefusal::TripwireLeft);
    }
    if facts.allowed_cpus != *given {
        return Err(VerifyRefusal::OtherCpus { found: facts.allowed_cpus.clone(), given: given.clone() });
    }
    if provider.needs_filter(policy) && !facts.no_new_privs && !facts.sys_admin {
        return Err(VerifyRefusal::MayGainPrivileges);
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("/proc/PID/status has no usable line {0}")]
pub struct MissingFact(&'static str);

const CAP_SYS_ADMIN: u32 = 21; // include/uapi/linux/capability.h

/// Reads the lines of proc_pid_status(5) that `verify` needs.
pub fn init_facts(status: &str) -> Result<InitFacts, MissingFact> {
    let line = |name: &'static str| {
        let found = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        found.map(str::trim).ok_or(MissingFact(name))
    };
    let capabilities = u64::from_str_radix(line("CapEff")?, 16).map_err(|_| MissingFact("CapEff"))?;
    Ok(InitFacts {
        allowed_cpus: line("Cpus_allowed_list")?.parse().map_err(|_| MissingFact("Cpus_allowed_list"))?,
        no_new_privs: line("NoNewPrivs")? == "1",
        sys_admin: capabilities & (1 << CAP_SYS_ADMIN) != 0,
    })
}

#[cfg(test)]
mod tests {
    use quietcore_proto::nri::Mount;

    use super::*;
    use crate::policy::{accept::node_default, effective::ArmAt};

    const PLAN: &str = "v2 cpus=1";

    fn status(cpus: &str, no_new_privs: &str, capabilities: &str) -> String {
        format!(
            "Name:\trunc\nCapEff:\t{capabilities}\nNoNewPrivs:\t{no_new_privs}\nCpus_allowed_list:\t{cpus}\n"
        )
    }

    #[track_caller]
    fn check(
        args: &[&str],
        mount: Option<&str>,
        status: &str,
        arm_at: ArmAt,
        expect: Result<(), VerifyRefusal>,
    ) {
        let container = Container {
            args: args.iter().map(|&arg| arg.to_owned()).collect(),
            mounts: mount
                .map(|to| Mount { destination: to.to_owned(), ..Mount::default() })
                .into_iter()
                .collect(),
            ..Container::default()
        };
        let policy = Effective { enforce: true, arm_at, ..node_default() };
        let facts = init_facts(status).unwrap();
        let given = "1".parse().unwrap();
        assert_eq!(verify(&container, PLAN, &given, &policy, Provider::Seccomp, &facts), expect);
    }

    const GOOD: [&str; 4] = [SHIM_PATH, PLAN, "--", "/app"];

    #[test]
    fn what_we_asked_for_may_start() {
        check(&GOOD, None, &status("1", "1", "0"), ArmAt::Prctl, Ok(()));
    }

    #[test]
    fn a_missing_or_changed_shim_is_refused() {
        check(&["/app"], None, &status("1", "1", "0"), ArmAt::Prctl, Err(VerifyRefusal::NoShim));
        check(&[], None, &status("1", "1", "0"), ArmAt::Prctl, Err(VerifyRefusal::NoShim));
        let other = [SHIM_PATH, "v2 cpus=0", "--", "/app"];
        check(&other, None, &status("1", "1", "0"), ArmAt::Prctl, Err(VerifyRefusal::OtherPlan));
    }

    #[test]
    fn a_tripwire_that_came_back_is_refused() {
        check(&GOOD, Some(TRIPWIRE), &status("1", "1", "0"), ArmAt::Prctl, Err(VerifyRefusal::TripwireLeft));
    }

    #[test]
    fn another_cpuset_is_refused_by_name() {
        let refusal = VerifyRefusal::OtherCpus { found: "0-1".parse().unwrap(), given: "1".parse().unwrap() };
        check(&GOOD, None, &status("0-1", "1", "0"), ArmAt::Prctl, Err(refusal));
        let refusal = VerifyRefusal::OtherCpus { found: "0".parse().unwrap(), given: "1".parse().unwrap() };
        check(&GOOD, None, &status("0", "1", "0"), ArmAt::Prctl, Err(refusal));
    }

    #[test]
    fn a_filter_needs_no_new_privs_or_cap_sys_admin() {
        check(&GOOD, None, &status("1", "0", "0"), ArmAt::Prctl, Err(VerifyRefusal::MayGainPrivileges));
        check(&GOOD, None, &status("1", "0", "200000"), ArmAt::Prctl, Ok(()));
        check(&GOOD, None, &status("1", "0", "0"), ArmAt::Exec, Ok(()));
    }

    #[test]
    fn a_status_without_a_line_is_an_error_that_names_it() {
        assert_eq!(init_facts("Name: x\n"), Err(MissingFact("CapEff")));
    }
}
