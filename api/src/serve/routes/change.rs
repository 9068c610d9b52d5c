//! `PATCH /v1/coupons/{id}`
//!
//! MySQL is what holds; the reconciler makes Redis follow it. The order of the steps keeps every state on the way safe, so
//! that a crash between any two leaves nothing promised that MySQL would refuse: a quantity goes down in Redis first and
//! up in MySQL first. Each attempt takes a revision of the coupon first, a fencing token: neither Redis nor MySQL takes a write
//! from it once a later one is seen there (docs/decisions/0012-revisions.md).

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
use firstcome_shared::redis::keys::DropKeys;
use firstcome_shared::redis::meta::DropMeta;
use firstcome_shared::redis::repair::{Done, Lowered};
use serde::Deserialize;
use utoipa::ToSchema;

use super::mysql_away;
use crate::serve::entry::Entry;
use crate::serve::extract::{Body, CouponPath, invalid, no_such_coupon};
use crate::serve::rules;
use crate::serve::state::{App, Services};
use crate::serve::view::{CouponView, show};

/// A change; what is not named stays as it is.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::serve) struct ChangeBody {
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
            name: self.name.as_deref().map(rules::name).transpose()?,
            paused: self.paused,
            quantity: self.quantity.map(rules::quantity).transpose()?,
        })
    }
}

/// Change a coupon
///
/// Safe to repeat. After a 503 part of the change may stand; the sentence says which, and repeating it settles it.
#[utoipa::path(
    patch, path = "/v1/coupons/{id}", tag = "operators", request_body = ChangeBody,
    params(("id" = i64, Path, description = "Number of the coupon")),
    responses(
        (status = 200, description = "The coupon as it is now", body = CouponView),
        (status = 400, description = "`invalid`: the sentence names the field; nothing was changed", body = Problem, content_type = "application/problem+json"),
        (status = 401, description = "`unauthorized`", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "`not_found`", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "`below_given_out`, with `given_out`: more is given out already; nothing was changed", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "`too_large`", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "`unavailable`", body = Problem, content_type = "application/problem+json"),
    ),
    security(("ops" = []))
)]
pub(in crate::serve) async fn change(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Body(body): Body<ChangeBody>,
) -> Result<Json<CouponView>, Problem> {
    let change = body.check()?;
    let services = Arc::clone(&app);
    let entry = app.in_hand.see_through(async move { apply(&services, id, change).await }).await??;
    let view = show(&app, &[&entry]).await.pop();
    view.map(Json).ok_or_else(Problem::internal)
}

/// Attempts until a change meets no other operator's.
const ATTEMPTS: usize = 5;

async fn apply(services: &Services, id: CouponId, change: CouponChange) -> Result<Arc<Entry>, Problem> {
    let _one_at_a_time = services.changing.lock().await;
    for _ in 0..ATTEMPTS {
        let now = services.clock.now();
        // Above what Redis has seen: MySQL may have been restored from a backup.
        let seen = services.redis.revision(id).await.unwrap_or_else(|error| {
            tracing::debug!(%error, "a coupon is changed while Redis is away");
            0
        });
        let taken =
            services.db.take_revision(id, seen).await.map_err(|error| mysql_away(&error, "nothing was changed"))?;
        let (coupon, drops) = taken.ok_or_else(no_such_coupon)?;
        let plan = Plan::new(services, coupon, drops, change.clone(), now);
        if let Some(revision) = plan.run().await? {
            tracing::info!(coupon = %id, ?change, revision, "a coupon was changed");
            services.stocks.forget(plan.all.iter().map(|drop| drop.id));
            let seen = services.catalogue.reread().await.ok().and_then(|coupons| coupons.get(&id).cloned());
            return Ok(seen.unwrap_or_else(|| Arc::new(plan.as_changed())));
        }
    }
    Err(Problem::unavailable("others are changing this coupon at the same time; nothing was changed, try again"))
}

/// One attempt at a change, at a revision of its own.
struct Plan<'a> {
    services: &'a Services,
    /// As it was when the revision was taken.
    coupon: Coupon,
    /// All its drops, as they were then.
    all: Vec<Drop>,
    change: CouponChange,
    now: DateTime<Utc>,
    /// Those that the change is about.
    drops: Vec<(Drop, DropKeys)>,
}

impl<'a> Plan<'a> {
    fn new(services: &'a Services, coupon: Coupon, all: Vec<Drop>, change: CouponChange, now: DateTime<Utc>) -> Self {
        let open = |d: &&Drop| d.sealed_at.is_none() && d.closes_at.is_none_or(|closes| closes > now);
        let with_keys = |d: &Drop| (d.clone(), services.redis.keys(coupon.id, d.id));
        let drops = all.iter().filter(open).map(with_keys).collect();
        Self { services, coupon, all, change, now, drops }
    }

    /// The revision that this made. `None` where others have changed the coupon since; nothing was changed then.
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
        match self.services.db.change_coupon(id, revision, self.change.clone(), expected, self.now).await {
            Ok(Some(made)) => {
                self.follow(made).await.map_err(|error| {
                    tracing::warn!(%error, coupon = %id, "Redis did not follow a change; the reconciler sees to it");
                    let detail = "the change stands in MySQL; admission follows within a minute, or when you repeat it";
                    Problem::unavailable(detail)
                })?;
                Ok(Some(made))
            }
            Ok(None) => {
                self.restore(&lowered).await;
                Ok(None)
            }
            Err(error) => Err(self.not_changed(&error, &lowered).await),
        }
    }

    /// Looks at all drops before any is touched, so that a conflict changes nothing.
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

    /// Lowers in Redis, before MySQL: from here on no slot above the new quantity is given out. `false`: others have changed
    /// the coupon since.
    async fn lower(&self, lowered: &[&(Drop, DropKeys)], new: Slot) -> Result<bool, Problem> {
        for (at, (drop, keys)) in lowered.iter().enumerate() {
            let refused = match self.services.redis.lower(keys, self.coupon.revision, new).await {
                Ok(Lowered::Yes) => continue,
                Ok(Lowered::Outdated) => None,
                // Somebody claimed since the look above.
                Ok(Lowered::GivenOut(count)) => Some(below_given_out(drop.id, count)),
                Ok(Lowered::Unloaded) => Some(being_checked(drop.id)),
                Err(error) => Some(redis_away(&error)),
            };
            self.restore(&lowered[..=at]).await;
            return refused.map_or(Ok(false), Err);
        }
        Ok(true)
    }

    /// Puts back what was lowered in Redis, where MySQL certainly does not have this change. Refused there once somebody with a
    /// later revision has written.
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
        // Otherwise MySQL may have the change after all, and raising Redis again could give out what MySQL refuses.
        mysql_away(error, "repeat the request: only then is it certain whether the change stands")
    }

    /// Makes Redis follow what MySQL has at this revision.
    async fn follow(&self, made: u64) -> Result<(), RedisError> {
        if self.change.quantity.is_none() && self.change.paused.is_none() {
            return Ok(());
        }
        let coupon = self.changed_coupon();
        for (drop, keys) in &self.drops {
            let meta = DropMeta::of(&coupon, &self.changed_drop(drop));
            match self.services.redis.write_meta(keys, made, &meta).await? {
                // Or somebody has changed it again since.
                Done::Applied(()) | Done::Changed => {}
                // Not loaded, so nobody is admitted either; the reconciler loads it from MySQL, with the change.
                Done::Stale => tracing::warn!(drop = %drop.id, "a change waits for the reconciler to verify this drop"),
            }
        }
        Ok(())
    }

    fn changed_coupon(&self) -> Coupon {
        let mut coupon = self.coupon.clone();
        coupon.name = self.change.name.clone().unwrap_or(coupon.name);
        coupon.paused = self.change.paused.unwrap_or(coupon.paused);
        coupon.quantity = self.change.quantity.unwrap_or(coupon.quantity);
        coupon
    }

    fn changed_drop(&self, drop: &Drop) -> Drop {
        Drop { quantity: self.change.quantity.unwrap_or(drop.quantity), ..drop.clone() }
    }

    /// The coupon as it is now, for an answer while MySQL can't be read again.
    fn as_changed(&self) -> Entry {
        let about = |drop: &Drop| self.drops.iter().any(|(one, _)| one.id == drop.id);
        let drops = self.all.iter().map(|drop| if about(drop) { self.changed_drop(drop) } else { drop.clone() });
        Entry::new(&self.services.redis, self.changed_coupon(), drops.collect(), |_| None)
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
