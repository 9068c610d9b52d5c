//! Reports steps on stderr, so that a slow first run never looks like a hang.

use std::fmt::Display;

/// Prints one step.
pub(crate) fn step(what: &str, text: impl Display) {
    eprintln!("[stack] {what}: {text}");
}
