//! Interrupts against an oracle that the kernel's tracepoints know nothing of: the null selector in %es that
//! every IRET zeroes (`es_spin` in interrupts.c).

use std::collections::BTreeSet;

use quietcore::guard::abi::qc_record;

use super::{Run, number};

/// The labels of the loop: an instruction is named by the address at which it waits to be executed.
struct Loop {
    turn: u64,
    read: u64,
    after: u64,
    next: u64,
    hit: u64,
    back: u64,
    end: u64,
}

impl Loop {
    fn of(run: &Run) -> Loop {
        let at = |label| number(&run.told(label));
        Loop {
            turn: at("turn"),
            read: at("read"),
            after: at("after"),
            next: at("next"),
            hit: at("hit"),
            back: at("back"),
            end: at("end"),
        }
    }

    /// In which turn the loop finds %es zeroed by this entry. `None`: outside the loop, or between the turn's
    /// look and its putting %es back, where the loop cannot see it.
    fn zero_seen_in(&self, record: &qc_record, zeros: &BTreeSet<u64>) -> Option<u64> {
        let (ip, turn) = (record.ip, record.args[0]);
        let hit = zeros.contains(&turn);
        match ip {
            _ if ip < self.turn || self.end <= ip => None,
            _ if ip == self.read => Some(turn),
            _ if (self.after..self.next).contains(&ip) && hit => None,
            _ if (self.hit..self.back).contains(&ip) => None,
            _ => Some(turn + 1),
        }
    }
}

/// A run of day `oracle`, whose entries are all recorded.
pub struct Compared {
    /// Turns in which the loop saw an entry.
    pub zeros: BTreeSet<u64>,
    /// What the guard saw, and the turn in which the loop should have.
    pub seen: Vec<(u64, qc_record)>,
}

impl Compared {
    pub fn of(run: &Run) -> Compared {
        let (spin, zeros) = (Loop::of(run), run.list("zero").into_iter().collect::<BTreeSet<_>>());
        let last = zeros.last().copied().unwrap_or_default();
        let entries = run.records.iter().filter(|record| record.kind < 16);
        let seen = entries.filter_map(|record| Some((spin.zero_seen_in(record, &zeros)?, *record)));
        let seen = seen.filter(|(turn, _)| *turn <= last).collect();
        Compared { zeros, seen }
    }

    /// Turns: entries with no instruction in between are one to the loop.
    pub fn turns(&self) -> BTreeSet<u64> {
        self.seen.iter().map(|(turn, _)| *turn).collect()
    }

    pub fn missed(&self) -> Vec<u64> {
        self.zeros.difference(&self.turns()).copied().collect()
    }

    pub fn invented(&self) -> Vec<u64> {
        self.turns().difference(&self.zeros).copied().collect()
    }
}
