//! Steps, progress, numbers and tables for the terminal.

use std::time::{Duration, Instant};

const PROGRESS_EVERY: Duration = Duration::from_secs(2);

/// Lines of progress, one every two seconds.
#[derive(Debug)]
pub struct Progress(Instant);

impl Default for Progress {
    fn default() -> Self {
        Self(Instant::now())
    }
}

impl Progress {
    pub fn show(&mut self, line: impl FnOnce() -> String) {
        if self.0.elapsed() >= PROGRESS_EVERY {
            self.0 = Instant::now();
            eprintln!("{}", line());
        }
    }
}

/// Prints a step that begins or has ended.
pub fn step(text: impl std::fmt::Display) {
    eprintln!("[firstcome] {text}");
}

/// Formats a table of two columns: name and value.
pub fn table(rows: impl IntoIterator<Item = (String, String)>) -> String {
    let lines = rows.into_iter();
    let lines = lines.map(|(what, value)| format!("  {what:<64} {value:>24}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// Formats a number with grouped thousands, as in 10,000.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Formats a number with about three significant digits, or as a whole number from 1,000 on.
pub fn number(value: f64) -> String {
    #[allow(
        clippy::cast_sign_loss,
        clippy::cast_possible_truncation,
        reason = "positive and rounded"
    )]
    match value {
        v if v < 0.0 => format!("-{}", number(-v)),
        v if v >= 1_000.0 => grouped(v.round() as u64),
        v if v >= 100.0 || v.fract() == 0.0 => format!("{v:.0}"),
        v if v >= 10.0 => format!("{v:.1}"),
        v => format!("{v:.2}"),
    }
}
