//! May we do this at all? Said before anything is changed, by the names that setcap(8) takes.

use rustix::thread::{CapabilitySet, capabilities};

#[derive(Debug, thiserror::Error)]
#[error(
    "quietcore exec needs {missing}: run it with sudo, or give the binary what it needs: setcap \
     cap_bpf,cap_perfmon,cap_sys_ptrace+ep quietcore"
)]
pub struct Unprivileged {
    missing: String,
}

/// The capabilities without which a guard cannot be loaded. CAP_SYS_ADMIN stands for both (capabilities(7)).
pub fn missing(effective: CapabilitySet) -> Vec<&'static str> {
    let needed = [("CAP_BPF", CapabilitySet::BPF), ("CAP_PERFMON", CapabilitySet::PERFMON)];
    let has = |capability| effective.intersects(capability | CapabilitySet::SYS_ADMIN);
    needed.into_iter().filter(|(_, capability)| !has(*capability)).map(|(name, _)| name).collect()
}

pub fn effective() -> CapabilitySet {
    // Cannot fail for ourselves (capget(2)); if it did, the guard's own error would tell.
    capabilities(None).map_or(CapabilitySet::all(), |sets| sets.effective)
}

pub fn check() -> Result<(), Unprivileged> {
    match missing(effective()) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(Unprivileged { missing: missing.join(" and ") }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_missing_capability_is_named_and_sys_admin_stands_for_both() {
        assert_eq!(missing(CapabilitySet::empty()), ["CAP_BPF", "CAP_PERFMON"]);
        assert_eq!(missing(CapabilitySet::BPF), ["CAP_PERFMON"]);
        assert!(missing(CapabilitySet::SYS_ADMIN).is_empty());
        assert!(missing(CapabilitySet::BPF | CapabilitySet::PERFMON).is_empty());
    }
}
