//! The effect of a fault.

use std::ops::Range;
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Effect {
    /// Whether it had an effect: something was there to be killed, bytes were discarded, admissions
    /// were lost.
    pub took: bool,
    pub note: String,
    /// The time during which the fault was active.
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

    /// A fault that is over at once.
    pub(crate) fn now(took: bool, note: impl Into<String>) -> Self {
        Self::of(Instant::now()..Instant::now(), took, note)
    }
}
