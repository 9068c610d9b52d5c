//! From what is told to what is read: subject, plain text, HTML. Nothing here decides anything.

mod advice;
mod daily;
mod letter;
mod lines;
mod links;
mod notices;
mod pass;
mod subject;

pub use daily::{Day, OpenAlert, SealedDrop, daily};
pub use letter::Rendered;
pub use links::Links;
pub use notices::{MissedRun, database_back, database_gone, missed, test};
pub use pass::{Pass, pass};
