//! Step 7: the guard's maps that the agent uses, from pins or from programs just loaded.

use std::path::Path;

use libbpf_rs::{MapCore as _, MapHandle, Object};

use super::{load::GuardError, pins};

#[derive(Debug)]
pub(super) struct Maps {
    pub(super) threads: MapHandle,
    pub(super) grants: MapHandle,
    pub(super) counts: MapHandle,
    pub(super) cpus: MapHandle,
    pub(super) seats: MapHandle,
    pub(super) tax: MapHandle,
    records: MapHandle,
}

impl Maps {
    pub(super) fn pinned(dir: &Path) -> Result<Maps, GuardError> {
        Maps::by(|name| pins::open_map(&dir.join(pins::name_of(name))))
    }

    pub(super) fn of(object: &Object) -> Result<Maps, GuardError> {
        Maps::by(|name| {
            let map = object.maps().find(|map| map.name() == name).ok_or(GuardError::NoMap(name))?;
            MapHandle::try_from(&map).map_err(GuardError::Ring)
        })
    }

    fn by(open: impl Fn(&'static str) -> Result<MapHandle, GuardError>) -> Result<Maps, GuardError> {
        Ok(Maps {
            threads: open("qc_threads")?,
            grants: open("qc_grants")?,
            counts: open("qc_counts_map")?,
            cpus: open(".data.cpus")?,
            seats: open("qc_seats")?,
            tax: open("qc_tax_map")?,
            records: open("qc_records")?,
        })
    }

    /// Another handle of the ring, for the thread that reads it.
    pub(super) fn records(&self) -> Result<MapHandle, GuardError> {
        MapHandle::try_from(&self.records).map_err(GuardError::Ring)
    }
}
