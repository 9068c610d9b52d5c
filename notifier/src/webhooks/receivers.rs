//! Who gets events and alerts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::event::EventKind;
use super::post::PostTarget;
use super::sign::SigningSecret;

#[derive(Debug)]
pub(crate) struct Receivers {
    pub(super) events: BTreeSet<EventKind>,
    pub(super) targets: Vec<PostTarget>,
    pub(super) alertmanagers: Vec<PostTarget>,
    /// Labels of every alert, which tell installations apart.
    pub(super) labels: BTreeMap<String, String>,
    pub(super) secrets: Arc<Vec<SigningSecret>>,
    /// Timeout for one POST.
    pub(super) limit: Duration,
}

impl Receivers {
    /// Says in the log what becomes of events.
    pub(crate) fn announce(&self) {
        if !self.targets.is_empty() {
            let events: Vec<&str> = self.events.iter().map(|kind| kind.name()).collect();
            tracing::info!(targets = ?self.targets, ?events, secrets = self.secrets.len(), "webhooks will be posted");
        }
        if !self.alertmanagers.is_empty() {
            tracing::info!(alertmanagers = ?self.alertmanagers, "Alertmanager will be told which alerts fire");
        }
    }
}
