//! Whether claims are admitted, for `/readyz`, metrics and logs.

use std::time::Duration;

use chrono::Utc;
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::CouponId;
use firstcome_shared::redis::RedisError;
use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};

use super::state::Services;

const WATCH_EVERY: Duration = Duration::from_secs(1);

const NO_ANSWER: &str = "closed: Redis does not answer";

/// The state of admission to the coupons with an open drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Openness {
    Open,
    /// Open for some coupons; the gates of others are closed, or their server does not respond.
    InPart,
    Closed,
}

/// Reads the gates of all coupons with an open drop. Without any, admission is open if every server
/// that holds data answers as a master.
///
/// # Errors
/// If no server responds.
pub(crate) async fn openness(services: &Services) -> Result<Openness, RedisError> {
    let now = Utc::now();
    let is_open = |drop: &Drop| drop.sealed_at.is_none() && drop.is_open_at(now);
    let live = services.catalogue.live();
    let coupons = live.iter().filter(|(_, one)| one.drops.iter().any(is_open));
    let coupons: Vec<CouponId> = coupons.map(|(id, _)| *id).collect();
    let servers = services.redis.servers().await?;
    if coupons.is_empty() && servers.are_complete() {
        return Ok(Openness::Open);
    }
    let mut reachable = coupons.clone();
    reachable.retain(|coupon| servers.of(*coupon).is_some());
    let gates = services.redis.gates(&reachable).await?;
    let open = reachable.iter().zip(gates).filter(|(coupon, gate)| {
        // The era may be later than in this process's copy of the coupon, which a claim reads
        // again.
        let era = gate.era();
        era.is_some_and(|era| gate.is_open(servers.of(**coupon), era))
    });
    Ok(match open.count() {
        0 => Openness::Closed,
        all if all == coupons.len() => Openness::Open,
        _ => Openness::InPart,
    })
}

/// Watches admission for metrics and the log. Never ends.
pub(super) async fn watch(services: &Services) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = "";
    loop {
        ticks.tick().await;
        let state = match openness(services).await {
            Ok(Openness::Open) => "open",
            Ok(Openness::InPart) => "open to some coupons only",
            Ok(Openness::Closed) => "closed until the reconciler has verified Redis",
            Err(_) => NO_ANSWER,
        };
        gauge!("firstcome_redis_up").set(f64::from(u8::from(state != NO_ANSWER)));
        gauge!("firstcome_admission_open").set(f64::from(u8::from(state == "open")));
        #[allow(clippy::cast_precision_loss, reason = "at most a million")]
        gauge!("firstcome_claims_in_flight").set(services.in_flight.in_flight() as f64);
        if state != last {
            tracing::warn!("admission is {state}");
            last = state;
        }
    }
}
