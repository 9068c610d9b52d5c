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
use firstcome_shared::coupon::{Allow, CouponPatch};
use firstcome_shared::domain::{CouponId, Slot};
use firstcome_shared::drops::{make_ahead, missing};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::http::views::CouponView;
use firstcome_shared::model::is_one_lost;
use firstcome_shared::mysql::change::{ChangedCoupon, CouponChanged};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::{DataRefusal, DbError};
use firstcome_shared::redis::keys::{DropKeys, DropMeta};
use firstcome_shared::redis::settings::{CouponRead, Written};

use super::etag;
use super::extract::{CouponParam, CouponPath, JsonBody, invalid, no_such_coupon};
use super::follow_up::{check_audience, follows_later, recover_lost, reread, write_allow_list};
use super::view::show_one;
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::{App, Services};

/// Change a coupon
///
/// Safe to repeat. After a 503, part of the change may have been applied; if that is known, the
/// message says which. Repeat it without `If-Match`, since the revision may have changed.
#[utoipa::path(
    patch, path = "/v1/coupons/{id}", tag = "operators", security(("ops" = [])),
    request_body = CouponPatch,
    params(
        CouponParam,
        (
            "If-Match" = Option<String>, Header, example = "\"7\"",
            description = "The coupon's `ETag`, or `*`: change it only if it still matches"
        )
    ),
    responses(
        (
            status = 200, description = "The changed coupon", body = CouponView,
            headers(("ETag" = String, description = "Its revision, in quotes"))
        ),
        (
            status = 409,
            description = "`below_given_out`, with `given_out`: more is given out already. With \
                `revision` if a claim came during the change and left that revision"
        ),
        (
            status = 412,
            description = "`changed_meanwhile`, with `revision`: `If-Match` does not match"
        ),
        (status = 422, description = "`not_possible`: the message says what to do")
    )
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
    let changed = async move { apply(&services, id, patch, only, by).await };
    let coupon = app.in_flight.run_unlimited(changed).await??;
    Ok(show_one(&app, &coupon, StatusCode::OK).await)
}

/// Applies the change, if the coupon has the revision `only` or if `only` is `None`. If it lowers a
/// quantity in Redis and then fails, Redis is stricter than MySQL until the next pass.
async fn apply(
    services: &Services,
    id: CouponId,
    patch: CouponPatch,
    only: Option<u64>,
    by: Operator,
) -> Result<Arc<CouponWithDrops>, Problem> {
    recover_lost(services, id).await?;
    let db = &services.mysql.operators;
    let now = services.clock.now(id);
    let expected = match patch.quantity {
        Some(new) => Some(lower(services, id, &patch, new, now, only).await?),
        None => only,
    };
    let changed = db.change_coupon(id, expected, patch.clone(), now, by);
    match changed.await.map_err(|error| not_changed(error, &patch))? {
        CouponChanged::Yes(changed) => {
            let revision = changed.coupon.revision;
            tracing::info!(coupon_id = id.0, ?patch, revision, "a coupon was changed");
            finish(services, &patch, changed).await
        }
        CouponChanged::Another(_) if only.is_none() => {
            Err(unchanged("another operator is changing this coupon"))
        }
        CouponChanged::Another(revision) => Err(etag::changed_meanwhile(revision)),
        CouponChanged::NotPossible(why) => Err(Problem::new(Code::NotPossible, why)),
        CouponChanged::LostDrop => Err(lost_drop()),
        CouponChanged::NoCoupon => Err(no_such_coupon(id)),
    }
}

/// Lowers the quantity in Redis, which then gives out no slot above it. MySQL gets the revision
/// before Redis is written with it. Returns the revision that the coupon must have when the change
/// is committed: a drop that is enlarged meanwhile would have to be lowered, too.
async fn lower(
    services: &Services,
    id: CouponId,
    patch: &CouponPatch,
    quantity: Slot,
    now: DateTime<Utc>,
    only: Option<u64>,
) -> Result<u64, Problem> {
    let db = &services.mysql.operators;
    let redis = &services.redis;
    let found = db.coupon(id).await?;
    let (mut coupon, mut drops) = found.ok_or_else(|| no_such_coupon(id))?;
    if is_one_lost(&coupon, &drops, now) {
        return Err(lost_drop());
    }
    let larger: Vec<DropKeys> = drops
        .iter()
        .filter(|drop| drop.can_give_slots(now) && drop.quantity > quantity)
        .map(|drop| redis.keys(id, drop.id))
        .collect();
    let revision = coupon.revision;
    let era = coupon.era;
    if larger.is_empty() || only.is_some_and(|only| only != revision) {
        return Ok(only.unwrap_or(revision));
    }
    // A refused request must change nothing, not even the revision, so that the corrected one can
    // use the same `If-Match`. If a claim arrives after this check, the refused request leaves a
    // new revision, which the refusal contains.
    let applied = patch.apply(&mut coupon, &mut drops, now);
    applied.map_err(|why| Problem::new(Code::NotPossible, why))?;
    for seen in redis.watched(&larger).await? {
        let count = seen
            .and_then(|(_, count)| count)
            .and_then(|count| Slot::try_from(count).ok())
            .ok_or_else(|| unchanged("this coupon is being verified"))?;
        if count > quantity {
            return Err(below_given_out(count));
        }
    }
    let Some((taken, _)) = db.take_revision(id, 0, Some(revision)).await? else {
        // Another operator has changed the coupon, which the caller notices.
        return Ok(revision);
    };
    let read = CouponRead {
        era,
        revision: taken.revision,
    };
    let larger: Vec<&DropKeys> = larger.iter().collect();
    match redis.lower(&larger, read, quantity).await? {
        Written::Yes => Ok(taken.revision),
        Written::Outdated => Ok(revision),
        // A claim arrived after the check above.
        Written::GivenOut(count) => Err(below_given_out(count).with("revision", taken.revision)),
        Written::Present
        | Written::Stale
        | Written::Unloaded
        | Written::Unverified
        | Written::Incomplete => Err(unchanged("this coupon is being verified")),
    }
}

/// Keys of removed drops stay for this long, because claims at processes that have not read the
/// removal yet still use them.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Follows up a change committed to MySQL: updates Redis, creates drops ahead, and
/// refreshes the caches.
async fn finish(
    services: &Services,
    patch: &CouponPatch,
    ChangedCoupon {
        coupon,
        drops,
        removed,
    }: ChangedCoupon,
) -> Result<Arc<CouponWithDrops>, Problem> {
    let id = coupon.id;
    let redis = &services.redis;
    let unsealed = drops.iter().filter(|drop| drop.sealed_at.is_none());
    let keys: Vec<DropKeys> = unsealed
        .clone()
        .map(|drop| redis.keys(id, drop.id))
        .collect();
    // First, because a repeated request does not know these drops. If this process dies before, the
    // reconciler finds them in its copy of the catalogue.
    let gone: Vec<DropKeys> = removed.iter().map(|drop| redis.keys(id, *drop)).collect();
    let forgotten = redis
        .forget_drops(coupon.revision, &Vec::from_iter(&gone), FORGET_AFTER)
        .await;
    // If the coupon becomes restricted to a list, write the list to Redis before admission needs
    // it.
    let has_list = patch.allow != Some(Some(Allow::List)) || write_allow_list(services, id).await;
    if patch.concerns_redis() {
        let metas = unsealed.map(|drop| DropMeta::new(&coupon, drop));
        let all: Vec<_> = keys.iter().zip(metas).collect();
        let written = redis.write_settings(coupon.revision, &all).await;
        // A drop that is not loaded admits no user. When the reconciler loads it from MySQL, the
        // change is included. If another operator has taken a later revision, perhaps without
        // changing anything, Redis may not have this change.
        if !has_list || !matches!(written, Ok(Written::Yes | Written::Unloaded)) {
            tracing::warn!(coupon_id = id.0, ?written, "a change is not in Redis yet");
            return Err(follows_later());
        }
    }
    let db = &services.mysql.operators;
    let rest = async {
        forgotten?;
        let missing = missing(&coupon, &drops, services.clock.now(id));
        make_ahead(db, redis, &coupon, missing).await?;
        Ok::<_, StoreError>(())
    };
    if let Err(error) = rest.await {
        tracing::warn!(%error, coupon_id = id.0, "the reconciler has to follow up a change");
    }
    services.remaining.forget().await;
    Ok(reread(services, coupon, drops).await)
}

fn not_changed(error: DbError, patch: &CouponPatch) -> Problem {
    match error.refusal() {
        // Rows of the coupon are being written.
        Some(DataRefusal::UnknownDrop) if patch.last_day.is_none() => error.into(),
        None => error.into(),
        Some(DataRefusal::UnknownDrop) => {
            let why = "a drop after last_day has coupons already; nothing was changed";
            Problem::new(Code::NotPossible, why)
        }
        Some(_) => {
            tracing::warn!(%error, "a quantity was not lowered");
            let why = "rows above that quantity are issued already; MySQL was not changed, and \
                Redis follows within a minute";
            Problem::new(Code::BelowGivenOut, why)
        }
    }
}

fn lost_drop() -> Problem {
    unchanged(
        "MySQL has lost a drop of this coupon; the reconciler creates it again within a minute",
    )
}

fn unchanged(why: &str) -> Problem {
    Problem::unavailable(format!("{why}; nothing was changed, try again"))
}

fn below_given_out(given_out: Slot) -> Problem {
    let detail = format!(
        "{given_out} are given out already, counting returned ones, which keep their slots: \
        {given_out} is the lowest quantity possible; nothing was changed"
    );
    Problem::new(Code::BelowGivenOut, detail).with("given_out", given_out)
}
