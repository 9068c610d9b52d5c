//! Background work: refreshes the catalogue and the keys of tokens, watches Redis and the topic.

use std::future::pending;
use std::time::Duration;

use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};

use super::openness::{CLOSED, Openness, openness};
use super::state::{App, Services};

const WATCH_EVERY: Duration = Duration::from_secs(1);

/// Never ends. If it does, which is a bug, the process stops.
pub(crate) async fn run(app: App, refresh: Duration) {
    let keys = async {
        match app.identity.key_set() {
            Some(keys) => keys.keep_fresh().await,
            None => pending().await,
        }
    };
    tokio::join!(
        app.catalogue.keep_fresh(refresh),
        app.claims.second_store.publisher.watch_topic(),
        watch_redis(&app),
        keys,
    );
}

async fn watch_redis(services: &Services) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = None;
    loop {
        ticks.tick().await;
        let openness = openness(services).await;
        let is_open = matches!(openness, Ok(Openness::Open));
        gauge!("firstcome_redis_up").set(f64::from(u8::from(openness.is_ok())));
        gauge!("firstcome_admission_open").set(f64::from(u8::from(is_open)));
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
