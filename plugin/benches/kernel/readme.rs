//! README.md's tables, from what the last runs wrote. Reads bench/*.json, measures nothing.

use std::{fs, path::Path};

use serde_json::Value;

use crate::{
    cost::{BYSTANDER, THINGS, WATCHERS},
    line::times,
    side_by_side::{NO_TICK, OTHERS_RAN},
};

const BEGIN: &str = "<!-- written by make bench-readme -->\n";
const BEGIN_QUIET: &str = "<!-- written by make bench-readme: quiet -->\n";
const END: &str = "<!-- end -->\n";
const NONE: &str = "-";
/// Of a core; the file has them all.
const CAUSES: usize = 3;
/// Lines that have a table of their own, or a place of their own in the last one.
const TABLES: [&str; 5] = ["bystander.", "victim.", "exact.", "reaction.", "not-armed."];

struct Run(Value);

pub fn write(root: &Path) {
    let read = |name: &str| Run(serde_json::from_slice(&fs::read(root.join(name)).unwrap()).unwrap());
    let (here, lab, quiet) = (read("bench/kernel.json"), read("bench/lab.json"), read("bench/quiet.json"));
    let tables = [costs(&here, &lab), exact(&here, &lab), reactions(&here, &lab), others(&here, &lab)];
    let file = root.join("README.md");
    let text = fs::read_to_string(&file).unwrap();
    let text = replaced(&text, BEGIN, &tables.join("\n"));
    fs::write(file, replaced(&text, BEGIN_QUIET, &side_by_side(&quiet))).unwrap();
}

fn replaced(text: &str, begin: &str, content: &str) -> String {
    let (before, rest) = text.split_once(begin).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    format!("{before}{begin}{content}{END}{after}")
}

impl Run {
    fn lines(&self) -> impl Iterator<Item = &Value> {
        self.0["lines"].as_array().unwrap().iter()
    }

    fn line(&self, name: &str) -> Option<&Value> {
        self.lines().find(|line| line["name"] == name)
    }

    fn ratio(&self, name: &str) -> Option<String> {
        self.line(name)?["ratio"]["median"].as_f64().map(times)
    }

    fn value(&self, name: &str, value: &str) -> Option<f64> {
        let value = &self.line(name)?["values"][value];
        value.get("median").unwrap_or(value).as_f64()
    }
}

/// One row a watcher; the first says what there was without any.
fn costs(here: &Run, lab: &Run) -> String {
    let bystander = BYSTANDER.map(|thing| format!("bystander's {thing}"));
    let victim = THINGS.map(|(_, thing)| format!("watched thread's {thing}s in a second"));
    let mut rows = vec![row("watched by", &[&bystander[..], &victim[..]].concat())];
    rows.push(rule(BYSTANDER.len() + THINGS.len()));
    let ns =
        |thing| Some(format!("{:.0} ns", here.value(&format!("bystander.{thing}.Tracepoint"), "without")?));
    let rate =
        |thing| Some(format!("{} million", here.value(&format!("victim.{thing}.strace -c"), "without")?));
    let alone = BYSTANDER.into_iter().map(ns).chain(THINGS.into_iter().map(|(_, thing)| rate(thing)));
    rows.push(row("nothing", &cells(alone)));
    for (who, armings) in WATCHERS {
        let run = if *who == "Edge" { lab } else { here };
        for (n, arming) in armings.iter().enumerate() {
            let under = if arming.is_empty() { (*who).to_owned() } else { format!("{who}, {arming}") };
            // It has nothing to do with how far the guard goes with the victim.
            let bystander = BYSTANDER.into_iter().map(|thing| match n {
                0 => run.ratio(&format!("bystander.{thing}.{who}")),
                _ => Some("\"".to_owned()),
            });
            let victim = THINGS.into_iter().map(|(_, thing)| run.ratio(&format!("victim.{thing}.{under}")));
            rows.push(row(&named(&under), &cells(bystander.chain(victim))));
        }
    }
    rows.concat()
}

fn exact(here: &Run, lab: &Run) -> String {
    let classes = ["syscall", "exception", "interrupt"];
    let mut rows =
        vec![row("missed / invented", &["system calls", "page faults", "interrupts"].map(str::to_owned))];
    rows.push(rule(classes.len()));
    for (who, _) in WATCHERS {
        let run = if *who == "Edge" { lab } else { here };
        let cell = |class| {
            let value = |value| run.value(&format!("exact.{class}.{who}"), value);
            Some(format!("{} / {} of {}", value("missed")?, value("invented")?, value("happened")?))
        };
        rows.push(row(&named(who), &cells(classes.into_iter().map(cell))));
    }
    rows.concat()
}

fn reactions(here: &Run, lab: &Run) -> String {
    let heads = ["the entry alone, p50", "Tracepoint, p50", "p99", "Edge / Tracepoint, both in the lab"];
    let mut rows = vec![row("from an entry to its handler", &heads.map(str::to_owned)), rule(heads.len())];
    for (class, name) in [("syscall", "system call"), ("exception", "page fault"), ("interrupt", "interrupt")]
    {
        let at = |run: &Run, who, value| run.value(&format!("reaction.{class}.{who}"), value);
        let us = |value| Some(format!("{:.1} us", at(here, "Tracepoint", value)? / 1e3));
        let edge = || Some(times(at(lab, "Edge", "p50")? / at(lab, "Tracepoint", "p50")?));
        // An emulated CPU waits for its turn while another one interrupts it.
        let edge = if class == "interrupt" { None } else { edge() };
        let all = [us("the entry alone p50"), us("p50"), us("p99"), edge];
        rows.push(row(name, &cells(all.into_iter())));
    }
    let us = |value| Some(format!("{:.1} us", here.value("reaction.kill", value)? / 1e3));
    rows.push(row(
        "kill(2) of itself, nothing watches",
        &cells([None, us("p50"), us("p99"), None].into_iter()),
    ));
    rows.concat()
}

fn others(here: &Run, lab: &Run) -> String {
    let mut rows = vec![row("what else", &["measured".to_owned(), "budget".to_owned()]), rule(2)];
    let is_other =
        |line: &&Value| !TABLES.iter().any(|table| line["name"].as_str().unwrap().starts_with(table));
    let added = |line: &&Value| line["name"].as_str().unwrap().starts_with("not-armed.");
    let lines = here.lines().filter(added).chain(here.lines().filter(is_other)).map(|line| (line, ""));
    for (line, place) in lines.chain(lab.lines().filter(is_other).map(|line| (line, " (lab)"))) {
        let values = line["values"].as_object().unwrap().iter();
        let values = values.map(|(name, value)| format!("{name} {}", value.get("median").unwrap_or(value)));
        let values = format!("{} {}", values.collect::<Vec<_>>().join(", "), line["unit"].as_str().unwrap());
        let verdict = if line["holds"] == false { "over: " } else { "" };
        let budget = line["budget"].as_str().map(|budget| format!("{verdict}{budget}"));
        let what = format!("{}{place}", line["what"].as_str().unwrap());
        rows.push(row(&what, &[values, budget.unwrap_or_default()]));
    }
    rows.concat()
}

/// One row for who keeps the core quiet.
fn side_by_side(quiet: &Run) -> String {
    let heads = ["system calls", "exceptions", "interrupts", "no tick", "others ran then", "most of them"];
    let heads = heads.map(str::to_owned);
    let mut rows = vec![row("entries a minute", &heads), rule(heads.len())];
    for line in quiet.lines() {
        let name = line["name"].as_str().unwrap();
        let rate = |class: &&str| Some(quiet.value(name, class)?.to_string());
        let causes = line["values"]["causes"].as_array().unwrap().iter().take(CAUSES);
        let told = |cause: &Value| Some(format!("{} {}", cause["perMinute"], cause["cause"].as_str()?));
        let causes = causes.filter_map(told).collect::<Vec<_>>().join("; ");
        let counted = ["syscall", "exception", "interrupt", NO_TICK, OTHERS_RAN].iter().map(rate);
        rows.push(row(line["what"].as_str().unwrap(), &cells(counted.chain([Some(causes)]))));
    }
    rows.concat()
}

fn named(under: &str) -> String {
    under.replace("Edge", "Edge (lab)")
}

fn cells(values: impl Iterator<Item = Option<String>>) -> Vec<String> {
    values.map(|value| value.unwrap_or_else(|| NONE.to_owned())).collect()
}

fn row(head: &str, cells: &[String]) -> String {
    format!("| {head} | {} |\n", cells.join(" | "))
}

fn rule(n: usize) -> String {
    format!("|---|{}\n", "---|".repeat(n))
}
