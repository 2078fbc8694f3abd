//! Step 7: where threads that wait to settle can be seen, and armed, through mapped memory: a load and a store,
//! which enter no other CPU.

use std::{io, mem::offset_of, sync::atomic::Ordering};

use super::{abi, maps::Maps, shared::SharedArray};

#[derive(Debug)]
pub struct Seats {
    seats: SharedArray<abi::qc_seat>,
}

/// Which seat, and whose it was when it was looked at.
#[derive(Debug, Clone, Copy)]
pub struct Seated {
    pub number: usize,
    pub seat: abi::qc_seat,
}

impl Seats {
    pub(super) fn map(maps: &Maps) -> io::Result<Seats> {
        Ok(Seats { seats: SharedArray::map(&maps.seats, abi::QC_SEATS as usize)? })
    }

    pub fn taken(&self) -> impl Iterator<Item = Seated> + '_ {
        (1..self.seats.len())
            .filter(|number| self.seats.load_byte(*number, offset_of!(abi::qc_seat, taken)) != 0)
            .map(|number| Seated { number, seat: self.seats.get(number) })
    }

    /// The thread's next entry is a violation, unless it entered the kernel, or left its seat, since it was
    /// looked at: then this is void.
    pub fn arm(&self, Seated { number, seat }: &Seated) {
        self.seats.word(*number, offset_of!(abi::qc_seat, arm_ns)).store(seat.last_ns, Ordering::Release);
    }

    /// Its owner was told that it does not settle.
    pub fn told(&self, Seated { number, .. }: &Seated) {
        self.seats.store_byte(*number, offset_of!(abi::qc_seat, told), 1);
    }
}
