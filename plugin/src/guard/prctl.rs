//! Step 7: who answers the prctl here. A BPF LSM program does it with the exact errno, on kernels where what it
//! returns reaches the caller: that is tried out, once, before the guard is attached.

#![expect(unsafe_code, reason = "no crate makes a prctl of a number it does not know")]

use std::io;

use libbpf_rs::Link;
use nix::libc;
use quietcore_abi::{CLASSES, ENABLE, PR_TASK_ISOLATION};

use super::{
    detector::{Detector, PRCTL},
    load::GuardError,
    maps::Maps,
    object::{self, WATCH_SELF},
    self_test,
    slots::Slots,
};
use crate::{arm::plan::Provider, cores::set::CpuSet};

/// What pins can be of, best first.
pub(super) const BY_BPF: [Provider; 3] = [Provider::Native, Provider::Lsm, Provider::Seccomp];

/// For a guard that is not the node's. The LSM hook has room for one: of several programs the newest answers,
/// also for the threads of the others.
pub(super) fn choose_private(detector: Detector, cores: &CpuSet) -> Result<Provider, GuardError> {
    let another_answers = ask(0).is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
    if another_answers { Ok(Provider::Seccomp) } else { choose(detector, cores) }
}

/// The best one that works on this kernel.
pub(super) fn choose(detector: Detector, cores: &CpuSet) -> Result<Provider, GuardError> {
    if ask(0).is_ok() {
        return Ok(Provider::Native);
    }
    match lsm_answers(detector, cores) {
        Ok(true) => Ok(Provider::Lsm),
        Ok(false) => {
            tracing::info!(
                step = 7,
                "this kernel does not run the guard's LSM program: seccomp filters answer the prctl"
            );
            Ok(Provider::Seccomp)
        }
        Err(error) => {
            tracing::info!(step = 7, %error, "this kernel takes no BPF LSM program: seccomp filters answer the prctl");
            Ok(Provider::Seccomp)
        }
    }
}

/// Whether a BPF LSM program's answer reaches who asks, tried out: attaching it enters every CPU of the machine.
pub fn lsm_answers(detector: Detector, cores: &CpuSet) -> Result<bool, GuardError> {
    // What libbpf prints when a kernel refuses the program is no error here.
    let printed = libbpf_rs::set_print(None);
    let answers = try_lsm(detector, cores);
    libbpf_rs::set_print(printed);
    answers
}

/// In a set of maps and programs of its own, gone afterwards.
fn try_lsm(detector: Detector, cores: &CpuSet) -> Result<bool, GuardError> {
    let object = object::load_those(detector, |name, _section| name == PRCTL || name == WATCH_SELF)?;
    let program = object::program(&object, PRCTL).ok_or_else(|| GuardError::NoProgram(PRCTL.to_owned()))?;
    let attached = program.attach_lsm();
    let _link: Link = attached.map_err(|source| GuardError::Attach { program: PRCTL.to_owned(), source })?;
    let slots = Slots::map(&Maps::of(&object)?).map_err(GuardError::Map)?;
    Ok(self_test::on_watched_core(&object, &slots, detector, cores, |_cpu| Ok(answers_exactly()))?)
}

/// In a thread that is watched, and on its core.
fn answers_exactly() -> bool {
    let errno = |bits| ask(bits).err().and_then(|error| error.raw_os_error());
    let good = ENABLE | CLASSES;
    ask(good).is_ok() && ask(0).is_ok() && errno(good | 1 << 31) == Some(libc::EINVAL)
}

/// The plain call, as a program makes it that nobody watches.
pub fn kernel_answers() -> io::Result<()> {
    ask(0)
}

fn ask(bits: u32) -> io::Result<()> {
    // SAFETY: all five arguments are integers; the call reads and writes no memory of ours.
    let result = unsafe { libc::prctl(PR_TASK_ISOLATION.cast_signed(), libc::c_ulong::from(bits), 0, 0, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
