//! A history contains requests, their answers and the contents of tables, one JSON line per event.
//! An offline checker decides from it whether the promises were kept. It shares no code with the
//! product, so it cannot repeat the product's mistakes.
//!
//! - [`event`]: the lines.
//! - [`Recorder`]: writes them during a run.
//! - [`history`]: parses them.
//! - [`check()`]: judges them; [`Violation`] names the kinds of failure, [`Verdict`] is the result.
#![warn(clippy::missing_panics_doc)]

pub mod check;
pub mod event;
pub mod history;
mod recorder;
mod verdict;
mod violation;

pub use check::check;
pub use event::{
    CodeAnswer, HistoryLine, RecordedAnswer, RecordedEvent, RecordedOutcome, RecordedRow,
    RecordedScope, ShownClaim,
};
pub use history::History;
pub use recorder::{Pending, Recorder};
pub use verdict::{Figures, Judgement, Verdict};
pub use violation::{Rule, Violation};
