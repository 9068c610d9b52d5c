//! Start-up: the stores are waited for and checked, all at once. A store that is not there yet is waited for; one whose
//! settings lose promises is refused at once.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use firstcome_shared::config::{StartError, wait_for};
use firstcome_shared::kafka::{self, TopicError};
use firstcome_shared::mysql::{Db, DbError, migrations};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::safety::Unsafe;
use tokio_util::sync::CancellationToken;

use crate::migrate::OneLine;
use crate::serve::args::ServeArgs;
use crate::serve::auth::Identity;
use crate::serve::catalogue::Catalogue;
use crate::serve::catalogue::clock::Clock;
use crate::serve::catalogue::remaining::Stocks;
use crate::serve::claim::Claims;
use crate::serve::claim::durability::Promises;
use crate::serve::claim::fallback::Backup;
use crate::serve::claim::in_flight::InHand;
use crate::serve::claim::publisher::Publisher;
use crate::serve::state::Services;

/// Longest wait for one answer of Kafka.
const KAFKA_LIMIT: Duration = Duration::from_secs(5);

/// Everything requests need; `None` when told to stop while waiting for a store.
pub(crate) async fn services(
    args: &ServeArgs,
    identity: Identity,
    shutdown: &CancellationToken,
) -> anyhow::Result<Option<Services>> {
    let db = Db::new(&args.mysql.settings()).context("DATABASE_URL can't be used")?;
    let redis = Redis::new(&args.redis.settings()).context("REDIS_URL can't be used")?;
    let publisher = Publisher::new(&args.kafka.settings(), args.publish.deadline())?;
    let partitions = match stores(args, &redis, shutdown).await {
        Err(StartError::Stopped(store)) => {
            tracing::info!(store, "stopped while waiting");
            return Ok(None);
        }
        other => other?,
    };
    let clock = Arc::new(Clock::default());
    clock.seen(redis.time_ms().await.context("Redis does not tell its time")?);
    let catalogue = Catalogue::load(db.clone(), redis.clone()).await?;
    let promises = Promises::new(publisher.on(partitions), Backup::new(db.clone(), args.publish.backup_deadline()));
    let in_hand = Arc::new(InHand::new(args.http.max_claims_in_hand));
    let patience = args.redis.settings().timeout;
    let claims = Claims::new(db.clone(), redis.clone(), Arc::clone(&clock), promises, Arc::clone(&in_hand), patience);
    Ok(Some(Services {
        db,
        claims: Arc::new(claims),
        redis,
        catalogue,
        stocks: Stocks::default(),
        clock,
        identity,
        in_hand,
        request_timeout: args.http.request_timeout(),
        changing: std::array::from_fn(|_| tokio::sync::Mutex::default()),
    }))
}

async fn stores(args: &ServeArgs, redis: &Redis, shutdown: &CancellationToken) -> Result<usize, StartError> {
    let wait = Duration::from_secs(args.start.startup_wait_seconds);
    let (mysql, kafka) = (args.mysql.settings(), args.kafka.settings());
    let away = |error: &OneLine| matches!(error.0.downcast_ref(), Some(DbError::Unreachable(_)));
    let tables = wait_for("MySQL", wait, shutdown, away, async || migrations::check(&mysql).await.map_err(OneLine));
    let away = |error: &Unsafe| matches!(error, Unsafe::Unreachable(_));
    let settings = wait_for("Redis", wait, shutdown, away, async || redis.check_settings().await);
    let away = |error: &TopicError| matches!(error, TopicError::Unreachable { .. });
    let topic = wait_for("Kafka", wait, shutdown, away, async || kafka::check_topic(&kafka, KAFKA_LIMIT).await);
    let ((), (), partitions) = tokio::try_join!(tables, settings, topic)?;
    tracing::info!(partitions, "MySQL, Redis and Kafka answer and are set up safely");
    Ok(partitions)
}
