//! Says each violation as it comes, in the words of step 8. On a thread of its own: symbols take time, and the
//! ring must be read meanwhile.

use std::{
    io::{self, IsTerminal as _, Write as _},
    path::PathBuf,
    sync::{Arc, mpsc::Receiver},
    time::Duration,
};

use serde::Serialize;

use super::tally::label;
use crate::{
    args::Format,
    policy::syscalls,
    violation::{
        describe::describe,
        happening::{Answer, Entry, Happening, Story},
        json::BlameFields,
        scene::Scene,
        symbolize::{
            Symbolizer,
            parent::{Children, DEADLINE},
        },
    },
};

/// The symbolizer's name for the one container there is.
const WHOSE: &str = "exec";

#[derive(Debug)]
pub(super) enum Told {
    Happened {
        happening: Box<Happening>,
        /// As our /proc shows the thread.
        pid: Option<i32>,
    },
    NotSettled {
        /// CLOCK_MONOTONIC.
        at: Duration,
        tid: u32,
        host_tid: u32,
        why: String,
    },
}

#[derive(Debug)]
pub(super) struct Printer {
    format: Format,
    colours: bool,
    symbolizer: Symbolizer,
    /// CLOCK_MONOTONIC.
    start: Duration,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    r#type: &'static str,
    seconds: f64,
    #[serde(flatten)]
    entry: Option<EntryFields>,
    place: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    callers: Vec<String>,
    #[serde(flatten)]
    blame: BlameFields<'a>,
    comm: &'a str,
    tid: u32,
    host_tid: u32,
    cpu: u32,
    /// Hexadecimal: JSON's numbers lose digits above 2^53.
    ip: String,
    note: &'a str,
}

#[derive(Serialize)]
struct EntryFields {
    class: &'static str,
    cause: String,
    disarmed: bool,
}

impl Printer {
    pub(super) fn new(format: Format, start: Duration) -> Printer {
        let children = Children::new(PathBuf::from("/proc/self/exe"), DEADLINE);
        let symbolizer = Symbolizer::new(PathBuf::from("/proc"), children);
        Printer { format, colours: colours(), symbolizer, start }
    }

    /// Until the last sender is gone.
    pub(super) fn run(mut self, told: &Receiver<Told>) {
        while let Ok(told) = told.recv() {
            let (happening, pid) = match told {
                Told::Happened { happening, pid } => (happening, pid),
                Told::NotSettled { at, tid, host_tid, why } => {
                    self.tell_not_settled(at, tid, host_tid, &why);
                    continue;
                }
            };
            match (&happening.story, pid) {
                (Story::Armed, Some(pid)) => {
                    self.symbolizer.remember(&Arc::from(WHOSE), pid, &happening.thread)
                }
                (Story::Armed | Story::Disarmed, _) => {}
                (Story::Entry(_) | Story::ArmRefused(_) | Story::LeftCore | Story::CameOn, _) => {
                    self.tell(&happening, pid);
                }
            }
        }
    }

    fn tell_not_settled(&self, at: Duration, tid: u32, host_tid: u32, why: &str) {
        let seconds = at.saturating_sub(self.start).as_secs_f64();
        let note = format!("thread {tid} is not armed: {why}");
        match self.format {
            Format::Text => say(&format!("+{seconds:.6}s {note}")),
            Format::Json => {
                say_json(&NotSettled { r#type: "notSettled", seconds, tid, host_tid, note: &note })
            }
        }
    }

    fn tell(&mut self, happening: &Happening, pid: Option<i32>) {
        let scene = self.symbolizer.scene(WHOSE, pid, happening);
        let note = describe(happening, &scene, &syscalls::name);
        let seconds = happening.at.saturating_sub(self.start).as_secs_f64();
        match self.format {
            Format::Text => {
                let (on, off) = if self.colours { (colour(&happening.story), "\x1b[0m") } else { ("", "") };
                say(&format!("{on}+{seconds:.6}s{off} {note}"));
            }
            Format::Json => say_json(&line(happening, seconds, &scene, &note)),
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct NotSettled<'a> {
    r#type: &'static str,
    seconds: f64,
    tid: u32,
    host_tid: u32,
    note: &'a str,
}

fn line<'a>(happening: &'a Happening, seconds: f64, scene: &'a Scene, note: &'a str) -> Line<'a> {
    let thread = &happening.thread;
    let (r#type, entry) = match &happening.story {
        Story::Entry(Entry { class, cause, disarmed, .. }) => {
            let fields = EntryFields { class: class.name(), cause: label(cause), disarmed: *disarmed };
            ("violation", Some(fields))
        }
        Story::ArmRefused(_) => ("armRefused", None),
        Story::LeftCore => ("leftCore", None),
        Story::CameOn => ("cameOn", None),
        Story::Armed => ("armed", None),
        Story::Disarmed => ("disarmed", None),
    };
    Line {
        r#type,
        seconds,
        entry,
        place: scene.place.to_string(),
        callers: scene.callers.iter().map(ToString::to_string).collect(),
        blame: BlameFields::of(&happening.blame, scene),
        comm: &thread.comm,
        tid: thread.tid,
        host_tid: thread.host_tid,
        cpu: thread.cpu,
        ip: format!("{:#x}", happening.ip),
        note,
    }
}

/// no-color.org
fn colours() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Red for what was signalled, yellow for what was only told.
fn colour(story: &Story) -> &'static str {
    match story {
        Story::Entry(Entry { answer: Answer::Reported | Answer::Audit(_), .. }) => "\x1b[33m",
        _ => "\x1b[31m",
    }
}

/// One write a line, with our name: it shares stderr with the command.
pub(super) fn say(text: &str) {
    let lines: String = text.lines().map(|line| format!("quietcore: {line}\n")).collect();
    // Nobody is left to tell when stderr is closed; the command goes on.
    let _ = io::stderr().write_all(lines.as_bytes());
}

pub(super) fn say_json(value: &impl Serialize) {
    if let Ok(mut text) = serde_json::to_vec(value) {
        text.push(b'\n');
        let mut out = io::stdout().lock();
        let _ = out.write_all(&text).and_then(|()| out.flush());
    }
}
