//! Mails as text: subject, plain text, HTML. Nothing here decides what is mailed.

mod daily;
mod groups;
mod lead;
mod letter;
mod notices;
mod pass;

pub use daily::{Day, OpenAlert, SealedDrop, daily};
pub use letter::{Links, Rendered};
pub use notices::{
    MissedRun, admission_closed, admission_open, can_record, cannot_record, database_gone, missed, test,
};
pub use pass::{Pass, pass};

/// What a person is to do about it, in a sentence or two.
pub fn advice(about: crate::alerts::About) -> &'static str {
    lead::sentence(about)
}
