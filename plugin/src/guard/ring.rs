//! Step 7: drains the ring buffer. By polling, because a wakeup would be an IPI to the core that wrote.

use std::time::Duration;

use libbpf_rs::{MapHandle, RingBuffer, RingBufferBuilder};

use super::{abi::qc_record, load::GuardError, record};

/// How long a record may lie in the ring. 20 looks a second cost a housekeeping CPU some 100 us.
pub const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// For one run on which somebody waits: a program that enters the kernel as fast as it can fills the ring in about
/// 3 ms.
const CLOSE_INTERVAL: Duration = Duration::from_millis(1);

/// Opened on one thread and sent to another; libbpf's ring lives only inside `drain_until`.
#[derive(Debug)]
pub struct RecordReader {
    pub(super) ring: MapHandle,
}

impl RecordReader {
    /// Calls `handle` for each record, in the order they were written, until `stop` says so, which is asked each
    /// time.
    pub fn drain_until(
        &self,
        stop: impl FnMut() -> bool,
        handle: impl FnMut(qc_record),
    ) -> Result<(), GuardError> {
        self.drain_every(POLL_INTERVAL, stop, handle)
    }

    /// The same, for as few lost records as a CPU of its own allows.
    pub fn drain_closely_until(
        &self,
        stop: impl FnMut() -> bool,
        handle: impl FnMut(qc_record),
    ) -> Result<(), GuardError> {
        self.drain_every(CLOSE_INTERVAL, stop, handle)
    }

    fn drain_every(
        &self,
        interval: Duration,
        mut stop: impl FnMut() -> bool,
        mut handle: impl FnMut(qc_record),
    ) -> Result<(), GuardError> {
        let mut builder = RingBufferBuilder::new();
        let deliver = |bytes: &[u8]| {
            match record::decode(bytes) {
                Ok(record) => handle(record),
                Err(error) => tracing::error!(%error, "record dropped"),
            }
            0
        };
        builder.add(&self.ring, deliver).map_err(GuardError::Ring)?;
        let ring: RingBuffer<'_> = builder.build().map_err(GuardError::Ring)?;
        let interval = rustix::time::Timespec { tv_sec: 0, tv_nsec: i64::from(interval.subsec_nanos()) };
        while !stop() {
            ring.consume().map_err(GuardError::Ring)?;
            // A signal only makes this look come sooner.
            let _ = rustix::thread::nanosleep(&interval);
        }
        ring.consume().map_err(GuardError::Ring)
    }
}
