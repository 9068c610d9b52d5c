//! Transactional outbox relay: a task that delivers each row at least once, with exponential
//! backoff. A server that is down, slow or silent delays only its own deliveries.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::outbox::DeliveryOutcome;
use rand::RngExt as _;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Interval of polling an outbox for rows of other processes and for retries.
const POLL: Duration = Duration::from_secs(5);

/// Grace period for deliveries in progress at shutdown.
const GRACE: Duration = Duration::from_secs(5);

/// Extra time of a lease beyond the delivery's timeout, to record the outcome.
pub(super) const RECORDING: Duration = Duration::from_secs(60);

/// First and longest pause between attempts for a row, in seconds.
const BACKOFF_SECONDS: (i64, i64) = (30, 3_600);

/// Number of days after which an undelivered row is given up.
pub(super) const GIVE_UP_DAYS: i64 = 3;

/// An outbox, and how to deliver its rows.
pub(super) trait Outbox: Sync {
    /// Attempts due deliveries. Returns how many rows were attempted, although slow deliveries may
    /// still be in progress.
    fn round(&self) -> impl Future<Output = Result<usize, DbError>> + Send;

    /// Waits for the deliveries of earlier rounds that are still in progress.
    fn settle(&self) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }

    /// Records the outcome of a delivery.
    fn keep(
        &self,
        id: i64,
        outcome: DeliveryOutcome,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<(), DbError>> + Send;
}

/// Delivers until `shutdown`, then finishes the deliveries in progress within a few seconds.
pub(super) async fn run(outbox: &impl Outbox, wake: &Notify, shutdown: &CancellationToken) {
    let mut is_failing = false;
    loop {
        let mut round = std::pin::pin!(outbox.round());
        let tried = tokio::select! {
            tried = &mut round => tried,
            () = shutdown.cancelled() => {
                let rest = async {
                    drop(round.await);
                    outbox.settle().await;
                };
                return finish(rest).await;
            }
        };
        match tried {
            Ok(1..) => {
                is_failing = false;
                continue;
            }
            Ok(0) => is_failing = false,
            Err(error) if !is_failing => {
                tracing::warn!(%error, "the outbox can't be read; mails and webhooks wait");
                is_failing = true;
            }
            Err(_) => {}
        }
        tokio::select! {
            () = shutdown.cancelled() => return finish(outbox.settle()).await,
            () = wake.notified() => {}
            () = tokio::time::sleep(POLL) => {}
        }
    }
}

/// Waits at most a few seconds for deliveries in progress at shutdown.
async fn finish(rest: impl Future<Output = ()>) {
    if timeout(GRACE, rest).await.is_err() {
        tracing::warn!(
            "mails or webhooks were still being handed over at shutdown; they are tried again after their lease"
        );
    }
}

/// Records the outcome of a delivery. Retries for as long as the lease lasts, because an unrecorded
/// delivery would be repeated.
pub(super) async fn record(
    outbox: &impl Outbox,
    id: i64,
    outcome: DeliveryOutcome,
    now: DateTime<Utc>,
) {
    let record = async {
        while let Err(error) = outbox.keep(id, outcome.clone(), now).await {
            tracing::debug!(%error, id, "the outcome of a delivery can't be recorded yet");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    if timeout(RECORDING, record).await.is_err() {
        tracing::error!(
            id,
            ?outcome,
            "the outcome of a delivery could not be recorded; it may come twice"
        );
    }
}

/// Why a delivery failed.
pub(super) struct DeliveryFailure {
    /// Whether the receiver rejected the delivery permanently.
    pub(super) is_final: bool,
    pub(super) reason: String,
    /// The pause that the receiver requested.
    pub(super) retry_after: Option<Duration>,
}

impl DeliveryFailure {
    pub(super) fn outcome(
        self,
        created_at: DateTime<Utc>,
        attempts: u32,
        now: DateTime<Utc>,
    ) -> DeliveryOutcome {
        if self.is_final || now - created_at >= TimeDelta::days(GIVE_UP_DAYS) {
            return DeliveryOutcome::GivenUp(self.reason);
        }
        let longest = TimeDelta::seconds(BACKOFF_SECONDS.1);
        let asked = self.retry_after.map_or(TimeDelta::zero(), |asked| {
            TimeDelta::from_std(asked).unwrap_or(longest)
        });
        DeliveryOutcome::Retry(now + backoff(attempts).max(asked.min(longest)), self.reason)
    }
}

/// Returns the pause before the next attempt. It doubles each time and varies by a fifth, so that
/// deliveries that failed together are not retried together.
pub(super) fn backoff(attempts: u32) -> TimeDelta {
    let (first, longest) = BACKOFF_SECONDS;
    let seconds = (first << attempts.min(16)).min(longest);
    TimeDelta::milliseconds(seconds * rand::rng().random_range(800..=1_200))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_delay_doubles_up_to_one_hour() {
        for (attempts, seconds) in [
            (0, 30),
            (1, 60),
            (2, 120),
            (6, 1_920),
            (7, 3_600),
            (8, 3_600),
            (500, 3_600),
        ] {
            for _ in 0..50 {
                let pause = backoff(attempts).num_milliseconds();
                assert!(
                    (seconds * 800..=seconds * 1_200).contains(&pause),
                    "{attempts}: {pause}"
                );
            }
        }
    }

    #[test]
    fn retry_after_is_respected_up_to_the_maximum_pause() {
        for (asked, seconds) in [
            (None, 24..=36),
            (Some(5), 24..=36),
            (Some(600), 600..=600),
            (Some(u64::MAX), 3_600..=3_600),
        ] {
            let failure = DeliveryFailure {
                is_final: false,
                reason: String::new(),
                retry_after: asked.map(Duration::from_secs),
            };
            let now = DateTime::UNIX_EPOCH;
            let DeliveryOutcome::Retry(at, _) = failure.outcome(now, 0, now) else {
                panic!("{asked:?}")
            };
            assert!(
                seconds.contains(&(at - now).num_seconds()),
                "{asked:?}: {at}"
            );
        }
    }
}
