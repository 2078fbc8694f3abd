//! Step 7: what the guard costs everybody else on the node: a bystander's system call without it and with it.
//!
//! Measured when the programs are attached, on the housekeeping CPU where that happens, and kept beside them: an
//! agent that adopts them cannot measure again what the node was like without.

use std::time::{Duration, Instant};

use libbpf_rs::{MapCore as _, MapFlags, MapHandle};

use super::{abi, load::GuardError};

const ROUNDS: usize = 32;
const CALLS: u32 = 1024;

/// One null system call (getppid) of an unwatched thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tax {
    pub without: Duration,
    pub with: Duration,
}

impl Tax {
    pub fn added(self) -> Duration {
        self.with.saturating_sub(self.without)
    }

    pub(super) fn read(map: &MapHandle) -> Result<Option<Tax>, GuardError> {
        let bytes = map.lookup(&0u32.to_ne_bytes(), MapFlags::ANY).map_err(GuardError::Tax)?;
        let bytes = bytes.unwrap_or_default();
        let at = |offset: usize| {
            let field = bytes.get(offset..offset + 8).and_then(|field| field.try_into().ok());
            Duration::from_nanos(field.map(u64::from_ne_bytes).unwrap_or_default())
        };
        let tax = Tax {
            without: at(std::mem::offset_of!(abi::qc_tax, without_ns)),
            with: at(std::mem::offset_of!(abi::qc_tax, with_ns)),
        };
        Ok((!tax.without.is_zero()).then_some(tax))
    }

    pub(super) fn keep(self, map: &MapHandle) -> Result<(), GuardError> {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).to_ne_bytes();
        let value = [nanos(self.without), nanos(self.with)].concat();
        map.update(&0u32.to_ne_bytes(), &value, MapFlags::ANY).map_err(GuardError::Tax)
    }
}

/// The fastest of several rounds: what else runs on this CPU only adds.
pub(super) fn null_call() -> Duration {
    let round = || {
        let began = Instant::now();
        for _ in 0..CALLS {
            std::hint::black_box(rustix::process::getppid());
        }
        began.elapsed()
    };
    std::iter::repeat_with(round).take(ROUNDS).min().unwrap_or_default() / CALLS
}
