//! Histories: what people asked, what they were answered, and what the tables had, a JSON line an
//! event; and the checker that decides offline whether the promises were kept. It shares no code
//! with the product, so it can't share its mistakes.
//!
//! - [`event`]: the lines.
//! - [`Recorder`]: writes them while it happens.
//! - [`history`]: reads them back.
//! - [`check()`]: judges them; [`Violation`] names what can be wrong, [`Verdict`] is the judgement.
//!
//! `firstcome-check FILE` is the same as a program: exit code 0 passed, 1 violated, 2 unknown or
//! unreadable.
#![warn(clippy::unwrap_used, clippy::expect_used, clippy::missing_panics_doc)]

pub mod check;
pub mod event;
pub mod history;
mod recorder;
mod verdict;
mod violation;

pub use check::check;
pub use event::{
    HistoryLine, RecordedAnswer, RecordedEvent, RecordedOutcome, RecordedRow, RecordedScope,
};
pub use history::{History, Unreadable};
pub use recorder::{Pending, Recorder};
pub use verdict::{Figures, Judgement, Verdict};
pub use violation::Violation;
