//! The targets of events.

use std::sync::Arc;
use std::time::Duration;

use super::post::PostTarget;
use super::sign::SigningSecret;

#[derive(Debug)]
pub(crate) struct Receivers {
    pub(super) targets: Vec<PostTarget>,
    pub(super) secrets: Arc<Vec<SigningSecret>>,
    /// Timeout for one POST.
    pub(super) limit: Duration,
}

impl Receivers {
    /// Logs how events are sent.
    pub(crate) fn announce(&self) {
        if !self.targets.is_empty() {
            tracing::info!(targets = ?self.targets, secrets = self.secrets.len(), "webhooks will be posted");
        }
    }
}
