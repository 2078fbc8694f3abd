//! The facts, each read and none judged. One is tried out: whether a BPF LSM program answers, unless strict pods
//! run here, whose cores attaching it would enter.

use std::{fs, path::Path};

use libbpf_rs::btf::{
    Btf,
    types::{Func, Typedef},
};
use nix::libc;

use super::{
    detecting::{Facts, Lsm},
    facts::{scheduler, tree::Tree},
    with_causes,
};
use crate::{
    cores::{set::CpuSet, topology::Topology},
    guard::{
        detector::Detector, kernel_answers_prctl, load::GuardError, lsm_answers, pins, support::Kernel,
        tracepoints::GROUPS,
    },
};

/// The cores that are asked about, and whether somebody named them, or the boot.
pub(super) fn cores(root: &Path, topology: &Topology, asked: Option<&CpuSet>) -> (CpuSet, bool) {
    let isolated = scheduler::isolated(&Tree::at(root));
    let quiet = asked.or(isolated.as_ref()).or(topology.nohz_full.as_ref());
    match quiet {
        Some(quiet) => (quiet.clone(), true),
        None => (all_but_the_first_core(topology), false),
    }
}

/// `root` is /, or a tree like it.
pub(super) fn read(root: &Path, pins: &Path, topology: &Topology, cores: &CpuSet) -> Facts {
    let sys = root.join("sys");
    let btf = Btf::from_vmlinux().ok();
    let has_type = |name: &str| {
        btf.as_ref()
            .is_some_and(|btf| btf.type_by_name::<Typedef<'_>>(&format!("btf_trace_{name}")).is_some())
    };
    let has_function =
        |name: &str| btf.as_ref().is_some_and(|btf| btf.type_by_name::<Func<'_>>(name).is_some());
    let absent = GROUPS.iter().flat_map(|group| group.tracepoints).copied().filter(|name| !has_type(name));
    let security = sys.join("kernel/security");
    Facts {
        nohz_full: topology.nohz_full.clone(),
        isolated: scheduler::isolated(&Tree::at(root)),
        absent_tracepoints: absent.collect(),
        ring_buffer: has_function("bpf_ringbuf_reserve"),
        task_storage: has_function("bpf_task_storage_get"),
        lsm: lsm(cores, topology.nohz_full.as_ref(), pins),
        signal_task: has_function("bpf_send_signal_task"),
        signal_thread: has_function("bpf_send_signal_thread"),
        native_errno: kernel_answers_prctl().err().map(|error| error.raw_os_error().unwrap_or_default()),
        bpffs: is_a(&sys.join("fs/bpf"), libc::BPF_FS_MAGIC),
        lockdown: words(&security.join("lockdown")),
        btf: btf.is_some(),
        cores: cores.clone(),
    }
}

fn lsm(cores: &CpuSet, nohz_full: Option<&CpuSet>, pins_dir: &Path) -> Lsm {
    let tried = || {
        let kernel = Kernel::probe().map_err(GuardError::from)?;
        lsm_answers(Detector::choose(&kernel, cores, nohz_full), cores)
    };
    match pins::granted(pins_dir) {
        Ok(None) => match tried() {
            Ok(true) => Lsm::Answers,
            Ok(false) => Lsm::Silent,
            Err(error) => Lsm::Refused(with_causes(&error)),
        },
        Ok(Some(_)) => Lsm::StrictPodsRun(pins::provider(pins_dir)),
        Err(error) => Lsm::Refused(error.to_string()),
    }
}

fn words(file: &Path) -> Option<String> {
    Some(fs::read_to_string(file).ok()?.trim().to_owned())
}

fn is_a(path: &Path, magic: libc::c_long) -> bool {
    rustix::fs::statfs(path).is_ok_and(|fs| fs.f_type == magic)
}

/// Of one core that one: `can_isolate` refuses it in words.
fn all_but_the_first_core(machine: &Topology) -> CpuSet {
    let first = machine.siblings_of(machine.online.first());
    machine.online.without(&first).unwrap_or_else(|| machine.online.clone())
}
