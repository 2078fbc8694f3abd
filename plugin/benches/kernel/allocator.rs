//! How good the choice of cores is: on small machines, where all choices can be tried, beside the best of them.

use crate::{
    line::{Line, round},
    traces::{Chooser, measure},
};

const TRACES: u32 = 10_000;

pub fn line() -> Line {
    let ours = measure(TRACES, Chooser::Allocator);
    let lowest = measure(TRACES / 10, Chooser::LowestNumbers);
    let what = "cost of the cores chosen (nodes, L3 domains, holes) to the least possible";
    Line::new("allocator.quality", what, "%")
        .value("mean", round(ours.mean_percent))
        .value("worst", round(ours.worst_percent))
        .value("lowest numbers first", round(lowest.mean_percent))
        .exactly("100 %", ours.n_worse == 0)
}
