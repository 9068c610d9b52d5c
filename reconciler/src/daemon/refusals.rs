//! Watches for stores that answer but refuse. Most refusals are seen by other processes, since only
//! APIs write to Kafka, and consumers write most rows. This module reads what those processes have
//! recorded in MySQL, and checks the topic and the commits of MySQL itself. It does not repeat what
//! the watch over Redis sees.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::kafka::{TopicError, check_topic};
use firstcome_shared::mysql::DbError;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::notify::Notifier;
use crate::report::{COMMITS_HANG, FailureCause, StoreRefusal};

const EVERY: Duration = Duration::from_secs(5);

/// Interval between checks of the topic, and maximum wait for Kafka.
const TOPIC_EVERY: Duration = Duration::from_secs(20);
const TOPIC_LIMIT: Duration = Duration::from_secs(5);

/// Watches until `stop`.
pub(super) async fn watch(stores: Stores, notifier: Notifier, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut topic = None;
    // Whether commits of MySQL hung at the last check.
    let mut hung = false;
    // Whether a refusal was reported directly, because the outbox could not be written.
    let mut unrecorded = false;
    // The start check has just seen that the topic takes messages.
    let mut looked_at = Instant::now();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if looked_at.elapsed() >= TOPIC_EVERY {
            looked_at = Instant::now();
            topic = of_topic(&stores).await;
        }
        let is_hanging = stores.db.commits_hang().await.unwrap_or(hung);
        if is_hanging {
            // The outbox is in MySQL, so a mail through it would hang as well.
            notifier.cannot_write(COMMITS_HANG, Utc::now()).await;
        } else if hung {
            notifier.can_write(Utc::now()).await;
        }
        hung = is_hanging;
        if is_hanging {
            continue;
        }
        let mut seen = match of_processes(&stores).await {
            Ok(seen) => seen,
            // The pass and the watch over admission report it.
            Err(error) => {
                tracing::debug!(%error, "the problems of processes cannot be read");
                continue;
            }
        };
        seen.extend(topic.clone());
        let is_refused = !seen.is_empty();
        match notifier.refusals(seen, Utc::now()).await {
            Ok(()) if unrecorded && !is_refused => {
                unrecorded = !notifier.can_write(Utc::now()).await;
            }
            Ok(()) => {}
            Err(error) => {
                unrecorded = true;
                let error = format!("{error:#}");
                tracing::debug!(error, "the mail about a refusal is not in the outbox yet");
            }
        }
    }
}

/// Returns why the topic refuses messages, as far as its description shows that.
async fn of_topic(stores: &Stores) -> Option<(StoreRefusal, String)> {
    match check_topic(&stores.topic.settings, TOPIC_LIMIT).await {
        Err(TopicError::Refuses(why)) => known(FailureCause::Kafka, why),
        _ => None,
    }
}

async fn of_processes(stores: &Stores) -> Result<Vec<(StoreRefusal, String)>, DbError> {
    let mut seen = Vec::new();
    for problems in stores.db.store_problems().await? {
        let texts = [
            (FailureCause::Redis, problems.redis_problem),
            (FailureCause::Mysql, problems.mysql_problem),
            (FailureCause::Kafka, problems.kafka_problem),
        ];
        let refused = texts
            .into_iter()
            .filter_map(|(store, text)| known(store, text?));
        seen.extend(refused.filter(|(refusal, _): &(StoreRefusal, String)| {
            refusal.facts().store != FailureCause::Redis || refusal.is_of_connection()
        }));
    }
    Ok(seen)
}

fn known(store: FailureCause, text: String) -> Option<(StoreRefusal, String)> {
    Some((StoreRefusal::from_error(store, &text)?, text))
}
