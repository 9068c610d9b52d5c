//! Whether claims are admitted, for `/readyz`, metrics and logs.

use std::time::Duration;

use firstcome_shared::domain::CouponId;
use firstcome_shared::process_state::StoreState;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::refusing::text_of;
use firstcome_shared::report::{FailureCause, StoreRefusal};
use metrics::gauge;
use tokio::time::{MissedTickBehavior, interval};

use super::state::Services;

const WATCH_EVERY: Duration = Duration::from_secs(1);

/// The state of admission to the coupons with an open drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Openness {
    Open,
    /// Open for some coupons; the gates of others are closed, or their server does not respond,
    /// refuses writes or does not serve their hash slot.
    InPart,
    /// Closed until a pass has verified Redis.
    Closed,
    /// No server that holds these coupons answers as a master. Without open drops: some server does
    /// not.
    NoMaster,
}

impl Openness {
    /// Completes "admission is".
    pub(crate) fn description(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::InPart => "open to some coupons only",
            Self::Closed => "closed until the reconciler has verified Redis",
            Self::NoMaster => "closed: a server of Redis does not answer as a master",
        }
    }
}

/// Reads the gates of all coupons with an open drop; those whose hash slot is not served count as
/// closed. Without any, admission is open if every server that holds data answers as a master and
/// takes writes.
///
/// # Errors
/// If no server responds, or all that hold these coupons refuse writes.
pub(crate) async fn openness(services: &Services) -> Result<Openness, RedisError> {
    let refusing = services.redis.refusing_writes().await?;
    // First: a replica, which refuses them too, is no master.
    if refusing.are_all()
        && let Some(error) = refusing.first()
    {
        return Err(error.clone());
    }
    let live = services.catalogue.live();
    let coupons: Vec<CouponId> = live
        .iter()
        .filter(|(id, one)| {
            let now = services.clock.now(**id);
            one.drops
                .iter()
                .any(|drop| drop.sealed_at.is_none() && drop.is_open_at(now))
        })
        .map(|(id, _)| *id)
        .collect();
    let servers = services.redis.servers().await?;
    if coupons.is_empty() && servers.are_complete() {
        return Ok(match refusing.first() {
            Some(_) => Openness::InPart,
            None => Openness::Open,
        });
    }
    let mut reachable = coupons.clone();
    reachable.retain(|coupon| servers.holding(*coupon).is_some());
    if reachable.is_empty() {
        return Ok(Openness::NoMaster);
    }
    let mut refused = None;
    reachable.retain(|coupon| match refusing.holding(*coupon) {
        Some(error) => {
            refused = Some(error);
            false
        }
        None => true,
    });
    if let Some(error) = refused.filter(|_| reachable.is_empty()) {
        return Err(error.clone());
    }
    let gates = services.redis.gates(&reachable).await?;
    let open = reachable.iter().zip(gates).filter(|(coupon, gate)| {
        // The era may be later than in this process's copy of the coupon, which a claim reads
        // again.
        let Some(gate) = gate else { return false };
        let era = gate.era();
        era.is_some_and(|era| gate.is_open(servers.holding(**coupon), era))
    });
    Ok(match open.count() {
        0 => Openness::Closed,
        all if all == coupons.len() => Openness::Open,
        _ => Openness::InPart,
    })
}

/// Says what Redis refuses and what to do, or that it does not answer.
pub(crate) fn why_closed(error: &RedisError) -> String {
    let text = text_of(error);
    match StoreRefusal::from_error(FailureCause::Redis, &text) {
        Some(refusal) => format!("{} ({text})", refusal.sentence()),
        None => format!("Redis cannot be reached: {text}"),
    }
}

/// Once a second, reads Redis's clock, reports to metrics and the log whether claims are admitted,
/// and notes for the reconciler which problems the stores have. Never ends.
pub(super) async fn watch(services: &Services) {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = String::new();
    loop {
        ticks.tick().await;
        services.clock.read(&services.redis).await;
        services.seen.checks_redis(true);
        let seen = openness(services).await;
        // One server of several may refuse although admission is open in part.
        let problem = match &seen {
            Ok(_) => services.redis.check_writes().await.err(),
            Err(error) => Some(error.clone()),
        };
        services.seen.checks_redis(false);
        let redis = problem.as_ref().map_or(Ok(()), |error| Err(text_of(error)));
        let state = match &seen {
            Ok(openness) => openness.description().to_owned(),
            Err(error) => format!("closed: {}", why_closed(error)),
        };
        gauge!("firstcome_redis_up").set(f64::from(u8::from(seen.is_ok())));
        let is_open = matches!(seen, Ok(Openness::Open));
        gauge!("firstcome_admission_open").set(f64::from(u8::from(is_open)));
        let kafka = services.second_store.publisher.refusal();
        let mysql = services.second_store.refusal();
        services.seen.note(|known| {
            known.redis = Some(StoreState::from_result(FailureCause::Redis, redis));
            // Whether Kafka answers is for those to say who ask it.
            known.kafka = kafka.map(|why| StoreState::from_error(FailureCause::Kafka, &why));
            let refusal = mysql.map(|why| StoreState::from_error(FailureCause::Mysql, &why));
            known.mysql = Some(refusal.unwrap_or(StoreState::Fine));
        });
        #[allow(clippy::cast_precision_loss, reason = "at most a million")]
        gauge!("firstcome_claims_in_flight").set(services.in_flight.in_flight() as f64);
        if state != last {
            if is_open {
                tracing::info!("admission is {state}");
            } else {
                tracing::warn!("admission is {state}");
            }
            last = state;
        }
    }
}
