//! Coupons as `GET` returns them.

use std::collections::HashMap;
use std::time::Duration;

use axum::Json;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderName, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, Coupon, DropState};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::stock::Stock;
use firstcome_shared::schedule::Schedule;
use serde::Serialize;
use utoipa::ToSchema;

use super::etag;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropWithKeys};
use crate::serve::state::Services;

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Coupon)]
pub(crate) struct CouponView {
    id: CouponId,
    #[schema(example = "Winter coupon")]
    name: String,
    /// Quantity of future drops.
    quantity: Slot,
    once_per: OncePer,
    /// Places on the waiting list of a sold-out drop.
    waiting_list: u32,
    /// An operator has stopped admission.
    paused: bool,
    /// Who may claim, as in `NewCouponBody`.
    #[schema(value_type = Option<String>, example = "list")]
    allow: Option<Allow>,
    /// Counts changes of the settings, not of what is left; also the `ETag`, in quotes.
    revision: u64,
    /// When it opens; null if its drops were inserted manually.
    schedule: Option<Schedule>,
    /// The open drop, else the last opened; null before the first.
    current_drop: Option<DropView>,
    /// The next drop to open; null if none is planned.
    next_drop: Option<DropView>,
}

/// One opening of a coupon.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Drop)]
pub(crate) struct DropView {
    id: DropId,
    /// Claims are admitted from this time.
    opens_at: DateTime<Utc>,
    /// Claims are rejected from this time; null: it stays open.
    closes_at: Option<DateTime<Utc>>,
    quantity: Slot,
    /// How many are left; null while unknown (Redis is unavailable, or being verified).
    remaining: Option<u32>,
    /// While `remaining` is null, `open` may be `sold_out`.
    state: DropState,
}

impl CouponView {
    /// Returns the state of the current drop, or of the next one before the first has opened.
    pub(crate) fn state(&self) -> Option<DropState> {
        self.current_drop
            .as_ref()
            .or(self.next_drop.as_ref())
            .map(|drop| drop.state)
    }

    pub(crate) fn id(&self) -> CouponId {
        self.id
    }
}

/// Maximum wait for Redis, after which `remaining` is null.
const REDIS_TIMEOUT: Duration = Duration::from_millis(500);

/// Reads the current state of coupons.
pub(crate) async fn show(services: &Services, coupons: &[&CouponWithDrops]) -> Vec<CouponView> {
    let now = Utc::now();
    let shown = coupons
        .iter()
        .flat_map(|coupon| [coupon.current(now), coupon.next(now)])
        .flatten();
    // Redis may have expired sealed drops. The catalogue has the number of their rows.
    let live: Vec<_> = shown
        .filter(|one| one.drop.sealed_at.is_none())
        .map(|one| (one.drop.id, one.keys))
        .collect();
    let stocks = stocks(services, &live).await;
    let view = |with_drops: &&CouponWithDrops| {
        let coupon = &with_drops.coupon;
        let drop =
            |one: DropWithKeys| drop_view(coupon, one, stocks.get(&one.drop.id).copied(), now);
        CouponView {
            id: coupon.id,
            name: coupon.name.clone(),
            quantity: coupon.quantity,
            once_per: coupon.once_per,
            waiting_list: coupon.waiting_list,
            paused: coupon.paused,
            allow: coupon.allow.clone(),
            revision: coupon.revision,
            schedule: coupon.schedule.clone(),
            current_drop: with_drops.current(now).map(drop),
            next_drop: with_drops.next(now).map(drop),
        }
    };
    coupons.iter().map(view).collect()
}

/// Reads the stocks of drops for display. Omits drops whose stock is unknown.
pub(crate) async fn stocks(
    services: &Services,
    drops: &[(DropId, &DropKeys)],
) -> HashMap<DropId, Stock> {
    match tokio::time::timeout(REDIS_TIMEOUT, services.remaining.of(&services.redis, drops)).await {
        Ok(Ok(stocks)) => stocks,
        unknown => {
            tracing::debug!(
                ?unknown,
                "the remaining slots of drops are shown as unknown"
            );
            HashMap::new()
        }
    }
}

/// A response about one user, which caches must not store: they cannot tell users apart by a
/// gateway's header.
pub(crate) type NotKept<T> = ([(HeaderName, &'static str); 1], Json<T>);

pub(crate) fn not_kept<T>(body: T) -> NotKept<T> {
    ([(CACHE_CONTROL, "no-store")], Json(body))
}

/// Responds with the current state of one coupon, with its `ETag`. Not cacheable, because a browser
/// that revalidates by the tag would keep showing an old `remaining`.
pub(crate) async fn show_one(
    services: &Services,
    coupon: &CouponWithDrops,
    status: StatusCode,
) -> Response {
    let Some(view) = show(services, &[coupon]).await.pop() else {
        return Problem::internal().into_response();
    };
    (
        status,
        etag::of(view.revision),
        [(CACHE_CONTROL, "no-store")],
        Json(view),
    )
        .into_response()
}

fn drop_view(
    coupon: &Coupon,
    chosen: DropWithKeys,
    stock: Option<Stock>,
    now: DateTime<Utc>,
) -> DropView {
    let drop = chosen.drop;
    let remaining = match (drop.sealed_at, stock) {
        (Some(_), _) => chosen
            .sealed_rows
            .map(|rows| drop.quantity.saturating_sub(rows)),
        // During a change of the quantity, the stores differ. Only the smaller value is certain.
        (None, Some(stock)) => Some(drop.quantity.min(stock.quantity).saturating_sub(stock.held)),
        (None, None) => None,
    };
    let paused = stock.map_or(coupon.paused, |stock| stock.paused);
    DropView {
        id: drop.id,
        opens_at: drop.opens_at,
        closes_at: drop.closes_at,
        quantity: drop.quantity,
        remaining,
        state: drop.state(now, paused, remaining.unwrap_or(1)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::{at, coupon};

    fn shown(stock: Option<Stock>, minute: i64) -> (Option<u32>, DropState) {
        let coupon = coupon(&[(10, 20)]);
        let chosen = coupon.all().next().unwrap();
        let view = drop_view(&coupon.coupon, chosen, stock, at(minute));
        (view.remaining, view.state)
    }

    #[tokio::test]
    async fn remaining_follows_redis_and_is_unknown_without_it() {
        let full = Stock {
            quantity: 10,
            held: 10,
            paused: false,
            waiting: 0,
            waiting_list: 0,
        };
        let stock = |quantity, held| {
            Some(Stock {
                quantity,
                held,
                ..full
            })
        };
        assert_eq!(shown(stock(10, 3), 15), (Some(7), DropState::Open));
        assert_eq!(shown(stock(10, 10), 15), (Some(0), DropState::SoldOut));
        assert_eq!(
            shown(stock(8, 3), 15),
            (Some(5), DropState::Open),
            "quantity is lowered in Redis but not yet in MySQL"
        );
        assert_eq!(
            shown(stock(12, 3), 15),
            (Some(7), DropState::Open),
            "quantity is higher in Redis than in MySQL"
        );
        assert_eq!(
            shown(
                Some(Stock {
                    held: 3,
                    paused: true,
                    ..full
                }),
                15
            ),
            (Some(7), DropState::Paused)
        );
        assert_eq!(shown(None, 15), (None, DropState::Open));
        assert_eq!(shown(None, 5), (None, DropState::Scheduled));
        assert_eq!(shown(stock(10, 3), 20), (Some(7), DropState::Closed));
    }
}
