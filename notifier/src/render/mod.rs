//! Renders mails as subject, plain text and HTML. [`alerts`](crate::alerts) decides whether to
//! mail.

mod cases;
mod daily;
mod dead_links;
mod groups;
mod lead;
mod letter;
mod notices;
mod pass;

pub(crate) use cases::what_to_do_here;

pub use cases::what_to_do;
pub use daily::{DailyDigest, DigestDrop, OpenAlert, daily};
pub use dead_links::{DeadLink, is_local};
pub use groups::PassMail;
pub use letter::{Links, Rendered};
pub use notices::{
    MissedRun, admission_closed, admission_open, can_record, cannot_record, database_gone, missed,
    test, webhooks_off,
};
pub use pass::pass;
