//! Writes mails as subject, plain text and HTML: about decisions (`mail.rs` puts the parts in
//! order), and the daily digest (`digest.rs`).
//!
//! `read.rs` reads what a mail says of an alert, and `section.rs` holds it. `reasons.rs` lists the
//! findings, `remedy.rs` says what to do, `links.rs` where, `place.rs` and `phrases.rs` name drops,
//! numbers and times. `document.rs` renders blocks as text and HTML. What a kind of finding means is
//! in `shared/src/report/kinds.rs`.
//!
//! Texts are composed and wrapped: search for three or four words.

mod digest;
mod document;
mod links;
mod mail;
mod phrases;
mod place;
mod read;
mod reasons;
mod remedy;
mod section;
mod trial;

pub use digest::daily;
pub use document::Rendered;
pub use links::{AttachedCampaign, Links};
pub use mail::AlertMail;
pub(crate) use place::DescribedDrop;
pub(crate) use read::Sources;
pub use section::Section;
pub(crate) use trial::test;
