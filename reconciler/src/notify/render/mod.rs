//! From what is told to what is read: subject, plain text, HTML. Nothing here decides anything.

mod advice;
mod letter;
mod links;
mod notices;
mod pass;
mod subject;

pub use letter::Rendered;
pub use links::Links;
pub use notices::{Day, MissedRun, OpenAlert, SealedDrop, daily, database_back, database_gone, missed, test};
pub use pass::{Pass, pass};
