//! What mails need to know of the settings.

use crate::alerts::MailPolicy;
use crate::render::Links;
use crate::webhooks::Subscriptions;

#[derive(Debug, Clone)]
pub(crate) struct MailSettings {
    /// Who gets mails, as they stand in a header.
    pub(crate) recipients: Vec<String>,
    /// What comes after the `@` of ids.
    pub(crate) domain: String,
    pub(crate) links: Links,
    pub(crate) policy: MailPolicy,
    pub(crate) subscriptions: Subscriptions,
}
