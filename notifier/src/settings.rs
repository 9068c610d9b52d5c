//! Settings of mails and webhooks, after parsing.

use crate::alerts::MailPolicy;
use crate::mails::Links;
use crate::send::webhook::Format;

/// What is written into the outbox, and for whom.
#[derive(Debug, Clone)]
pub(crate) struct MailSettings {
    /// The recipients in the format of a header.
    pub(crate) recipients: Vec<String>,
    /// The part of message IDs after the `@`.
    pub(crate) domain: String,
    pub(crate) links: Links,
    pub(crate) policy: MailPolicy,
    pub(crate) hooks: Vec<HookName>,
}

/// A webhook's address, without its secrets.
#[derive(Debug, Clone)]
pub(crate) struct HookName {
    pub(crate) name: String,
    pub(crate) format: Format,
}
