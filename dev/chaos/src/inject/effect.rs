//! The effect of a fault.

use std::ops::Range;
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Effect {
    /// Whether the fault had an effect: there was a process to kill, bytes were discarded, or
    /// admissions were lost.
    pub took: bool,
    pub note: String,
    /// The period in which the fault was active.
    pub during: Range<Instant>,
}

impl Effect {
    pub(crate) fn of(during: Range<Instant>, took: bool, note: impl Into<String>) -> Self {
        Self {
            took,
            note: note.into(),
            during,
        }
    }

    /// Describes a fault that is over immediately.
    pub(crate) fn now(took: bool, note: impl Into<String>) -> Self {
        Self::of(Instant::now()..Instant::now(), took, note)
    }
}
