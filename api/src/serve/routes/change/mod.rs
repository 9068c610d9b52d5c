//! `PATCH /v1/coupons/{id}`
//!
//! MySQL is authoritative; the reconciler applies its settings to Redis. Changes that take
//! something away (a lower quantity, a drop that is moved or deleted) are written to Redis first,
//! all others to MySQL first, so that Redis promises nothing that MySQL would refuse if a crash
//! separates the two steps. Each attempt first takes a revision of the coupon, a fencing token:
//! neither Redis nor MySQL accepts its writes after those of a later revision
//! (docs/decisions/0012-revisions.md).

mod attempt;
mod body;
mod windows;

use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use chrono::{DateTime, TimeDelta, Utc};
use firstcome_shared::coupon::{Allow, Coupon, Drop};
use firstcome_shared::domain::CouponId;
use firstcome_shared::drops::make_ahead;
use firstcome_shared::http::Problem;
use firstcome_shared::mysql::change::Revision;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::settings::Written;

use self::attempt::ChangeAttempt;
pub(crate) use self::body::ChangeBody;
use self::body::{WantedChange, Windows};
use super::extract::{CouponPath, JsonBody};
use super::recover::recover_lost;
use super::refusals::{mysql_unavailable, no_such_coupon};
use super::view::{CouponView, show_one};
use super::{allow_list, etag};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};
use crate::serve::state::{App, Services};

/// Change a coupon
///
/// Safe to repeat. After a 503, part of the change may have been applied; the message says which.
/// Repeat it without `If-Match`, since the revision may have changed.
#[utoipa::path(
    patch, path = "/v1/coupons/{id}", tag = "operators", request_body = ChangeBody,
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
    JsonBody(body): JsonBody<ChangeBody>,
) -> Result<Response, Problem> {
    let only = etag::if_match(&headers)?;
    let change = body.check(&app.identity)?;
    let services = Arc::clone(&app);
    let changed = app
        .in_flight
        .run_unlimited(async move { apply(&services, id, change, only, by).await })
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

/// Maximum number of attempts. An attempt fails if another operator's change interferes.
const ATTEMPTS: usize = 5;

/// Applies the change, if the coupon has the revision `only` or if `only` is `None`.
async fn apply(
    services: &Services,
    id: CouponId,
    wanted: WantedChange,
    mut only: Option<u64>,
    by: Operator,
) -> Result<Changed, Problem> {
    let _one_at_a_time = services.change_locks.lock(id).await;
    recover_lost(services, id).await?;
    if wanted.windows != Windows::NONE || wanted.quantity.is_some() {
        // Refuse invalid changes before taking a revision, so that the corrected request can use
        // the same `If-Match`.
        let found = services.mysql.operators.coupon(id).await;
        let found = found.map_err(|error| mysql_unavailable(&error, "nothing was changed"))?;
        let (coupon, drops) = found.ok_or_else(|| no_such_coupon(id))?;
        if only.is_some_and(|only| only != coupon.revision) {
            return Ok(Changed::Another(coupon.revision));
        }
        let now = time(services, &wanted).await;
        ChangeAttempt::new(services, coupon, drops, &wanted, now)?
            .check_quantity()
            .await?;
    }
    for _ in 0..ATTEMPTS {
        let now = time(services, &wanted).await;
        // A change of the name alone does not concern Redis. For other changes, Redis may have
        // revisions that MySQL has lost.
        let seen = if wanted.is_in_redis() {
            seen_revision(services, id).await
        } else {
            0
        };
        let taken = services
            .mysql
            .operators
            .take_revision_if(id, seen, only)
            .await;
        let (coupon, drops) =
            match taken.map_err(|error| mysql_unavailable(&error, "nothing was changed"))? {
                Revision::Taken(coupon, drops) => (coupon, drops),
                Revision::Another(revision) => return Ok(Changed::Another(revision)),
                Revision::Behind => {
                    recover_lost(services, id).await?;
                    continue;
                }
                Revision::NoCoupon => return Err(no_such_coupon(id)),
            };
        // The coupon had the requested revision; later attempts must expect the one just taken.
        only = only.map(|_| coupon.revision);
        let mut attempt = ChangeAttempt::new(services, coupon, drops, &wanted, now)?;
        if let Some(made) = attempt.run(by.clone()).await? {
            tracing::info!(coupon = %id, ?wanted, revision = made.0.revision, "a coupon was changed");
            return finish(services, &attempt, &wanted, made)
                .await
                .map(Changed::Yes);
        }
    }
    Err(Problem::unavailable(
        "other operators are changing this coupon; nothing was changed, try again",
    ))
}

/// Follows up a change committed to MySQL: updates Redis, creates drops ahead, wakes the
/// reconciler, and refreshes the caches.
async fn finish(
    services: &Services,
    attempt: &ChangeAttempt<'_>,
    wanted: &WantedChange,
    made: (Coupon, Vec<Drop>),
) -> Result<Arc<CouponWithDrops>, Problem> {
    let id = made.0.id;
    let gone = attempt
        .all
        .iter()
        .filter(|drop| made.1.iter().all(|one| one.id != drop.id));
    for drop in gone {
        if let Err(error) = services
            .redis
            .expire_drop(&services.redis.keys(id, drop.id), FORGET_AFTER)
            .await
        {
            tracing::warn!(%error, drop = %drop.id, "the keys of a deleted drop stay in Redis");
        }
    }
    // If the coupon becomes restricted to a list, write the list to Redis before admission needs
    // it.
    let has_list = wanted.allow != Some(Some(Allow::List)) || allow_list::write(services, id).await;
    if wanted.is_in_redis() && !(has_list && follow(services, made.0.clone(), made.1.clone()).await)
    {
        let detail = "MySQL has the change; admission follows within a minute, or when you repeat the request";
        return Err(Problem::unavailable(detail));
    }
    // Create the drops that exist only in the new schedule. If this fails, the next round creates
    // them.
    let db = &services.mysql.operators;
    if let Err(error) =
        make_ahead(db, &services.redis, &made.0, &made.1, services.now().await).await
    {
        tracing::warn!(%error, coupon = %id, "could not create drops ahead; retrying within a minute");
    }
    if wanted.quantity.is_some() || wanted.paused == Some(false) {
        wake_reconciler(services, id, &attempt.all).await;
    }
    services
        .remaining
        .forget(attempt.all.iter().map(|drop| drop.id));
    let seen = services.catalogue.reread(id).await;
    Ok(seen.unwrap_or_else(|_| {
        Arc::new(CouponWithDrops::new(
            &services.redis,
            made.0,
            made.1,
            |_| None,
        ))
    }))
}

/// Keys of deleted drops stay for this long, because claims at processes that have not read the
/// deletion yet still use them.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Returns Redis's time, or an earlier one if Redis does not answer. `close_now` must not choose a
/// closing time ahead of Redis's clock, because users would be admitted until then.
async fn time(services: &Services, wanted: &WantedChange) -> DateTime<Utc> {
    if !wanted.windows.close_now {
        return services.now().await;
    }
    let asked = services.redis.time_ms().await;
    asked.map_or_else(|_| Utc::now() - TimeDelta::seconds(1), instant)
}

/// Wakes the reconciler, so that users on the waiting list get free slots before the next scheduled
/// pass.
async fn wake_reconciler(services: &Services, id: CouponId, drops: &[Drop]) {
    let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
    let keys: Vec<DropKeys> = unsealed
        .map(|drop| services.redis.keys(id, drop.id))
        .collect();
    if let Err(error) = services.redis.wake_if_anyone_waits(id, &keys).await {
        tracing::warn!(%error, coupon = %id, "could not wake the reconciler; the next scheduled pass promotes waiting users");
    }
}

/// Returns the highest revision in Redis, or 0 if Redis does not answer.
async fn seen_revision(services: &Services, id: CouponId) -> u64 {
    services.redis.revision(id).await.unwrap_or_else(|error| {
        tracing::warn!(%error, coupon = %id, "Redis is unavailable while a coupon is changed");
        0
    })
}

/// Writes MySQL's settings of every drop that is not sealed to Redis. Returns `false` if the
/// reconciler has to write them.
///
/// A write is refused if another operator has written a later revision, perhaps of only one field
/// or one drop. This does not prove that Redis has this change, so everything is written again with
/// a new revision.
async fn follow(services: &Services, mut coupon: Coupon, mut drops: Vec<Drop>) -> bool {
    for _ in 0..ATTEMPTS {
        match write_all(services, &coupon, &drops).await {
            Ok(true) => return true,
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, coupon = %coupon.id, "could not write a change to Redis; the reconciler will");
                return false;
            }
        }
        let seen = seen_revision(services, coupon.id).await;
        match services
            .mysql
            .operators
            .take_revision(coupon.id, seen)
            .await
        {
            Ok(Some((now, own))) => {
                coupon = now;
                drops = own;
            }
            Ok(None) => return false,
            Err(error) => {
                tracing::warn!(%error, coupon = %coupon.id, "could not write a change to Redis; the reconciler will");
                return false;
            }
        }
    }
    tracing::warn!(coupon = %coupon.id, "this coupon was changed repeatedly; the reconciler updates Redis");
    false
}

/// Writes all settings once. Returns `false` if Redis has seen a later revision.
async fn write_all(
    services: &Services,
    coupon: &Coupon,
    drops: &[Drop],
) -> Result<bool, RedisError> {
    for drop in drops.iter().filter(|drop| drop.sealed_at.is_none()) {
        let keys = services.redis.keys(coupon.id, drop.id);
        match services
            .redis
            .write_settings(&keys, coupon.revision, &DropMeta::of(coupon, drop))
            .await?
        {
            Written::Yes => {}
            Written::Outdated => return Ok(false),
            // A drop that is not loaded admits no user. When the reconciler loads it from MySQL,
            // the change is included.
            Written::Unloaded => {
                tracing::warn!(drop = %drop.id, "a change waits for the reconciler to verify this drop");
            }
        }
    }
    Ok(true)
}
