//! Background tasks: refresh the catalogue and the keys of tokens, create daily drops ahead, watch
//! Redis and the topic. If a task ends, which is a bug, the process stops.

use std::sync::Arc;
use std::time::Duration;

use firstcome_shared::drops::make_ahead;
use metrics::{counter, gauge};
use tokio::task::JoinSet;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::openness::{CLOSED, Openness, openness};
use super::state::{App, Services};

/// Interval at which daily drops are created. A minute is short enough, because they are created
/// days ahead.
const MAKE_EVERY: Duration = Duration::from_secs(60);

const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Starts all tasks. Dropping the set ends them.
pub(crate) fn start(app: &App, refresh: Duration) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    let [coupons, lookups, drops, redis, topic] = std::array::from_fn(|_| Arc::clone(app));
    tasks.spawn(async move {
        coupons.catalogue.keep_fresh(refresh).await;
        "the reading of coupons"
    });
    tasks.spawn(async move {
        lookups.catalogue.answer_lookups().await;
        "the lookup of coupons"
    });
    tasks.spawn(async move {
        topic.claims.durability().publisher().watch_topic().await;
        "the watch over the topic"
    });
    tasks.spawn(async move {
        let mut ticks = every(MAKE_EVERY);
        loop {
            ticks.tick().await;
            make_drops(&drops).await;
        }
    });
    tasks.spawn(async move { watch_redis(&redis).await });
    if let Some(keys) = app.identity.key_set().map(Arc::clone) {
        tasks.spawn(async move { keys.keep_fresh().await });
    }
    tasks
}

fn every(period: Duration) -> Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn make_drops(services: &Services) {
    let now = services.now().await;
    let mut made = 0;
    for entry in services.catalogue.live().values() {
        match make_ahead(
            &services.mysql.catalogue,
            &services.redis,
            &entry.coupon,
            &entry.drops,
            now,
        )
        .await
        {
            Ok(some) => made += some,
            Err(error) => {
                counter!("firstcome_drop_making_failures_total").increment(1);
                tracing::warn!(%error, coupon = %entry.coupon.id, "could not create drops ahead; retrying in a minute");
            }
        }
    }
    if made > 0 {
        tracing::info!(made, "drops were created ahead");
    }
}

async fn watch_redis(services: &Services) -> &'static str {
    let mut ticks = every(WATCH_EVERY);
    let mut last = None;
    loop {
        ticks.tick().await;
        let openness = openness(services).await;
        gauge!("firstcome_redis_up").set(f64::from(u8::from(openness.is_ok())));
        gauge!("firstcome_admission_open")
            .set(f64::from(u8::from(matches!(openness, Ok(Openness::Open)))));
        #[allow(clippy::cast_precision_loss, reason = "at most a million")]
        gauge!("firstcome_claims_in_hand").set(services.in_flight.in_flight() as f64);
        let state = openness.as_ref().ok().copied();
        if last != Some(state) {
            match &openness {
                Ok(Openness::Open) => tracing::info!("admission is open"),
                Ok(Openness::InPart) => {
                    tracing::warn!("admission is open to some coupons only");
                }
                Ok(Openness::Closed) => tracing::warn!("{CLOSED}"),
                Err(error) => tracing::warn!(%error, "admission is closed: Redis does not answer"),
            }
            last = Some(state);
        }
    }
}
