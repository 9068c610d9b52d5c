//! The observations of a run.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use firstcome_testkit::Answer;
use serde::Serialize;

/// A user: the index of the requested coupon, and the user's number.
pub type ChaosPerson = (usize, u32);

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Answered {
    pub person: ChaosPerson,
    pub asked: Instant,
    pub answered: Instant,
    pub answer: Answer,
}

/// A fault that was injected.
#[derive(Debug, Clone, Serialize)]
pub struct TriedFault {
    pub name: String,
    /// The time and duration of the fault, as text.
    pub fault: String,
    /// Whether the fault had an effect.
    pub took: bool,
    pub note: String,
    /// The period in which the fault was active.
    #[serde(skip)]
    pub during: Range<Instant>,
}

pub(crate) struct Evidence<'a> {
    pub(crate) answers: &'a [Answered],
    pub(crate) hits: &'a [TriedFault],
    pub(crate) logs: &'a Path,
    /// Number of failed claims, plus the number of rows that the consumer did not write.
    pub(crate) not_by_consumer: u64,
}
