//! Step 7: where threads that wait to settle can be seen, and armed, through mapped memory: a load and a store,
//! which enter no other CPU.

use std::io;

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
            .map(|number| Seated { number, seat: self.seats.get(number) })
            .filter(|seated| seated.seat.taken != 0)
    }

    /// Of a thread that is in user mode now, by the times in its seat: its next entry is a violation.
    pub fn arm(&self, number: usize) {
        self.seats.store_byte(number, std::mem::offset_of!(abi::qc_seat, armed), 1);
    }
}
