//! `PATCH /v1/coupons/{id}`
//!
//! MySQL is authoritative: a change is one transaction there, at a new revision of the coupon, and
//! then one script writes the settings to Redis. If that fails, the reconciler writes them. A lower
//! quantity is written to Redis first, so that no slot is given out that MySQL would refuse
//! (docs/decisions/0012-revisions.md).

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, Utc};
use firstcome_shared::StoreError;
use firstcome_shared::coupon::{Allow, Coupon, CouponPatch, Drop};
use firstcome_shared::domain::{CouponId, Slot};
use firstcome_shared::drops::{is_one_lost, make_ahead};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::mysql::change::{ChangedCoupon, CouponChanged};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{DbError, Refusal, refusal};
use firstcome_shared::recover::recover;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::settings::{CouponRead, Lowered, Written};
use tokio::time::timeout;

use super::create::check_audience;
use super::extract::{CouponPath, JsonBody, invalid, mysql_unavailable, no_such_coupon};
use super::view::{CouponView, show_one};
use super::{allow_list, etag};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::{App, Services};

/// Change a coupon
///
/// Safe to repeat. After a 503, part of the change may have been applied; the message says which.
/// Repeat it without `If-Match`, since the revision may have changed.
#[utoipa::path(
    patch, path = "/v1/coupons/{id}", tag = "operators", request_body = CouponPatch,
    params(
        ("id" = i64, Path, description = "Coupon ID", example = 7),
        ("If-Match" = Option<String>, Header, description = "The coupon's `ETag`, or `*`: change it only if it still matches",
            example = "\"7\""),
    ),
    responses(
        (status = 200, description = "The changed coupon", body = CouponView,
            headers(("ETag" = String, description = "Its revision, in quotes"))),
        (status = 404, description = "`not_found`"),
        (status = 409, description = "`below_given_out`, with `given_out`: more is given out already"),
        (status = 412, description = "`changed_meanwhile`, with `revision`, also as `ETag`: `If-Match` does not match"),
        (status = 422, description = "`not_possible`: the message says what to do"),
    ),
    security(("ops" = []))
)]
pub(crate) async fn change(
    State(app): State<App>,
    CouponPath(id): CouponPath,
    Extension(by): Extension<Operator>,
    headers: HeaderMap,
    JsonBody(body): JsonBody<CouponPatch>,
) -> Result<Response, Problem> {
    let only = etag::if_match(&headers)?;
    let patch = body.checked().map_err(invalid)?;
    check_audience(&app.identity, patch.allow.as_ref().and_then(Option::as_ref))?;
    let services = Arc::clone(&app);
    let changed = app
        .in_flight
        .run_unlimited(async move { apply(&services, id, patch, only, by).await })
        .await?;
    match changed? {
        Changed::Yes(coupon) => Ok(show_one(&app, &coupon, StatusCode::OK).await),
        Changed::Another(revision) => Ok(etag::changed_meanwhile(revision)),
    }
}

enum Changed {
    Yes(Arc<CouponWithDrops>),
    /// The coupon does not have the requested revision, but this one.
    Another(u64),
}

/// Maximum number of attempts. An attempt to lower a quantity fails if another operator changes the
/// coupon between its two steps.
const ATTEMPTS: usize = 5;

/// Applies the change, if the coupon has the revision `only` or if `only` is `None`. If it lowers a
/// quantity in Redis and then fails, Redis is stricter than MySQL until the next pass.
async fn apply(
    services: &Services,
    id: CouponId,
    patch: CouponPatch,
    only: Option<u64>,
    by: Operator,
) -> Result<Changed, Problem> {
    let _one_at_a_time = services.change_locks.lock(id).await;
    recover_lost(services, id).await?;
    let db = &services.mysql.operators;
    for _ in 0..ATTEMPTS {
        let now = services.now().await;
        let expected = match patch.quantity {
            Some(new) => Some(lower(services, id, &patch, new, now, only).await?),
            None => only,
        };
        let changed = db.change_coupon(id, expected, patch.clone(), now, by.clone());
        match changed.await.map_err(|error| not_changed(&error, &patch))? {
            CouponChanged::Yes(changed) => {
                let revision = changed.coupon.revision;
                tracing::info!(coupon_id = id.0, ?patch, revision, "a coupon was changed");
                return Ok(Changed::Yes(finish(services, &patch, changed).await?));
            }
            CouponChanged::Another(_) if only.is_none() => {}
            CouponChanged::Another(revision) => return Ok(Changed::Another(revision)),
            CouponChanged::NotPossible(why) => return Err(Problem::new(Code::NotPossible, why)),
            CouponChanged::LostDrop => return Err(lost_drop()),
            CouponChanged::NoCoupon => return Err(no_such_coupon(id)),
        }
    }
    Err(Problem::unavailable(
        "other operators are changing this coupon; nothing was changed, try again",
    ))
}

/// Maximum wait for Redis when looking for settings that MySQL has lost. A change of a name must
/// succeed without Redis.
const ASKED_FOR: Duration = Duration::from_secs(1);

/// Recovers settings that MySQL has lost from Redis (docs/decisions/0026-mysql-gone-back.md). Call
/// it before a change, which must neither reuse a revision that MySQL has lost nor undo lost
/// settings.
pub(super) async fn recover_lost(services: &Services, id: CouponId) -> Result<(), Problem> {
    let why = match timeout(ASKED_FOR, services.redis.revision(id)).await {
        Ok(Ok(_)) => match recover(&services.mysql.operators, &services.redis, id).await {
            Ok(None) => return Ok(()),
            Ok(Some(lost)) => {
                let changes = lost.changes;
                tracing::warn!(
                    coupon_id = id.0,
                    changes,
                    "MySQL had lost settings, which Redis has"
                );
                return Ok(());
            }
            Err(StoreError::Db(error)) => {
                return Err(mysql_unavailable(&error, "nothing was changed"));
            }
            Err(StoreError::Redis(error)) => error.to_string(),
        },
        Ok(Err(error)) => error.to_string(),
        Err(elapsed) => elapsed.to_string(),
    };
    tracing::warn!(
        why,
        coupon_id = id.0,
        "could not check in Redis whether MySQL has lost settings"
    );
    Ok(())
}

/// Lowers the quantity in Redis, which then gives out no slot above it. MySQL has the revision
/// first with which Redis is written. Returns the revision that the coupon must have when the
/// change is committed: a drop that is enlarged meanwhile would have to be lowered, too.
async fn lower(
    services: &Services,
    id: CouponId,
    patch: &CouponPatch,
    quantity: Slot,
    now: DateTime<Utc>,
    only: Option<u64>,
) -> Result<u64, Problem> {
    let (db, redis) = (&services.mysql.operators, &services.redis);
    let nothing = |error: DbError| mysql_unavailable(&error, "nothing was changed");
    let found = db.coupon(id).await.map_err(nothing)?;
    let (mut coupon, mut drops) = found.ok_or_else(|| no_such_coupon(id))?;
    if only.is_some_and(|only| only != coupon.revision) {
        return Ok(only.unwrap_or_default());
    }
    if is_one_lost(&coupon, &drops, now) {
        return Err(lost_drop());
    }
    let larger = drops
        .iter()
        .filter(|drop| drop.is_not_closed(now) && drop.quantity > quantity);
    let larger: Vec<DropKeys> = larger.map(|drop| redis.keys(id, drop.id)).collect();
    let larger: Vec<&DropKeys> = larger.iter().collect();
    let (revision, era) = (coupon.revision, coupon.era);
    if larger.is_empty() {
        return Ok(revision);
    }
    // A refused request must change nothing, not even the revision, so that the corrected one can
    // use the same `If-Match`.
    patch
        .apply(&mut coupon, &mut drops, now)
        .map_err(|why| Problem::new(Code::NotPossible, why))?;
    let counts = redis.given_out(&larger).await;
    let counts = counts.map_err(|error| redis_away(&error))?;
    let counts: Option<Vec<Slot>> = counts.into_iter().collect();
    let highest = counts.ok_or_else(being_checked)?.into_iter().max();
    if let Some(highest) = highest.filter(|highest| *highest > quantity) {
        return Err(below_given_out(highest));
    }
    let taken = db.take_revision(id, 0, Some(revision)).await;
    let Some((taken, _)) = taken.map_err(nothing)? else {
        // Another operator has changed the coupon, which the caller notices.
        return Ok(revision);
    };
    let read = CouponRead {
        era,
        revision: taken.revision,
    };
    let answer = redis.lower(&larger, read, quantity).await;
    match answer.map_err(|error| redis_away(&error))? {
        Lowered::Yes => Ok(taken.revision),
        Lowered::Outdated => Ok(revision),
        // A claim arrived after the check above.
        Lowered::GivenOut(count) => Err(below_given_out(count)),
        Lowered::Unloaded | Lowered::Unverified => Err(being_checked()),
    }
}

/// Keys of removed drops stay for this long, because claims at processes that have not read the
/// removal yet still use them.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Follows up a change committed to MySQL: updates Redis, creates drops ahead, wakes the
/// reconciler, and refreshes the caches.
async fn finish(
    services: &Services,
    patch: &CouponPatch,
    ChangedCoupon {
        coupon,
        drops,
        removed,
    }: ChangedCoupon,
) -> Result<Arc<CouponWithDrops>, Problem> {
    let (id, redis) = (coupon.id, &services.redis);
    for drop in removed {
        let keys = redis.keys(id, drop);
        if let Err(error) = redis.expire_drop(&keys, FORGET_AFTER).await {
            tracing::warn!(%error, drop_id = drop.0, "the keys of a removed drop stay in Redis");
        }
    }
    // If the coupon becomes restricted to a list, write the list to Redis before admission needs
    // it.
    let has_list = patch.allow != Some(Some(Allow::List)) || allow_list::write(services, id).await;
    if patch.concerns_redis() && !(has_list && write(services, &coupon, &drops).await) {
        let detail = "MySQL has the change; admission follows within a minute, or when you repeat the request";
        return Err(Problem::unavailable(detail));
    }
    // If this fails, the next round creates them.
    let db = &services.mysql.operators;
    if let Err(error) = make_ahead(db, redis, &coupon, &drops, services.now().await).await {
        tracing::warn!(%error, coupon_id = id.0, "could not create drops ahead; retrying within a minute");
    }
    let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
    let keys: Vec<DropKeys> = unsealed.map(|drop| redis.keys(id, drop.id)).collect();
    // Users on the waiting list get free slots before the next scheduled pass.
    if (patch.quantity.is_some() || patch.paused == Some(false))
        && let Err(error) = redis.wake_if_anyone_waits(id, &keys).await
    {
        tracing::warn!(%error, coupon_id = id.0, "could not wake the reconciler; the next scheduled pass promotes waiting users");
    }
    services.remaining.forget(drops.iter().map(|drop| drop.id));
    let seen = services.catalogue.reread(id).await;
    Ok(seen.unwrap_or_else(|_| Arc::new(CouponWithDrops::new(redis, coupon, drops, |_| None))))
}

/// Writes the settings of the drops that are not sealed to Redis. Returns `false` if the reconciler
/// has to write them: also if another operator has taken a later revision, perhaps without changing
/// anything, so that Redis may not have this change.
async fn write(services: &Services, coupon: &Coupon, drops: &[Drop]) -> bool {
    let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
    let keys = |drop: &Drop| services.redis.keys(coupon.id, drop.id);
    let keys: Vec<(DropKeys, &Drop)> = unsealed.map(|drop| (keys(drop), drop)).collect();
    let all: Vec<_> = keys
        .iter()
        .map(|(keys, drop)| (keys, DropMeta::of(coupon, drop)))
        .collect();
    let written = services.redis.write_settings(coupon.revision, &all).await;
    match &written {
        // A drop that is not loaded admits no user. When the reconciler loads it from MySQL, the
        // change is included.
        Ok(Written::Yes | Written::Unloaded) => true,
        Ok(Written::Outdated) | Err(_) => {
            tracing::warn!(
                coupon_id = coupon.id.0,
                ?written,
                "a change is not in Redis yet"
            );
            false
        }
    }
}

fn not_changed(error: &DbError, patch: &CouponPatch) -> Problem {
    let refused = match error {
        DbError::Query { source, .. } => refusal(source),
        _ => None,
    };
    match refused {
        Some(Refusal::UnknownDrop) if patch.last_day.is_none() => Problem::unavailable(
            "rows of this coupon are being written; nothing was changed, try again",
        ),
        Some(Refusal::UnknownDrop) => Problem::new(
            Code::NotPossible,
            "a drop after last_day has coupons already; nothing was changed",
        ),
        Some(_) => {
            tracing::warn!(%error, "a quantity was not lowered");
            let why = "rows above that quantity are issued already; MySQL was not changed, and Redis follows within a minute";
            Problem::new(Code::BelowGivenOut, why)
        }
        None => mysql_unavailable(
            error,
            "repeat the request: only then is it certain whether the change took effect",
        ),
    }
}

fn lost_drop() -> Problem {
    Problem::unavailable(
        "MySQL has lost a drop of this coupon; the reconciler creates it again within a minute; nothing was changed, try again",
    )
}

fn below_given_out(given_out: Slot) -> Problem {
    let detail = format!("{given_out} are given out already; nothing was changed");
    Problem::new(Code::BelowGivenOut, detail).with("given_out", given_out)
}

fn being_checked() -> Problem {
    Problem::unavailable("this coupon is being verified; nothing was changed, try again")
}

fn redis_away(error: &RedisError) -> Problem {
    tracing::warn!(%error, "an operator's request could not be processed");
    let detail =
        "Redis did not answer, and lowering a quantity needs it; nothing was changed in MySQL";
    Problem::unavailable(detail)
}
