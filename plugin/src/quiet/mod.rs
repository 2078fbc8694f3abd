//! Step 3, the slow half: granted cores are made quiet, kept quiet, and given back as they were.
//!
//! `catalogue` says, for the cores that are granted now, what each file of the kernel must be; `keeper` makes it so,
//! and what is no longer asked for becomes what it was. There is no other way a file is written here: not at a grant,
//! not at a release, not when somebody else changed one. `worker` does it on a housekeeping CPU, off the path of the
//! kubelet's and the runtime's questions.

mod irqbalance;
pub mod kernel;
pub mod want;
pub mod setting;
pub mod journal;
pub mod keeper;
pub mod judge;
pub mod catalogue;
pub mod worker;
#[cfg(test)]
pub(crate) mod tree;
#[cfg(test)]
mod churn_tests;
