//! The settings of mails after parsing.

use crate::alerts::MailPolicy;
use crate::render::Links;
use crate::webhooks::Subscriptions;

#[derive(Debug, Clone)]
pub(crate) struct MailSettings {
    /// The recipients in the format of a header.
    pub(crate) recipients: Vec<String>,
    /// The part of message IDs after the `@`.
    pub(crate) domain: String,
    pub(crate) links: Links,
    pub(crate) policy: MailPolicy,
    pub(crate) subscriptions: Subscriptions,
}
