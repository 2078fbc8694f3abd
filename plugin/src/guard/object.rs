//! Step 7: the BPF object that the agent carries, opened for one purpose and loaded. Nothing here attaches.

use libbpf_rs::{Object, ObjectBuilder, ProgramInput, ProgramMut};

use super::{
    detector::{Detector, Variant},
    load::GuardError,
    support::Kernel,
};

pub(super) const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
/// Run once by the agent in a thread of its own, never attached.
pub(super) const WATCH_SELF: &str = "qc_watch_self";
const PID_LEVEL: &str = "qc_own_pid_level";
/// Section and map of the one constant that programs are compiled against, `qc_edge`.
const DETECTOR: &str = ".rodata.detector";

/// The programs that `variant` attaches, and the one that the self-test runs.
pub(super) fn load(kernel: &Kernel, variant: Variant) -> Result<Object, GuardError> {
    let wanted = |name: &str, section: &str| name == WATCH_SELF || variant.attaches(kernel, name, section);
    load_those(variant.detector, wanted)
}

pub(super) fn load_those(
    detector: Detector,
    wanted: impl Fn(&str, &str) -> bool,
) -> Result<Object, GuardError> {
    let mut open = ObjectBuilder::default().open_memory(OBJECT).map_err(GuardError::Load)?;
    for mut program in open.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        let load = wanted(&name, &program.section().to_string_lossy());
        program.set_autoload(load);
    }
    for mut map in open.maps_mut().filter(|map| map.name() == DETECTOR) {
        if let Some(edge) = map.initial_value_mut().and_then(<[u8]>::first_mut) {
            *edge = u8::from(detector == Detector::Edge);
        }
    }
    open.load().map_err(GuardError::Load)
}

/// Names of the programs that `variant` attaches, without loading anything.
pub(super) fn attached_by(kernel: &Kernel, variant: Variant) -> Result<Vec<String>, GuardError> {
    let object = ObjectBuilder::default().open_memory(OBJECT).map_err(GuardError::Load)?;
    let named = object.progs().map(|program| {
        (program.name().to_string_lossy().into_owned(), program.section().to_string_lossy().into_owned())
    });
    Ok(named
        .filter(|(name, section)| variant.attaches(kernel, name, section))
        .map(|(name, _)| name)
        .collect())
}

pub(super) fn program<'object>(object: &'object Object, name: &str) -> Option<ProgramMut<'object>> {
    object.progs_mut().find(|program| program.name() == name)
}

/// Asked of the kernel by a program that runs once in the agent's own context: /proc shows a process's
/// numbers only from the reader's namespace inwards.
pub(super) fn own_pid_level() -> Result<usize, GuardError> {
    let object = load_those(Detector::Tracepoint, |name, _section| name == PID_LEVEL)?;
    let Some(program) = program(&object, PID_LEVEL) else { return Ok(0) };
    let output = program.test_run(ProgramInput::default()).map_err(GuardError::PidLevel)?;
    Ok(output.return_value as usize)
}
