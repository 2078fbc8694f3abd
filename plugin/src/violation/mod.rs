//! Step 8: from a record to a violation that a person can read.
//!
//! ```text
//!  qc_record ─ happening ─► Happening ─ limit ─► worth telling? ─ symbolize ─► Place ─ describe ─► words
//! ```
//!
//! Everything here but `symbolize` is pure: no IO, no clock.

pub mod blame;
pub mod cgroups;
pub mod describe;
pub mod happening;
pub mod json;
pub mod kernel_symbols;
pub mod key;
pub mod limit;
pub mod scene;
pub mod symbolize;
pub mod text;
