//! The report as a table. Pure.

use std::fmt::Write as _;

use super::findings::{Report, State};

pub(super) fn table(report: &Report) -> String {
    // Writing to a String cannot fail.
    let mut text = String::new();
    let width = report.findings.iter().map(|finding| finding.item.len()).max().unwrap_or_default();
    for finding in &report.findings {
        let state = finding.state.name();
        let _ = writeln!(text, "{:<width$}  {state:<8}  {}", finding.item, finding.found);
        if matches!(finding.state, State::Missing | State::Unknown) {
            let _ = writeln!(text, "{:width$}            why: {}", "", finding.why);
            let _ = writeln!(text, "{:width$}            do:  {}", "", finding.remedy);
        }
    }
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
