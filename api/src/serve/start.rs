//! Checks the stores concurrently at start-up and builds the state that requests share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::StartError;
use firstcome_shared::kafka::KafkaSettings;
use firstcome_shared::mysql::processes::{ProcessRow, announce};
use firstcome_shared::redis::Redis;
use firstcome_shared::schedule::time_zone;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::auth::Identity;
use super::bulkheads::Bulkheads;
use super::catalogue::Catalogue;
use super::catalogue::remaining::RemainingCache;
use super::claim::admit::ClaimService;
use super::claim::fallback::Fallback;
use super::claim::in_flight::InFlightLimit;
use super::claim::kafka::Publisher;
use super::claim::second_store::SecondStore;
use super::routes::ListedPages;
use super::state::{ChangeLocks, Services};
use crate::stores::{StoreWait, of_mysql, unless_stopped};

/// Maximum number of concurrent CSVs of holders. A CSV takes as long as its client needs to read
/// it.
const EXPORTS: usize = 4;

/// Builds the shared state. Returns `None` if `shutdown` came while waiting for a store.
pub(super) async fn services(
    args: &ServeArgs,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Services>> {
    time_zone::warn_if_old();
    let identity = Identity::new(&args.identity).map_err(anyhow::Error::msg)?;
    if let Some(warning) = identity.warning(args.http.listen_addr) {
        tracing::warn!("{warning}");
    }
    let settings = args.mysql.settings()?;
    let question_timeout = Duration::from_millis(args.http.question_timeout_ms);
    let mysql = Bulkheads::new(&settings, question_timeout)?;
    let redis = args
        .redis
        .settings(args.mysql.store_timeout(), &args.mysql.tls)?;
    let redis = Redis::new(&redis).context("REDIS_URL can't be used")?;
    let kafka = args.kafka.settings(&args.mysql.tls)?;
    let wait = StoreWait::new(&args.start, shutdown);
    let of_redis = format!("Redis at {}", redis.host_and_port());
    let checked = tokio::try_join!(
        wait.tables_or_copy(&settings, &redis),
        wait.until(&of_redis, async || Ok(redis.check_at_start().await?)),
        wait.topic_or_away(&kafka),
        keys(&wait, &identity)
    );
    let Some((copy, (), partitions, ())) = unless_stopped(checked)? else {
        return Ok(None);
    };
    tracing::info!(partitions, "the stores that answer have safe settings");

    announce(
        mysql.operators.clone(),
        process(args, &kafka),
        shutdown.clone(),
    )
    .await;

    let load = async || {
        let db = mysql.catalogue.clone();
        Ok(Catalogue::load(db, redis.clone(), copy.clone()).await?)
    };
    // Wait again for a store that became unavailable after its check.
    let of_mysql = of_mysql(&settings);
    let read = tokio::try_join!(
        wait.until(&of_redis, async || Ok(redis.ping().await?)),
        wait.until(&of_mysql, load)
    );
    let Some(((), catalogue)) = unless_stopped(read)? else {
        return Ok(None);
    };
    let catalogue = Arc::new(catalogue);
    let publisher = Publisher::new(kafka, args.publish.deadline(), partitions)?;
    let fallback = Fallback::new(&mysql.fallback, args.publish.backup_deadline());
    let second_store = SecondStore::new(
        redis.clone(),
        publisher,
        fallback,
        mysql.questions.clone(),
        args.publish.longest_in_flight(),
    );
    let in_flight = Arc::new(InFlightLimit::new(args.http.max_claims_in_hand));
    let claims = ClaimService::new(
        &mysql,
        redis.clone(),
        Arc::clone(&catalogue),
        second_store,
        &in_flight,
        args.mysql.store_timeout(),
    );
    Ok(Some(Services {
        identity,
        claims: Arc::new(claims),
        catalogue,
        remaining: RemainingCache::default(),
        listed: ListedPages::default(),
        change_locks: ChangeLocks::default(),
        exports: Arc::new(Semaphore::new(EXPORTS)),
        in_flight,
        mysql,
        redis,
        coupon_page: args.http.coupon_page,
        stopping: CancellationToken::new(),
    }))
}

/// Waits for the keys that verify tokens.
async fn keys(wait: &StoreWait<'_>, identity: &Identity) -> Result<(), StartError> {
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

fn process(args: &ServeArgs, kafka: &KafkaSettings) -> ProcessRow {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    ProcessRow {
        redis_prefix: Some(args.redis.redis_key_prefix.clone()),
        publish_deadline_ms: millis(args.publish.deadline()),
        fallback_deadline_ms: millis(args.publish.backup_deadline()),
        ..ProcessRow::new("serve", kafka)
    }
}
