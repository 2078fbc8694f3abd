//! One figure of the bench: what was measured, what it is held against, and whether it holds.

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

/// Of the rounds of one run. Half of them lie between the quartiles.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Spread {
    pub median: f64,
    pub quartiles: [f64; 2],
}

impl Spread {
    pub fn of(values: &[f64]) -> Spread {
        let at = |percent| round(percentile(values, percent));
        Spread { median: at(50), quartiles: [at(25), at(75)] }
    }

    /// Round by round, so that what the machine did meanwhile falls on both.
    pub fn of_ratios(values: &[f64], bases: &[f64]) -> Spread {
        Spread::of(&values.iter().zip(bases).map(|(value, base)| value / base).collect::<Vec<_>>())
    }
}

pub fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
}

/// For a reader: a tenth of a nanosecond, a thousandth of a ratio.
pub fn round(value: f64) -> f64 {
    let digits = if value.abs() < 20.0 { 1000.0 } else { 10.0 };
    (value * digits).round() / digits
}

#[derive(Debug, Serialize)]
pub struct Line {
    pub name: String,
    pub what: String,
    pub unit: &'static str,
    /// What each is, and it.
    #[serde(serialize_with = "as_map")]
    pub values: Vec<(&'static str, Value)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<Spread>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
    /// What is no matter of speed must hold on every machine.
    #[serde(skip)]
    must_hold: bool,
}

impl Line {
    pub fn new(name: impl Into<String>, what: impl Into<String>, unit: &'static str) -> Line {
        Line {
            name: name.into(),
            what: what.into(),
            unit,
            values: Vec::new(),
            ratio: None,
            budget: None,
            holds: None,
            must_hold: false,
        }
    }

    pub fn value(mut self, name: &'static str, value: impl Serialize) -> Line {
        self.values.push((name, json!(value)));
        self
    }

    pub fn ratio(self, ratio: Spread) -> Line {
        Line { ratio: Some(ratio), ..self }
    }

    pub fn budget(self, budget: &str, holds: bool) -> Line {
        Line { budget: Some(budget.to_owned()), holds: Some(holds), ..self }
    }

    pub fn exactly(self, budget: &str, holds: bool) -> Line {
        Line { must_hold: true, ..self.budget(budget, holds) }
    }

    pub fn failed(&self) -> bool {
        self.must_hold && self.holds == Some(false)
    }

    pub fn text(&self) -> String {
        // A list is for the file.
        let values = self.values.iter().filter(|(_, value)| !value.is_array());
        let values = values.map(|(name, value)| format!("{name} {}", shown(value)));
        let values = values.collect::<Vec<_>>().join(", ");
        let ratio = self.ratio.map_or(String::new(), |ratio| format!(" ({})", times(ratio.median)));
        let verdict = match (&self.budget, self.holds) {
            (Some(budget), Some(true)) => format!("  ok: {budget}"),
            (Some(budget), _) => format!("  over: {budget}"),
            (None, _) => String::new(),
        };
        format!("{:<66} {values} {}{ratio}{verdict}", self.what, self.unit)
    }
}

fn as_map<S: Serializer>(values: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(values.iter().map(|(name, value)| (name, value)))
}

pub fn times(ratio: f64) -> String {
    if ratio < 0.1 { format!("{ratio:.3} x") } else { format!("{ratio:.2} x") }
}

fn shown(value: &Value) -> String {
    let value = value.get("median").unwrap_or(value);
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
