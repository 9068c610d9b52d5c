//! What came of a fault.

use std::ops::Range;
use std::time::Instant;

#[derive(Debug, Clone)]
pub struct Effect {
    /// Whether it really happened: something was there to be killed, bytes were thrown away,
    /// admissions were forgotten.
    pub took: bool,
    pub note: String,
    /// While it was on.
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

    /// One that is over at once.
    pub(crate) fn now(took: bool, note: impl Into<String>) -> Self {
        Self::of(Instant::now()..Instant::now(), took, note)
    }
}
