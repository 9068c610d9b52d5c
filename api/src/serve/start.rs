//! Checks the stores concurrently at start-up and builds the state that requests share.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::http::seats::Seats;
use firstcome_shared::mysql::processes::{ProcessRow, announce};
use firstcome_shared::redis::Redis;
use firstcome_shared::schedule::time_zone;
use tokio_util::sync::CancellationToken;

use super::args::ServeArgs;
use super::auth::Identity;
use super::bulkheads::Bulkheads;
use super::catalogue::Catalogue;
use super::catalogue::listed::ListedPages;
use super::catalogue::remaining::RemainingCache;
use super::claim::admit::ClaimService;
use super::claim::durability::Durability;
use super::claim::fallback::Fallback;
use super::claim::in_flight::InFlightLimit;
use super::claim::publisher::Publisher;
use super::state::{ChangeLocks, Services};
use crate::stores::{StoreWait, unless_stopped};

/// Maximum number of concurrent CSVs of holders, for operators and for viewers. A CSV takes as long
/// as its client needs to read it.
const EXPORTS: usize = 4;
const EXPORTS_TO_VIEWERS: usize = 2;

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
    let mysql = Bulkheads::new(
        &args.mysql.settings(),
        Duration::from_millis(args.http.question_timeout_ms),
    )?;
    let redis = Redis::new(&args.redis.settings(args.mysql.store_timeout))
        .context("REDIS_URL can't be used")?;
    let wait = StoreWait::new(&args.start, shutdown);
    let settings = args.mysql.settings();
    let kafka = args.kafka.settings();
    let checked = tokio::try_join!(
        wait.tables(&settings),
        wait.redis_settings(&redis),
        wait.topic_or_away(&kafka),
        wait.keys(&identity)
    );
    let Some(((), (), partitions, ())) = unless_stopped(checked)? else {
        return Ok(None);
    };
    tracing::info!(partitions, "the stores that answer have safe settings");

    announce(mysql.operators.clone(), process(args), shutdown.clone()).await;

    // Wait again for a store that became unavailable after its check.
    let read = tokio::try_join!(
        wait.redis(&redis, async || redis.ping().await),
        wait.mysql(&settings, async || Ok(Catalogue::load(
            mysql.catalogue.clone(),
            redis.clone()
        )
        .await
        .map_err(anyhow::Error::from)?))
    );
    let Some(((), catalogue)) = unless_stopped(read)? else {
        return Ok(None);
    };
    let catalogue = Arc::new(catalogue);
    let publisher = Publisher::new(kafka, args.publish.deadline(), partitions)?;
    let fallback = Fallback::new(&mysql.fallback, args.publish.backup_deadline());
    let durability = Durability::new(
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
        durability,
        &in_flight,
        args.mysql.store_timeout,
    );
    Ok(Some(Services {
        identity,
        claims: Arc::new(claims),
        catalogue,
        remaining: RemainingCache::default(),
        listed: ListedPages::default(),
        change_locks: ChangeLocks::default(),
        exports: Seats::new(EXPORTS, EXPORTS_TO_VIEWERS),
        in_flight,
        mysql,
        redis,
        coupon_page: args.http.coupon_page,
        stopping: CancellationToken::new(),
    }))
}

fn process(args: &ServeArgs) -> ProcessRow {
    let millis = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    ProcessRow {
        redis_prefix: Some(args.redis.redis_key_prefix.clone()),
        publish_deadline_ms: millis(args.publish.deadline()),
        fallback_deadline_ms: millis(args.publish.backup_deadline()),
        ..ProcessRow::new("serve", &args.kafka.settings())
    }
}
