//! Step 7: the BPF object that the agent carries, opened for one purpose and loaded. Nothing here attaches.

use std::path::Path;

use libbpf_rs::{Object, ObjectBuilder, OpenMapMut, ProgramInput, ProgramMut};

use super::{
    detector::{Detector, Variant},
    load::GuardError,
    support::Kernel,
};
use crate::cores::topology;

pub(super) const OBJECT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guard.bpf.o"));
/// Run once by the agent in a thread of its own, never attached.
pub(super) const WATCH_SELF: &str = "qc_watch_self";
const PID_LEVEL: &str = "qc_own_pid_level";
/// Sections, and maps, of the constants that programs are verified with: `qc_edge` and `qc_n_words`.
const DETECTOR: &str = ".rodata.detector";
const MACHINE: &str = ".rodata.machine";
/// Maps that have room for one CPU before they are loaded. Room for 8,192 would be 5 MB of the agent's cgroup.
const OF_EACH_CPU: [&str; 2] = ["qc_sent", "qc_queued"];

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
    let n_cpus = topology::number_of_possible(Path::new("/sys"))?;
    for mut map in open.maps_mut() {
        let name = map.name().to_string_lossy().into_owned();
        match name.as_str() {
            DETECTOR => set_constant(&mut map, &[u8::from(detector == Detector::Edge)]),
            MACHINE => set_constant(&mut map, &n_cpus.div_ceil(u64::BITS).to_ne_bytes()),
            name if OF_EACH_CPU.contains(&name) => {
                let of_one = map.max_entries();
                map.set_max_entries(of_one * n_cpus).map_err(GuardError::Load)?;
            }
            _ => (),
        }
    }
    open.load().map_err(GuardError::Load)
}

fn set_constant(map: &mut OpenMapMut<'_>, value: &[u8]) {
    if let Some(initial) = map.initial_value_mut().and_then(|initial| initial.get_mut(..value.len())) {
        initial.copy_from_slice(value);
    }
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
