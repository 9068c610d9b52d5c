//! Progress output: steps, and a line that is redrawn on a terminal. Without a terminal, a new line
//! is printed every two seconds.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use rustix::termios::tcgetwinsize;

const REDRAW: Duration = Duration::from_millis(100);
const PLAIN_EVERY: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub struct ProgressLine {
    terminal: bool,
    last: Option<Instant>,
    open: bool,
}

impl Default for ProgressLine {
    fn default() -> Self {
        Self::new()
    }
}

impl ProgressLine {
    pub fn new() -> Self {
        Self {
            terminal: stderr().is_terminal(),
            last: None,
            open: false,
        }
    }

    /// Shows the line, unless the previous one was shown very recently.
    pub fn show(&mut self, line: &str) {
        let pause = if self.terminal { REDRAW } else { PLAIN_EVERY };
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        self.write(line);
    }

    /// Shows the line and moves on to the next.
    pub fn finish(&mut self, line: &str) {
        self.write(line);
        if self.open {
            eprintln!();
        }
        self.open = false;
        self.last = None;
    }

    fn write(&mut self, line: &str) {
        if self.terminal {
            // A wrapped line could not be redrawn.
            let columns = tcgetwinsize(stderr()).map_or(80, |size| usize::from(size.ws_col));
            let line: String = line.chars().take(columns.saturating_sub(1)).collect();
            eprint!("\r\x1b[2K{line}");
            let _ = stderr().flush();
            self.open = true;
        } else {
            eprintln!("{line}");
        }
    }
}

/// Prints a step that begins or has ended.
pub fn step(text: impl std::fmt::Display) {
    eprintln!("[firstcome] {text}");
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

/// Formats a number with its significant digits.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_numbers_with_significant_digits() {
        let cases = [
            (0.0, "0"),
            (0.123, "0.12"),
            (12.34, "12.3"),
            (123.4, "123"),
            (12_345.6, "12,346"),
            (-3.5, "-3.50"),
        ];
        for (value, text) in cases {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn groups_thousands() {
        for (number, text) in [
            (0, "0"),
            (999, "999"),
            (1_000, "1,000"),
            (1_234_567, "1,234,567"),
        ] {
            assert_eq!(grouped(number), text);
        }
    }
}
