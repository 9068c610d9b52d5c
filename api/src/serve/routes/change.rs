//! `PATCH /v1/coupons/{id}`
//!
//! MySQL decides; the reconciler makes Redis follow it. A quantity goes down in Redis first and up
//! in MySQL first, so that a crash between two steps leaves nothing promised that MySQL would
//! refuse. Each attempt first takes a revision of the coupon, a fencing token: neither Redis nor
//! MySQL accepts its writes after those of a later revision (docs/decisions/0012-revisions.md).

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::change::CouponChange;
use firstcome_shared::mysql::{DbError, Refusal, refusal};
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::repair::{Done, Lowered};
use serde::Deserialize;
use utoipa::ToSchema;

use super::extract::{Body, CouponPath, invalid};
use super::refusals::{mysql_unavailable, no_such_coupon};
use super::validate;
use super::view::{CouponView, show_one};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::{App, Services};

/// A change; what is not named stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ChangeBody {
    /// What people call it.
    #[schema(max_length = 200)]
    name: Option<String>,
    /// How many each drop gives out that is not closed, and each made from now on.
    #[schema(minimum = 1, maximum = 10_000_000)]
    quantity: Option<i64>,
    /// Whether admission is stopped.
    paused: Option<bool>,
}

impl ChangeBody {
    fn check(self) -> Result<CouponChange, Problem> {
        if self.name.is_none() && self.quantity.is_none() && self.paused.is_none() {
            return Err(invalid("give at least one of name, quantity, paused"));
        }
        Ok(CouponChange {
            name: self.name.as_deref().map(validate::name).transpose()?,
            paused: self.paused,
            quantity: self.quantity.map(validate::quantity).transpose()?,
        })
    }
}

/// Change a coupon
///
/// Safe to repeat. After a 503 part of the change may stand; the sentence says which, and repeating
/// it settles it.
#[utoipa::path(
    patch, path = "/v1/coupons/{id}", tag = "operators", request_body = ChangeBody,
    params(("id" = i64, Path, description = "Number of the coupon")),
    responses(
        (status = 200, description = "The coupon as it is now", body = CouponView),
        (status = 400, description = "`invalid`: the sentence names the field; nothing was changed"),
        (status = 401, description = "`unauthorized`"),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`below_given_out`, with `given_out`: more is given out already; nothing was changed"),
        (status = 413, description = "`too_large`"),
        (status = 503, description = "`unavailable`"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn change(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Body(body): Body<ChangeBody>,
) -> Result<Json<CouponView>, Problem> {
    let change = body.check()?;
    let services = Arc::clone(&app);
    let changed = app.in_flight.run_unlimited(async move { apply(&services, id, change).await }).await??;
    show_one(&app, &changed).await
}

/// Attempts until a change meets no other operator's.
const ATTEMPTS: usize = 5;

async fn apply(services: &Services, id: CouponId, change: CouponChange) -> Result<Arc<CouponWithDrops>, Problem> {
    let _one_at_a_time = services.change_locks.lock(id).await;
    for _ in 0..ATTEMPTS {
        // Redis has no name. For the rest the revision must be above Redis's, since MySQL may have
        // been restored from a backup.
        let in_redis = change.quantity.is_some() || change.paused.is_some();
        let taken = take_revision(services, id, in_redis).await;
        let taken = taken.map_err(|error| mysql_unavailable(&error, "nothing was changed"))?;
        let (coupon, drops) = taken.ok_or_else(|| no_such_coupon(id))?;
        let attempt = ChangeAttempt::new(services, coupon, drops, change.clone());
        if let Some(revision) = attempt.run().await? {
            tracing::info!(coupon = %id, ?change, revision, "a coupon was changed");
            if in_redis && !follow(services, attempt.changed(), revision).await {
                let detail = "the change stands in MySQL; admission follows within a minute, or when you repeat it";
                return Err(Problem::unavailable(detail));
            }
            wake_reconciler(services, &attempt).await;
            services.remaining.forget(attempt.all.iter().map(|drop| drop.id));
            let seen = services.catalogue.reread(id).await;
            let (coupon, drops) = attempt.changed();
            return Ok(
                seen.unwrap_or_else(|_| Arc::new(CouponWithDrops::new(&services.redis, coupon, drops, |_| None)))
            );
        }
    }
    Err(Problem::unavailable("others are changing this coupon at the same time; nothing was changed, try again"))
}

/// People who wait get what is left now at once. Without this hint the next scheduled pass
/// does it.
async fn wake_reconciler(services: &Services, attempt: &ChangeAttempt<'_>) {
    if attempt.change.quantity.is_none() && attempt.change.paused != Some(false) {
        return;
    }
    let id = attempt.coupon.id;
    let unsealed = attempt.all.iter().filter(|drop| drop.sealed_at.is_none());
    let keys: Vec<DropKeys> = unsealed.map(|drop| services.redis.keys(id, drop.id)).collect();
    if let Err(error) = services.redis.wake_if_anyone_waits(id, &keys).await {
        tracing::warn!(%error, coupon = %id, "people who wait are promoted by the next scheduled pass");
    }
}

/// The coupon's next revision; with `in_redis` also above the revision in Redis, where that can be
/// read.
async fn take_revision(
    services: &Services,
    id: CouponId,
    in_redis: bool,
) -> Result<Option<(Coupon, Vec<Drop>)>, DbError> {
    let seen = if in_redis { services.redis.revision(id).await } else { Ok(0) };
    let seen = seen.unwrap_or_else(|error| {
        tracing::warn!(%error, coupon = %id, "Redis is away while a coupon is changed");
        0
    });
    services.mysql.operators.take_revision(id, seen).await
}

/// Writes MySQL's settings to Redis, for every drop that is not over. `false`: the reconciler has
/// to do it.
///
/// Another operator with a later revision may have written only one field or one drop. A refused
/// write therefore does not prove that Redis has this change, and everything is written again with
/// a revision of its own.
async fn follow(services: &Services, changed: (Coupon, Vec<Drop>), made: u64) -> bool {
    let ((mut coupon, mut drops), mut revision) = (changed, made);
    for _ in 0..ATTEMPTS {
        match write_all(services, &coupon, &drops, revision).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, coupon = %coupon.id, "Redis did not follow a change; the reconciler sees to it");
                return false;
            }
        }
        match take_revision(services, coupon.id, true).await {
            Ok(Some((now, own))) => (revision, coupon, drops) = (now.revision, now, own),
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, coupon = %coupon.id, "Redis did not follow a change; the reconciler sees to it");
                return false;
            }
        }
    }
    tracing::warn!(coupon = %coupon.id, "others kept changing this coupon; the reconciler makes Redis follow");
    false
}

/// `false` where Redis has seen a later revision.
async fn write_all(services: &Services, coupon: &Coupon, drops: &[Drop], revision: u64) -> Result<bool, RedisError> {
    let now = services.clock.now();
    for drop in drops.iter().filter(|drop| is_open(drop, now)) {
        let keys = services.redis.keys(coupon.id, drop.id);
        match services.redis.write_meta(&keys, revision, &DropMeta::of(coupon, drop)).await? {
            Done::Applied(()) => {}
            Done::Changed => return Ok(false),
            // A drop that is not loaded admits nobody. The reconciler loads it from MySQL, with the
            // change.
            Done::Stale => tracing::warn!(drop = %drop.id, "a change waits for the reconciler to verify this drop"),
        }
    }
    Ok(true)
}

fn is_open(drop: &Drop, now: DateTime<Utc>) -> bool {
    drop.sealed_at.is_none() && drop.closes_at.is_none_or(|closes| closes > now)
}

/// One attempt at a change, with a revision of its own.
struct ChangeAttempt<'a> {
    services: &'a Services,
    /// As it was when the revision was taken.
    coupon: Coupon,
    /// All its drops, as they were then.
    all: Vec<Drop>,
    change: CouponChange,
    now: DateTime<Utc>,
    /// The drops that the change applies to.
    drops: Vec<(Drop, DropKeys)>,
}

impl<'a> ChangeAttempt<'a> {
    fn new(services: &'a Services, coupon: Coupon, all: Vec<Drop>, change: CouponChange) -> Self {
        let now = services.clock.now();
        let with_keys = |d: &Drop| (d.clone(), services.redis.keys(coupon.id, d.id));
        let drops = all.iter().filter(|drop| is_open(drop, now)).map(with_keys).collect();
        Self { services, coupon, all, change, now, drops }
    }

    /// The new revision. `None`: another operator has changed the coupon since, and nothing was
    /// changed.
    async fn run(&self) -> Result<Option<u64>, Problem> {
        let lowered: Vec<_> = match self.change.quantity {
            Some(new) => self.drops.iter().filter(|(drop, _)| drop.quantity > new).collect(),
            None => Vec::new(),
        };
        if let Some(new) = self.change.quantity {
            self.check_given_out(&lowered, new).await?;
            if !self.lower(&lowered, new).await? {
                return Ok(None);
            }
        }
        let expected = self.drops.iter().map(|(drop, _)| (drop.id, drop.quantity)).collect();
        let (id, revision) = (self.coupon.id, self.coupon.revision);
        match self.services.mysql.operators.change_coupon(id, revision, self.change.clone(), expected, self.now).await {
            Ok(Some(made)) => Ok(Some(made)),
            Ok(None) => {
                self.restore(&lowered).await;
                Ok(None)
            }
            Err(error) => Err(self.not_changed(&error, &lowered).await),
        }
    }

    /// Checks all drops before any is changed, so that a conflict changes nothing.
    async fn check_given_out(&self, lowered: &[&(Drop, DropKeys)], new: Slot) -> Result<(), Problem> {
        let keys: Vec<&DropKeys> = lowered.iter().map(|(_, keys)| keys).collect();
        let given_out = self.services.redis.given_out(&keys).await.map_err(|error| redis_away(&error))?;
        for ((drop, _), given_out) in lowered.iter().zip(given_out) {
            let given_out = given_out.ok_or_else(|| being_checked(drop.id))?;
            if given_out > new {
                return Err(below_given_out(drop.id, given_out));
            }
        }
        Ok(())
    }

    /// Lowers in Redis, before MySQL: from here on no slot above the new quantity is given out.
    /// `false`: others have changed the coupon since.
    async fn lower(&self, lowered: &[&(Drop, DropKeys)], new: Slot) -> Result<bool, Problem> {
        for (at, (drop, keys)) in lowered.iter().enumerate() {
            let refused = match self.services.redis.lower(keys, self.coupon.revision, new).await {
                Ok(Lowered::Yes) => continue,
                Ok(Lowered::Outdated) => None,
                // A claim came after the check above.
                Ok(Lowered::GivenOut(count)) => Some(below_given_out(drop.id, count)),
                Ok(Lowered::Unloaded) => Some(being_checked(drop.id)),
                Err(error) => Some(redis_away(&error)),
            };
            self.restore(&lowered[..=at]).await;
            return refused.map_or(Ok(false), Err);
        }
        Ok(true)
    }

    /// Restores lowered quantities in Redis, where MySQL certainly does not have this change. Redis
    /// refuses it after a write of a later revision.
    async fn restore(&self, lowered: &[&(Drop, DropKeys)]) {
        for (drop, keys) in lowered {
            let meta = DropMeta::of(&self.coupon, drop);
            if let Err(error) = self.services.redis.write_meta(keys, self.coupon.revision, &meta).await {
                tracing::warn!(%error, drop = %drop.id, "a quantity is too low in Redis; the reconciler puts it right");
            }
        }
    }

    async fn not_changed(&self, error: &DbError, lowered: &[&(Drop, DropKeys)]) -> Problem {
        let refused = matches!(error, DbError::Query { source, .. } if refusal(source) == Some(Refusal::BadData));
        if refused || matches!(error, DbError::Unreachable(_)) {
            self.restore(lowered).await;
        }
        if refused {
            tracing::warn!(%error, coupon = %self.coupon.id, "a quantity was not lowered");
            let detail = "rows above that quantity are issued already; nothing was changed";
            return Problem::new(StatusCode::CONFLICT, "below_given_out", detail);
        }
        // Otherwise MySQL may have the change, and a quantity raised in Redis could give out slots
        // that MySQL refuses.
        mysql_unavailable(error, "repeat the request: only then is it certain whether the change stands")
    }

    /// The coupon and all its drops as the change has made them.
    fn changed(&self) -> (Coupon, Vec<Drop>) {
        let mut coupon = self.coupon.clone();
        coupon.name = self.change.name.clone().unwrap_or(coupon.name);
        coupon.paused = self.change.paused.unwrap_or(coupon.paused);
        coupon.quantity = self.change.quantity.unwrap_or(coupon.quantity);
        let mut drops = self.all.clone();
        for drop in drops.iter_mut().filter(|drop| self.drops.iter().any(|(one, _)| one.id == drop.id)) {
            drop.quantity = self.change.quantity.unwrap_or(drop.quantity);
        }
        (coupon, drops)
    }
}

fn below_given_out(drop: DropId, given_out: Slot) -> Problem {
    let detail = format!("{given_out} of drop {drop} are given out already; nothing was changed");
    Problem::new(StatusCode::CONFLICT, "below_given_out", detail).with("given_out", given_out)
}

fn being_checked(drop: DropId) -> Problem {
    Problem::unavailable(format!("drop {drop} is being verified; nothing was changed, try again"))
}

fn redis_away(error: &RedisError) -> Problem {
    tracing::warn!(%error, "an operator's request could not be worked");
    Problem::unavailable("Redis could not be asked, and lowering a quantity needs it; nothing was changed in MySQL")
}
