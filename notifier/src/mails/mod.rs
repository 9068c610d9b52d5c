//! Writes mails as subject, plain text and HTML: about decisions, and the daily digest.
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
pub(crate) use place::NamedDrop;
pub(crate) use read::Sources;
pub use section::Section;
pub(crate) use trial::test;
