//! Background tasks: refresh the catalogue and the keys of tokens, watch Redis and the
//! topic. If a task ends, which is a bug, the process stops.

use std::sync::Arc;
use std::time::Duration;

use metrics::gauge;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::openness::{CLOSED, Openness, openness};
use super::state::{App, Services};

const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Starts all tasks. Dropping the set ends them.
pub(crate) fn start(app: &App, refresh: Duration) -> JoinSet<&'static str> {
    let mut tasks = JoinSet::new();
    let [coupons, redis, topic] = std::array::from_fn(|_| Arc::clone(app));
    tasks.spawn(async move {
        coupons.catalogue.keep_fresh(refresh).await;
        "the reading of coupons"
    });
    tasks.spawn(async move {
        topic.claims.second_store().publisher().watch_topic().await;
        "the watch over the topic"
    });
    tasks.spawn(async move { watch_redis(&redis).await });
    if let Some(keys) = app.identity.key_set().map(Arc::clone) {
        tasks.spawn(async move { keys.keep_fresh().await });
    }
    tasks
}

async fn watch_redis(services: &Services) -> &'static str {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
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
