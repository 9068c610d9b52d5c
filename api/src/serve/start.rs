//! Checks the stores concurrently at start-up and builds the state that requests share.

use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::StartError;
use firstcome_shared::line_limit::LineLimit;
use firstcome_shared::mysql::processes::{ProcessRow, announce};
use firstcome_shared::process_state::SeenState;
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::LEASE;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::auth::UserIdentity;
use super::bulkheads::{Bulkheads, InFlightLimit};
use super::catalogue::Catalogue;
use super::catalogue::remaining::RemainingCache;
use super::claim::kafka::Publisher;
use super::claim::queue::Queues;
use super::claim::second_store::SecondStore;
use super::state::{RedisClock, Services};
use super::wrong_codes::WrongCodes;
use crate::start_check::{StoreWait, unless_stopped};

/// Builds the shared state. Returns `None` if `shutdown` came while waiting for a store.
pub(super) async fn services(
    args: &ServeArgs,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Services>> {
    let identity =
        UserIdentity::new(&args.identity, args.http.listen_addr).map_err(anyhow::Error::msg)?;
    // A gate stays closed for at least these deadlines before slots are given again, and no lease
    // may outlast that.
    anyhow::ensure!(
        args.publish.longest_in_flight() >= 2 * LEASE,
        "PUBLISH_DEADLINE_MS and the deadline of MySQL after it are below {:?} together: raise them",
        2 * LEASE
    );
    let settings = args.mysql.settings()?;
    let question_timeout = Duration::from_millis(args.http.question_timeout_ms);
    let mysql = Bulkheads::new(&settings, question_timeout)?;
    let redis_timeout = args.mysql.store_timeout();
    let redis = args.redis.settings(redis_timeout, &args.mysql.tls)?;
    let redis = Redis::new(&redis).context("REDIS_URL can't be used")?;
    let kafka = args.kafka.settings(&args.mysql.tls)?;
    let wait = StoreWait::new(&args.start, shutdown);
    let of_redis = format!("Redis at {}", redis.host_and_port());
    let checked = tokio::try_join!(
        wait.tables_or_copy(&mysql.operators, &settings, &redis),
        wait.until(&of_redis, async || Ok(redis.check_at_start().await?)),
        wait.topic_or_away(&kafka),
        keys(&wait, &identity)
    );
    let Some((copy, (), partitions, ())) = unless_stopped(checked)? else {
        return Ok(None);
    };
    tracing::info!(partitions, "the stores that answer have safe settings");

    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let process = ProcessRow {
        redis_prefix: Some(args.redis.redis_key_prefix.clone()),
        publish_deadline_ms: millis(args.publish.deadline()),
        fallback_deadline_ms: millis(args.publish.backup_deadline()),
        ..ProcessRow::new("serve", &kafka)
    };
    let seen = SeenState::default();
    let db = mysql.operators.clone();
    announce(db, process, seen.clone(), false, shutdown.clone()).await;

    let catalogue = Catalogue::load(mysql.catalogue.clone(), redis.clone(), copy).await?;
    let publisher = Publisher::new(kafka, args.publish.deadline(), partitions.is_some())?;
    let clock = RedisClock::default();
    clock.read(&redis).await;
    let second_store = SecondStore::new(publisher, &mysql.fallback, args.publish.clone());
    Ok(Some(Services {
        identity,
        catalogue,
        remaining: RemainingCache::default(),
        in_flight: InFlightLimit::new(args.http.max_claims_in_hand),
        mysql,
        redis,
        clock,
        second_store,
        queues: Queues::default(),
        max_wait: redis_timeout,
        request_timeout: Duration::from_millis(args.http.request_timeout_ms),
        refused: LineLimit::default(),
        wrong_codes: WrongCodes::default(),
        coupon_page: args.http.coupon_page,
        has_fast_path: args.http.has_fast_path,
        seen,
        stopping: CancellationToken::new(),
    }))
}

/// Waits for the keys that verify tokens.
async fn keys(wait: &StoreWait<'_>, identity: &UserIdentity) -> Result<(), StartError> {
    let Some(keys) = identity.key_set() else {
        return Ok(());
    };
    let read = async || Ok(keys.read().await?);
    let read = wait.until(&keys.to_string(), read).await;
    read.map_err(|error| match error {
        StartError::Refused(why) => StartError::Refused(format!("{keys}: {why}")),
        other => other,
    })
}
