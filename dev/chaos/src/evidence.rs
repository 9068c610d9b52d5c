//! What a run has shown.

use std::ops::Range;
use std::path::Path;
use std::time::Instant;

use firstcome_testkit::Answer;
use serde::Serialize;

/// Which of the coupons they want, and their number.
pub type ChaosPerson = (usize, u32);

/// One request and its answer.
#[derive(Debug, Clone)]
pub struct Answered {
    pub person: ChaosPerson,
    pub asked: Instant,
    pub answered: Instant,
    pub answer: Answer,
}

/// A fault that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct TriedFault {
    pub name: String,
    /// When and how long, as text.
    pub fault: String,
    /// Whether it took effect.
    pub took: bool,
    pub note: String,
    /// While it was on.
    #[serde(skip)]
    pub during: Range<Instant>,
}

pub(crate) struct Evidence<'a> {
    pub(crate) answers: &'a [Answered],
    pub(crate) hits: &'a [TriedFault],
    pub(crate) logs: &'a Path,
    /// Rows that the consumer did not write, and failed claims.
    pub(crate) not_by_consumer: u64,
}
