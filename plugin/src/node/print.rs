//! Plan and outcome as tables. Pure.

use std::fmt::Write as _;

use super::{
    apply::{Did, Outcome},
    plan::{Missing, Needs, Plan, about},
};

pub(super) fn plan(plan: &Plan) -> String {
    // Writing to a String cannot fail.
    let mut text = String::new();
    let mut row = |what: &str, value: &str| text.push_str(&format!("{what:<26}  {value}\n"));
    row("isolated CPUs", &plan.isolate.to_string());
    row("housekeeping CPUs", &plan.housekeeping.to_string());
    for (what, value) in about(&plan.found) {
        row(what, value);
    }
    text.push_str("\nKERNEL COMMAND LINE\n");
    let parameters: Vec<String> = plan.settings().map(ToString::to_string).collect();
    let left_out = plan.left_out.iter().map(|left_out| left_out.parameter.len());
    let width = parameters.iter().map(String::len).chain(left_out).max().unwrap_or_default();
    for (name, parameter) in parameters.iter().zip(&plan.kernel) {
        let state = match (parameter.in_force, parameter.needs) {
            (true, _) => "in force",
            (false, Needs::Boot) => "missing",
            (false, Needs::Nothing) => "at run time",
        };
        let _ = writeln!(text, "{name:<width$}  {state:<11}  {}", parameter.reason);
        let _ = writeln!(text, "{:width$}               {}", "", parameter.source);
    }
    text.push_str("\nNOT NEEDED\n");
    for left_out in &plan.left_out {
        let _ = writeln!(text, "{:<width$}  {}", left_out.parameter, left_out.reason);
        let _ = writeln!(text, "{:width$}  {}", "", left_out.source);
    }
    text.push_str("\nKUBELET CONFIGURATION\n");
    let kubelet = &plan.kubelet;
    let policy = if kubelet.strict_cpu_reservation { "static, strict-cpu-reservation" } else { "none" };
    let mut row = |what: &str, value: &str| text.push_str(&format!("{what:<26}  {value}\n"));
    row("reservedSystemCPUs", &kubelet.reserved_system_cpus.to_string());
    row("cpuManagerPolicy", policy);
    if let Some(policy) = kubelet.topology_manager_policy {
        row("topologyManagerPolicy", policy);
    }
    for reason in &kubelet.reasons {
        row(&format!("- {}", reason.field), &reason.reason);
        row("", reason.source);
    }
    text.push('\n');
    for advice in &plan.advice {
        let _ = writeln!(text, "advice: {advice}");
    }
    missing(&mut text, &plan.missing);
    match (plan.missing.is_empty(), plan.applied) {
        (true, _) => {}
        (false, true) => text.push_str("do: reboot; quietcore node apply has been run\n"),
        (false, false) => {
            let _ = writeln!(text, "do: quietcore node apply --isolate {}, then reboot", plan.isolate);
        }
    }
    text
}

pub(super) fn outcome(outcome: &Outcome) -> String {
    let mut text = String::new();
    let did = match outcome.did {
        Did::Applied => "applied",
        Did::WouldApply => "would be applied",
        Did::WasApplied => "applied before, nothing to do",
        Did::Restored => "taken back",
        Did::WouldRestore => "would be taken back",
        Did::NothingToRestore => "nothing was applied, nothing to do",
    };
    let mut row = |what: &str, value: &str| text.push_str(&format!("{what:<12}  {value}\n"));
    row("boot settings", did);
    if let Some(boot_loader) = outcome.boot_loader {
        row("boot loader", boot_loader.name());
    }
    if let Some(file) = &outcome.file {
        row("file", &file.display().to_string());
    }
    for parameter in &outcome.parameters {
        row("parameter", parameter);
    }
    for parameter in &outcome.already_set {
        row("set already", parameter);
    }
    match outcome.did {
        Did::Applied | Did::WouldApply | Did::WasApplied => missing(&mut text, &outcome.missing),
        Did::Restored => text.push_str("The running kernel keeps them until the next boot.\n"),
        Did::WouldRestore | Did::NothingToRestore => {}
    }
    text
}

fn missing(text: &mut String, missing: &[Missing]) {
    if missing.is_empty() {
        text.push_str("Nothing is missing: no reboot is required.\n");
        return;
    }
    text.push_str("A reboot is required:\n");
    for Missing { parameter, found } in missing {
        let _ = writeln!(text, "- {parameter}: {found}");
    }
}
