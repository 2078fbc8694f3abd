//! The report as a table. Pure.

use std::fmt::Write as _;

use super::{
    Report,
    finding::{Finding, State},
    measure::Measured,
};

/// How many causes of one core are told; JSON has them all.
const CAUSES: usize = 12;

/// Writing to a String cannot fail.
pub(super) fn table(report: &Report) -> String {
    let mut text = String::new();
    let width = report.findings.iter().map(|finding| finding.item.len()).max().unwrap_or_default();
    let mut group = None;
    for finding in &report.findings {
        if group.replace(finding.group) != Some(finding.group) {
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", finding.group.name());
        }
        write_finding(&mut text, finding, width);
    }
    write_measured(&mut text, report);
    let verdict = &report.verdict;
    let _ = writeln!(text, "\nCPU {}: {}", report.cores, verdict.grade.words());
    if let (Some(detector), Some(provider)) = (verdict.detector, verdict.provider) {
        let _ = writeln!(text, "detector {detector}, provider {provider}");
    }
    for reason in &verdict.reasons {
        let _ = writeln!(text, "- {reason}");
    }
    text
}

fn write_finding(text: &mut String, finding: &Finding, width: usize) {
    let Finding { item, state, found, why, remedy, entries_per_minute, .. } = finding;
    let enters = entries_per_minute.filter(|rate| 0.0 < *rate);
    let _ = writeln!(text, "  {item:<width$}  {:<8}  {found}", state.name());
    let is_in_order = matches!(state, State::Good | State::NotHere);
    if is_in_order && enters.is_none() {
        return;
    }
    let rate =
        enters.map(|rate| format!("; measured: {} entries a minute", number(rate))).unwrap_or_default();
    let _ = writeln!(text, "  {:width$}            why: {why}{rate}", "");
    if !is_in_order {
        let _ = writeln!(text, "  {:width$}            do:  {remedy}", "");
    }
}

fn write_measured(text: &mut String, report: &Report) {
    let _ = writeln!(text);
    for core in &report.measured {
        write_core(text, core);
    }
    for left_out in &report.left_out {
        let _ = writeln!(text, "not measured: CPU {}: {}", left_out.cpus, left_out.why);
    }
    if report.measured.is_empty() && report.left_out.is_empty() {
        let _ = writeln!(
            text,
            "not measured: quietcore check --cpu {} --for 10s counts what enters these cores, by cause",
            report.cores
        );
    }
}

fn write_core(text: &mut String, core: &Measured) {
    let Measured { cpu, seconds, entries_per_minute, causes } = core;
    let all: f64 = entries_per_minute.values().sum();
    let _ = writeln!(
        text,
        "CPU {cpu}, {seconds} s of a loop that does nothing: {} entries a minute",
        number(all)
    );
    for cause in causes.iter().take(CAUSES) {
        let _ = writeln!(text, "  {:>9}  {:<13}  {}", number(cause.per_minute), cause.class, cause.cause);
    }
    if let Some(more) = causes.len().checked_sub(CAUSES).filter(|more| 0 < *more) {
        let _ = writeln!(text, "             and {more} more causes (-o json)");
    }
}

/// Ten thousand need no tenths.
fn number(rate: f64) -> String {
    if rate < 100.0 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}
