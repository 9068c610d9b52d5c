//! Coupons as `GET` returns them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::Coupon;
use firstcome_shared::http::Problem;
use firstcome_shared::http::views::{CouponView, DropView};
use firstcome_shared::redis::reads::LoadedDrop;

use super::etag;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropWithKeys};
use crate::serve::state::Services;

/// Reads the current state of coupons.
pub(crate) async fn show(services: &Services, coupons: &[&CouponWithDrops]) -> Vec<CouponView> {
    let shown = coupons.iter().flat_map(|it| {
        let now = services.clock.now(it.coupon.id);
        [it.current(now), it.next(now)]
    });
    // Redis may have expired sealed drops. The catalogue has the number of their rows.
    let live: Vec<_> = shown
        .flatten()
        .filter(|one| one.drop.sealed_at.is_none())
        .map(|one| (one.drop.id, one.keys))
        .collect();
    let loaded = services.remaining.states(&services.redis, &live).await;
    let views = coupons.iter().map(|with_drops| {
        let coupon = &with_drops.coupon;
        let now = services.clock.now(coupon.id);
        let drop = |one: DropWithKeys| drop_view(coupon, one, loaded.get(&one.drop.id), now);
        CouponView {
            id: coupon.id,
            settings: coupon.settings.clone(),
            revision: coupon.revision,
            current_drop: with_drops.current(now).map(drop),
            next_drop: with_drops.next(now).map(drop),
        }
    });
    views.collect()
}

/// Responds with the current state of one coupon, with its `ETag`. Not cacheable, because a browser
/// that revalidates by the tag would keep showing an old `remaining`.
pub(crate) async fn show_one(
    services: &Services,
    coupon: &CouponWithDrops,
    status: StatusCode,
) -> Response {
    let Some(view) = show(services, &[coupon]).await.pop() else {
        tracing::error!(coupon_id = %coupon.coupon.id, "the coupon has no view");
        return Problem::internal().into_response();
    };
    (status, etag::header(view.revision), Json(view)).into_response()
}

fn drop_view(
    coupon: &Coupon,
    chosen: DropWithKeys,
    loaded: Option<&LoadedDrop>,
    now: DateTime<Utc>,
) -> DropView {
    let drop = chosen.drop;
    let loaded = loaded.and_then(|it| Some((it.meta.as_ref()?, u32::try_from(it.users).ok()?)));
    let remaining = if drop.sealed_at.is_some() {
        drop.sealed_rows
            .map(|rows| drop.quantity.saturating_sub(rows))
    } else {
        // During a change of the quantity, the stores differ. Only the smaller value is certain.
        loaded.map(|(meta, users)| drop.quantity.min(meta.quantity).saturating_sub(users))
    };
    let paused = loaded.map_or(coupon.paused, |(meta, _)| meta.paused);
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
    use firstcome_shared::coupon::DropState;
    use firstcome_shared::redis::keys::DropMeta;

    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::{at, coupon};

    #[tokio::test]
    async fn remaining_follows_redis_and_is_unknown_without_it() {
        let coupon = coupon(&[(10, 20)]);
        let chosen = || coupon.all().next().unwrap();
        let loaded = |quantity, users, paused| LoadedDrop {
            meta: Some(DropMeta {
                quantity,
                paused,
                ..DropMeta::new(&coupon.coupon, chosen().drop)
            }),
            users,
            ..LoadedDrop::default()
        };
        for (loaded, minute, remaining, state) in [
            (Some(loaded(10, 3, false)), 15, Some(7), DropState::Open),
            (Some(loaded(10, 10, false)), 15, Some(0), DropState::SoldOut),
            // The quantity is lowered in Redis but not yet in MySQL, then higher in Redis.
            (Some(loaded(8, 3, false)), 15, Some(5), DropState::Open),
            (Some(loaded(12, 3, false)), 15, Some(7), DropState::Open),
            (Some(loaded(10, 3, true)), 15, Some(7), DropState::Paused),
            (Some(loaded(10, 3, false)), 20, Some(7), DropState::Closed),
            (None, 15, None, DropState::Open),
            (None, 5, None, DropState::Scheduled),
        ] {
            let view = drop_view(&coupon.coupon, chosen(), loaded.as_ref(), at(minute));
            assert_eq!(
                (view.remaining, view.state),
                (remaining, state),
                "{loaded:?}"
            );
        }
    }
}
