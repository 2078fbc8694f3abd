//! Step 7: a guard that lives and dies with this process: for `quietcore exec`, where nothing must be left
//! behind and no bpffs is needed.

use std::os::fd::{AsFd as _, OwnedFd};

use libbpf_rs::{MapCore as _, MapHandle, Object};

use super::{
    load::{Guard, GuardError, PID_LEVEL, open_object},
    pins::{self, Pinned},
    self_test::{self, WATCH_SELF},
    slots::Slots,
    support::Kernel,
};

impl Guard {
    /// Tested like the agent's. When it is dropped the kernel takes programs and maps away, also when the process
    /// is killed: what it watched is then watched no more.
    pub fn start_private() -> Result<Guard, GuardError> {
        let kernel = Kernel::probe()?;
        kernel.can_guard()?;
        let mut object = open_object(&kernel, |name| name != PID_LEVEL)?;
        let links = attach(&mut object)?;
        let maps = maps_of(&object)?;
        self_test::run(&object, &Slots::map(&maps).map_err(GuardError::Map)?)?;
        Guard::new(&kernel, maps, None, links, false)
    }
}

/// A link's descriptor keeps its program, and that its maps: the object is not needed any more.
fn attach(object: &mut Object) -> Result<Vec<OwnedFd>, GuardError> {
    let mut links = Vec::new();
    for program in object.progs_mut() {
        let name = program.name().to_string_lossy().into_owned();
        if !program.autoload() || name == WATCH_SELF {
            continue;
        }
        let link = program.attach().map_err(|source| GuardError::Attach { program: name, source })?;
        links.push(link.as_fd().try_clone_to_owned().map_err(GuardError::Keep)?);
    }
    Ok(links)
}

fn maps_of(object: &Object) -> Result<Pinned, GuardError> {
    let map = |name: &'static str| {
        let found = object.maps().find(|map| pins::name_of(&map.name().to_string_lossy()) == name);
        let found = found.ok_or(GuardError::NoMap(name))?;
        MapHandle::try_from(&found).map_err(GuardError::Load)
    };
    Ok(Pinned {
        threads: map("qc_threads")?,
        grants: map("qc_grants")?,
        counts: map("qc_counts_map")?,
        cpus: map(pins::CPUS)?,
        records: map("qc_records")?,
    })
}
