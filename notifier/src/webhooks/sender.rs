//! The relay of a webhook target. Each target has its own task, which sends one event at a time, so
//! that an unreachable target delays neither mails nor other targets.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::mysql::outbox::DeliveryOutcome;
use firstcome_shared::mysql::webhooks::{self, LeasedWebhook};
use firstcome_shared::mysql::{Db, DbError};
use hyper::StatusCode;
use tokio::sync::Notify;

use super::post::{NoAnswer, PostAnswer, PostTarget};
use super::sign::{SigningSecret, signatures};
use super::{Receivers, WebhookEvent};
use crate::clock::{Clock, elapsed};
use crate::record::{self, StandaloneMail};
use crate::relay::{self, DeliveryFailure, Outbox, RECORDING};
use crate::render;
use crate::settings::MailSettings;

/// A target with its deliveries.
pub(crate) struct Relay {
    db: Db,
    settings: Arc<MailSettings>,
    pub(super) post: SignedPost,
    clock: Arc<dyn Clock>,
    pub(crate) wake: Notify,
    /// Whether the target answered 410. If so, this process sends it no more events.
    is_gone: AtomicBool,
}

/// Posts signed events to a target.
pub(super) struct SignedPost {
    pub(super) target: PostTarget,
    secrets: Arc<Vec<SigningSecret>>,
    limit: Duration,
}

impl Receivers {
    /// Creates a poster for each target.
    pub(super) fn signed_posts(&self) -> Vec<SignedPost> {
        let secrets = &self.secrets;
        let limit = self.limit;
        let post = |target: &PostTarget| SignedPost {
            target: target.clone(),
            secrets: secrets.clone(),
            limit,
        };
        self.targets.iter().map(post).collect()
    }

    pub(crate) fn relays(
        &self,
        db: &Db,
        settings: &Arc<MailSettings>,
        clock: &Arc<dyn Clock>,
    ) -> Vec<Relay> {
        let relay = |post| Relay {
            db: db.clone(),
            settings: settings.clone(),
            post,
            clock: clock.clone(),
            wake: Notify::new(),
            is_gone: AtomicBool::new(false),
        };
        self.signed_posts().into_iter().map(relay).collect()
    }
}

impl SignedPost {
    pub(super) async fn event(
        &self,
        id: &str,
        now: DateTime<Utc>,
        body: &str,
    ) -> Result<PostAnswer, NoAnswer> {
        // Sign the time of this attempt, because receivers reject old events as possible replays.
        let timestamp = now.timestamp();
        let signature = signatures(&self.secrets, id, timestamp, body);
        let timestamp = timestamp.to_string();
        let headers = [
            ("webhook-id", id),
            ("webhook-timestamp", timestamp.as_str()),
            ("webhook-signature", &signature),
        ];
        self.target
            .post(self.limit, &headers, body.to_owned())
            .await
    }
}

impl Outbox for Relay {
    async fn round(&self) -> Result<usize, DbError> {
        if self.is_gone.load(Ordering::Relaxed) {
            return Ok(0);
        }
        let now = self.clock.now();
        let target = self.post.target.name.clone();
        let Some(webhook) =
            webhooks::lease(&self.db, target, now, now + self.post.limit + RECORDING).await?
        else {
            let waiting = webhooks::waiting(&self.db).await?;
            #[allow(clippy::cast_precision_loss)] // a gauge is a float; no outbox has 2^52 rows
            metrics::gauge!("firstcome_webhooks_waiting").set(waiting as f64);
            return Ok(0);
        };
        self.send(&webhook, now).await;
        Ok(1)
    }

    async fn keep(
        &self,
        id: i64,
        outcome: DeliveryOutcome,
        now: DateTime<Utc>,
    ) -> Result<(), DbError> {
        webhooks::record_outcome(&self.db, id, outcome, now).await
    }
}

impl Relay {
    async fn send(&self, webhook: &LeasedWebhook, now: DateTime<Utc>) {
        crash_point(Point::WebhookDue);
        let answer = self.post.event(&webhook.event_id, now, &webhook.body).await;
        crash_point(Point::WebhookSent);
        let is_gone = answer
            .as_ref()
            .is_ok_and(|answer| answer.status == StatusCode::GONE);
        let retry_after = answer.as_ref().ok().and_then(|answer| answer.retry_after);
        let delivered = answer
            .map_err(|error| error.to_string())
            .and_then(PostAnswer::success);
        let now = self.clock.now();
        let outcome = match delivered {
            Ok(()) => DeliveryOutcome::Sent,
            Err(reason) => {
                let failure = DeliveryFailure {
                    is_final: is_gone,
                    reason,
                    retry_after,
                };
                failure.outcome(webhook.created_at.and_utc(), webhook.attempts, now)
            }
        };
        self.log(webhook, &outcome);
        relay::record(self, webhook.id, outcome, now).await;
        if is_gone {
            self.turn_off(now).await;
        }
    }

    /// Stops sending to a target that answered 410 and mails the operators, as the specification
    /// requires.
    async fn turn_off(&self, now: DateTime<Utc>) {
        self.is_gone.store(true, Ordering::Relaxed);
        let target = self.post.target.name.clone();
        tracing::error!(
            target,
            "it answered 410 Gone: no webhook is posted there until the reconciler is restarted"
        );
        // Several processes may get 410, but only one of them mails it.
        let fact = format!(
            "webhooks_off:{}",
            target.rsplit('#').next().unwrap_or_default()
        );
        let decide = move |fact: Option<&str>, settings: &MailSettings| {
            let mailed = fact.and_then(|fact| DateTime::parse_from_rfc3339(fact).ok());
            if mailed.is_some_and(|at| elapsed(at.to_utc(), now) < settings.policy.cooldown) {
                return Ok(None);
            }
            Ok(Some(StandaloneMail {
                mail: render::webhooks_off(&target, now)?,
                fact: now.to_rfc3339(),
                event: None,
            }))
        };
        if let Err(error) =
            record::enqueue_once(&self.db, self.settings.clone(), now, fact, decide).await
        {
            tracing::error!(%error, "the mail about disabled webhooks could not be enqueued");
        }
    }

    /// Posts an event once without retries, bypassing the outbox, which is in MySQL.
    pub(crate) async fn post_directly(&self, event: &WebhookEvent, now: DateTime<Utc>) {
        if self.is_gone.load(Ordering::Relaxed) {
            return;
        }
        let answer = self.post.event(&event.id, now, &event.body()).await;
        if let Err(error) = answer
            .map_err(|error| error.to_string())
            .and_then(PostAnswer::success)
        {
            tracing::error!(
                error,
                target = self.post.target.name,
                "a webhook about MySQL could not be posted"
            );
        }
    }

    fn log(&self, webhook: &LeasedWebhook, outcome: &DeliveryOutcome) {
        let id = webhook.event_id.as_str();
        let kind = webhook.kind.as_str();
        let attempt = webhook.attempts + 1;
        let target = self.post.target.name.as_str();
        let result = match outcome {
            DeliveryOutcome::Sent => {
                tracing::info!(id, kind, attempt, target, "webhook posted");
                "sent"
            }
            DeliveryOutcome::Retry(at, error) => {
                tracing::warn!(id, kind, attempt, target, error, next_attempt_at = %at, "webhook not posted yet");
                "retried"
            }
            DeliveryOutcome::GivenUp(error) => {
                tracing::error!(id, kind, attempt, target, error, "webhook given up");
                "given_up"
            }
        };
        metrics::counter!("firstcome_webhooks_total", "result" => result).increment(1);
    }
}
