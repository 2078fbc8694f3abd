//! What a run came to: the table at its end, and the same as JSON. Pure.

use std::{fmt::Write as _, time::Duration};

use serde::Serialize;

use super::{args::action_text, shield::CouldNot, tally::Seen};
use crate::{
    arm::plan::Provider,
    guard::{abi::qc_counts, detector::Detector},
    policy::effective::{Action, Class, Effective},
};

/// Columns of the longest bar.
const BAR: f64 = 40.0;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Verdict {
    Quiet,
    Violated,
    /// Nothing was ever armed, or records were lost: quiet or not, nobody knows.
    NotProved,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    pub r#type: &'static str,
    pub cpus: String,
    /// How entries were seen, and who answered the prctl.
    pub detector: &'static str,
    pub provider: &'static str,
    pub seconds: f64,
    /// CMD's, as a shell has it.
    pub status: u8,
    pub verdict: Verdict,
    pub armings: u64,
    pub quiet_seconds: f64,
    pub longest_quiet_seconds: f64,
    pub unknown_stretches: u64,
    pub signals: u64,
    pub lost: u64,
    pub unwatched: u64,
    pub not_printed: u64,
    pub classes: Vec<ClassSummary>,
    pub stretches: Vec<Stretch>,
    pub could_not: Vec<CouldNot>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClassSummary {
    pub class: &'static str,
    pub action: String,
    /// Of all watched threads, armed or not.
    pub entries: u64,
    /// `None`: its action is Ignore, and no program asked for a signal by its own prctl.
    pub while_armed: Option<u64>,
    pub causes: Vec<Cause>,
}

#[derive(Debug, Serialize)]
pub struct Cause {
    pub cause: String,
    pub count: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stretch {
    pub from_us: u64,
    pub to_us: u64,
    pub count: u64,
    pub seconds: f64,
}

/// What the run itself knows.
#[derive(Debug)]
pub struct Run {
    pub cpus: String,
    pub detector: Detector,
    pub provider: Provider,
    pub time: Duration,
    pub status: u8,
    pub not_printed: u64,
    pub could_not: Vec<CouldNot>,
}

impl Summary {
    pub fn new(run: Run, policy: &Effective, counts: &qc_counts, seen: Seen) -> Summary {
        let Run { cpus, detector, provider, time, status, not_printed, could_not } = run;
        let verdict = verdict(&seen, counts);
        let class = |(class, causes): (Class, Vec<(String, u64)>)| {
            let action = policy.actions[class.index()];
            let violations = counts.violations[class.index()];
            ClassSummary {
                class: class.name(),
                action: action_text(action),
                entries: counts.entries[class.index()],
                while_armed: (action != Action::Ignore || 0 < violations).then_some(violations),
                causes: causes.into_iter().map(|(cause, count)| Cause { cause, count }).collect(),
            }
        };
        Summary {
            r#type: "summary",
            cpus,
            detector: detector.name(),
            provider: provider.name(),
            seconds: time.as_secs_f64(),
            status,
            verdict,
            armings: seen.armings,
            quiet_seconds: seen.stretches.total.as_secs_f64(),
            longest_quiet_seconds: seen.stretches.longest.as_secs_f64(),
            unknown_stretches: seen.unknown_stretches,
            signals: counts.signals,
            lost: counts.lost,
            unwatched: counts.unwatched,
            not_printed,
            classes: Class::ALL.into_iter().zip(seen.causes).map(class).collect(),
            stretches: seen
                .stretches
                .by_length
                .into_iter()
                .map(|(power, (count, total))| Stretch {
                    from_us: if power == 0 { 0 } else { 1 << (power - 1) },
                    to_us: 1_u64.checked_shl(power).unwrap_or(u64::MAX),
                    count,
                    seconds: total.as_secs_f64(),
                })
                .collect(),
            could_not,
        }
    }

    pub fn table(&self) -> String {
        // Writing to a String cannot fail.
        let mut text = String::new();
        let armings = times(self.armings);
        let _ = writeln!(
            text,
            "CPU {}, {:.3} s, status {}; armed {armings}; {} sent",
            self.cpus,
            self.seconds,
            self.status,
            plural(self.signals, "signal"),
        );
        let _ =
            writeln!(text, "watched by the {} detector; {} answers the prctl", self.detector, self.provider);
        let _ =
            writeln!(text, "{:<14}{:<17}{:>10}{:>13}  cause", "class", "action", "entries", "while armed");
        for class in &self.classes {
            let armed = class.while_armed.map_or("-".to_owned(), |count| count.to_string());
            let mut left = format!("{:<14}{:<17}{:>10}{armed:>13}", class.class, class.action, class.entries);
            for Cause { cause, count } in &class.causes {
                let _ = writeln!(text, "{left}  {count} {cause}");
                left = " ".repeat(left.len());
            }
            if class.causes.is_empty() {
                let _ = writeln!(text, "{left}");
            }
        }
        self.write_stretches(&mut text);
        self.write_notes(&mut text);
        text
    }

    fn write_stretches(&self, text: &mut String) {
        let count: u64 = self.stretches.iter().map(|stretch| stretch.count).sum();
        let most = self.stretches.iter().map(|stretch| stretch.seconds).fold(0.0, f64::max);
        if count == 0 {
            return;
        }
        let _ = writeln!(
            text,
            "quiet while armed: {} in {}, the longest {}",
            seconds(self.quiet_seconds),
            plural(count, "stretch"),
            seconds(self.longest_quiet_seconds)
        );
        for Stretch { from_us, to_us, count, seconds: total } in &self.stretches {
            let _ = writeln!(
                text,
                "{:>12} .. {:<10}{count:>8}{:>12}  {}",
                micros(*from_us),
                micros(*to_us),
                seconds(*total),
                bar(*total, most)
            );
        }
    }

    fn write_notes(&self, text: &mut String) {
        let mut note = |shown: bool, words: String| {
            if shown {
                let _ = writeln!(text, "note: {words}");
            }
        };
        note(
            self.armings == 0,
            "no thread was ever armed, so nothing was proved: the program calls prctl(PR_TASK_ISOLATION, ..), or use \
             --arm exec"
                .to_owned(),
        );
        let ignored = self.classes.iter().filter(|class| class.while_armed.is_none());
        let ignored: Vec<&str> = ignored.map(|class| class.class).collect();
        note(
            !ignored.is_empty(),
            format!("not recorded, and in no stretch, because the action is Ignore: {}", ignored.join(", ")),
        );
        note(
            0 < self.lost,
            format!(
                "{} lost: causes and stretches are incomplete, counts are not",
                plural(self.lost, "record")
            ),
        );
        note(
            0 < self.unwatched,
            format!("{} could not be watched: the kernel had no memory", plural(self.unwatched, "thread")),
        );
        note(
            0 < self.not_printed,
            format!("{} not printed, because they came too fast", plural(self.not_printed, "violation")),
        );
        note(
            0 < self.unknown_stretches,
            format!(
                "the end of {} is not known, because the thread ended while armed: left out",
                plural(self.unknown_stretches, "stretch")
            ),
        );
    }
}

fn verdict(seen: &Seen, counts: &qc_counts) -> Verdict {
    match () {
        () if 0 < seen.violations + seen.refused + seen.left_core => Verdict::Violated,
        () if seen.armings == 0 || 0 < counts.lost || 0 < counts.unwatched => Verdict::NotProved,
        () => Verdict::Quiet,
    }
}

fn plural(count: u64, noun: &str) -> String {
    match (count, noun) {
        (1, _) => format!("1 {noun}"),
        (_, "stretch") => format!("{count} stretches"),
        _ => format!("{count} {noun}s"),
    }
}

fn times(count: u64) -> String {
    match count {
        0 => "never".to_owned(),
        1 => "once".to_owned(),
        _ => format!("{count} times"),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 1 and BAR, and a bar is a picture"
)]
fn bar(value: f64, most: f64) -> String {
    let columns = if most <= 0.0 { 1 } else { (value / most * BAR).round() as usize };
    "#".repeat(columns.max(1))
}

fn seconds(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} us", s * 1e6),
        s if s < 1.0 => format!("{:.3} ms", s * 1e3),
        s => format!("{s:.3} s"),
    }
}

/// Powers of two, by their nearest round name: 1,024 us are a millisecond here.
fn micros(micros: u64) -> String {
    match micros {
        n if n < 1 << 10 => format!("{n} us"),
        n if n < 1 << 20 => format!("{} ms", n >> 10),
        n => format!("{} s", n >> 20),
    }
}

#[cfg(test)]
#[path = "summary_tests.rs"]
mod tests;
