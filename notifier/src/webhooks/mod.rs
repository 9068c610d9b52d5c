//! Webhooks: events for programs, in addition to the mails for operators
//! (docs/decisions/0017-webhooks.md).
//!
//! Like mails, webhooks use a transactional outbox: `event` builds the events, `record` enqueues
//! them in the transaction that they report, and one task for each target signs (`sign`) and posts
//! them (`sender`).

mod args;
mod event;
mod post;
mod sender;
mod sign;
mod test;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::result::QueryResult;
use firstcome_shared::mysql::Conn;
use firstcome_shared::mysql::webhooks::{self, NewWebhook};

use crate::report::{DropReport, Numbers, Run};
use post::PostTarget;
use sign::SigningSecret;

pub use args::WebhookArgs;
pub(crate) use event::{EventKind, WebhookEvent, of_pass};
pub(crate) use sender::Relay;
pub use test::test_webhook;

/// Maximum number of drops with events in one pass. The next pass continues.
const DROPS: usize = 1_000;

/// The targets of events.
#[derive(Debug)]
pub(crate) struct Receivers {
    targets: Vec<PostTarget>,
    secrets: Arc<Vec<SigningSecret>>,
    /// Timeout for one POST.
    limit: Duration,
}

/// The targets for which events are enqueued.
#[derive(Debug, Clone)]
pub(crate) struct Subscriptions {
    targets: Vec<String>,
}

impl Receivers {
    /// Logs how events are sent.
    pub(crate) fn announce(&self) {
        if !self.targets.is_empty() {
            tracing::info!(targets = ?self.targets, secrets = self.secrets.len(), "webhooks will be posted");
        }
    }

    pub(crate) fn subscriptions(&self) -> Subscriptions {
        let targets = self
            .targets
            .iter()
            .map(|target| target.name.clone())
            .collect();
        Subscriptions { targets }
    }
}

impl Subscriptions {
    /// Enqueues events for each target. Must be called in the transaction that they report.
    pub(crate) async fn enqueue(
        &self,
        conn: &mut Conn,
        events: &[WebhookEvent],
        now: DateTime<Utc>,
    ) -> QueryResult<()> {
        let rows = events.iter().flat_map(|event| {
            let row = move |target| NewWebhook {
                created_at: now.naive_utc(),
                next_attempt_at: now.naive_utc(),
                event_id: &event.id,
                kind: event.kind.name(),
                target,
                body: event.body(),
            };
            self.targets.iter().map(move |target| row(target.as_str()))
        });
        webhooks::enqueue(conn, rows.collect()).await
    }

    /// Enqueues the news about drops that a pass examined: new rows, and sold-out drops.
    pub(crate) async fn enqueue_of_drops(
        &self,
        conn: &mut Conn,
        run: &Run,
        now: DateTime<Utc>,
    ) -> QueryResult<()> {
        if run.dry_run || self.targets.is_empty() {
            return Ok(());
        }
        let ids: Vec<i64> = run.drops.iter().map(|report| report.drop_id.0).collect();
        let said = webhooks::said_of(conn, &ids).await?;
        let mut enqueued = 0;
        // A drop that could not be examined has no counts, and one that was not compared again has
        // old ones.
        let has_numbers =
            |report: &&DropReport| report.after != Numbers::default() && !report.unconfirmed;
        for report in run.drops.iter().filter(has_numbers) {
            let said = said.get(&report.drop_id);
            // Another process has recorded a later pass in the meantime.
            let is_late = said.is_some_and(|said| said.run_id >= run.run_id);
            let grew =
                said.map_or(0, |said| said.issued) != i64::try_from(report.after.rows).unwrap_or(0);
            let ended = said.is_none_or(|said| said.sold_out_quantity < report.quantity)
                && event::is_sold_out(report);
            if is_late || !(grew || ended) {
                continue;
            }
            enqueued += 1;
            if enqueued > DROPS {
                break;
            }
            let highest = webhooks::highest_slot(conn, report.drop_id).await?;
            let (says, events) = event::of_drop(report, said, run.run_id.as_str(), highest, now);
            self.enqueue(conn, &events, now).await?;
            webhooks::say_of(conn, &says).await?;
        }
        Ok(())
    }
}
