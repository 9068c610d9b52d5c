//! `POST /v1/coupons`

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderName, StatusCode};
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::OncePer;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::catalogue::NewCoupon;
use firstcome_shared::redis::meta::DropMeta;
use firstcome_shared::redis::{Redis, RedisError};
use firstcome_shared::schedule::Schedule;
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{Body, invalid};
use super::refusals::mysql_unavailable;
use super::validate;
use super::view::{CouponView, show_one};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::{App, Services};

/// A coupon to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct NewCouponBody {
    /// What people call it, 1 to 200 characters.
    #[schema(example = "Winter coupon", max_length = 200)]
    name: String,
    /// How many each drop gives out.
    #[schema(example = 100, minimum = 1, maximum = 10_000_000)]
    quantity: i64,
    /// In which scope one person may hold one.
    once_per: OncePer,
    /// How many people may wait once a drop is sold out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1_000_000)]
    waiting_list: i64,
    /// When it opens.
    schedule: Schedule,
}

impl NewCouponBody {
    fn check(self, now: DateTime<Utc>) -> Result<NewCoupon, Problem> {
        let new = NewCoupon {
            name: validate::name(&self.name)?,
            quantity: validate::quantity(self.quantity)?,
            once_per: self.once_per,
            waiting_list: validate::waiting_list(self.waiting_list)?,
            schedule: self.schedule,
        };
        new.schedule.check().map_err(|error| invalid(format!("schedule: {error}")))?;
        if matches!(new.schedule, Schedule::Once { closes_at: Some(closes), .. } if closes <= now) {
            return Err(invalid("schedule: closes_at is over, so it would never open"));
        }
        if new.schedule.drops_from(now).is_empty() {
            return Err(invalid("schedule: last_day is over, so it would never open"));
        }
        Ok(new)
    }
}

/// Make a coupon
///
/// It and its first drops stand as soon as this is answered. Where Redis is away at that moment,
/// the reconciler makes the drops known to admission once it is back; claims are answered 503 until
/// then.
#[utoipa::path(
    post, path = "/v1/coupons", tag = "operators", request_body = NewCouponBody,
    responses(
        (status = 201, description = "The coupon; `Location` names it", body = CouponView),
        (status = 400, description = "`invalid`: the sentence names the field; nothing was made"),
        (status = 401, description = "`unauthorized`"),
        (status = 413, description = "`too_large`"),
        (status = 503, description = "`unavailable`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn create(
    State(app): State<App>,
    Body(body): Body<NewCouponBody>,
) -> Result<(StatusCode, [(HeaderName, String); 1], Json<CouponView>), Problem> {
    let now = app.clock.now();
    let new = body.check(now)?;
    let services = Arc::clone(&app);
    let made = app.in_flight.run_unlimited(async move { make(&services, new, now).await }).await??;
    let location = format!("/v1/coupons/{}", made.coupon.id);
    Ok((StatusCode::CREATED, [(LOCATION, location)], show_one(&app, &made).await?))
}

async fn make(services: &Services, new: NewCoupon, now: DateTime<Utc>) -> Result<Arc<CouponWithDrops>, Problem> {
    let made = services.db.create_coupon(new, now).await;
    let (coupon, drops) =
        made.map_err(|error| mysql_unavailable(&error, "look at the list of coupons before you try again"))?;
    tracing::info!(coupon = %coupon.id, drops = drops.len(), "a coupon was made");
    if let Err(error) = load(&services.redis, &coupon, &drops).await {
        tracing::warn!(%error, coupon = %coupon.id, "a new coupon is not known to admission yet; the reconciler sees to it");
    }
    // The client may ask this process for the coupon next; other processes refresh when they are
    // asked.
    let seen = services.catalogue.refreshed().await.ok().and_then(|coupons| coupons.get(&coupon.id).cloned());
    Ok(seen.unwrap_or_else(|| Arc::new(CouponWithDrops::new(&services.redis, coupon, drops, |_| None))))
}

async fn load(redis: &Redis, coupon: &Coupon, drops: &[Drop]) -> Result<(), RedisError> {
    let generation = redis.ensure_generation(coupon.id).await?;
    for drop in drops {
        let (keys, meta) = (redis.keys(coupon.id, drop.id), DropMeta::of(coupon, drop));
        redis.load_drop(&keys, &generation, coupon.revision, &meta).await?;
    }
    redis.open_new_coupon(coupon.id, &generation).await
}
