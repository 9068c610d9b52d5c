//! The effect of a fault.

use std::ops::Range;
use std::time::Instant;

#[derive(Debug)]
pub(crate) struct Effect {
    /// Whether the fault had an effect, for example killed a process, discarded bytes or lost
    /// admissions.
    pub(crate) took: bool,
    pub(crate) note: String,
    /// The period in which the fault was active.
    pub(crate) during: Range<Instant>,
}

impl Effect {
    pub(crate) fn lasting(during: Range<Instant>, took: bool, note: impl Into<String>) -> Self {
        let note = note.into();
        Self { took, note, during }
    }

    /// Describes a fault that is over immediately.
    pub(crate) fn now(took: bool, note: impl Into<String>) -> Self {
        Self::lasting(Instant::now()..Instant::now(), took, note)
    }
}
