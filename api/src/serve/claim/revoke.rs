//! Giving back and revoking, in the order of docs/decisions/0013-revoking.md: MySQL, then Redis,
//! and both again if the user may claim again. All steps are idempotent. After a crash, a pass
//! completes them.

use firstcome_shared::StoreError;
use firstcome_shared::coupon::Drop;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::http::Problem;
use firstcome_shared::http::problem::Code;
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::revoked::{CouponInUse, NewRevocation};
use firstcome_shared::mysql::{Db, DbError};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::outcome::ClaimRefusal;
use super::status::{ClaimStatus, judge, standing_in, standing_shown};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};
use crate::serve::state::App;

/// Maximum number of attempts to write, because MySQL may choose the transaction to end a deadlock
/// with a consumer.
const ATTEMPTS: usize = 3;

/// A claim that was given back or revoked.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Revoked {
    #[schema(example = "revoked")]
    status: &'static str,
    drop_id: DropId,
    /// Null for a position in the waiting list.
    #[schema(value_type = Option<u32>)]
    slot: Option<Slot>,
}

/// A request to revoke.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RevokeBody)]
pub(crate) struct RevokeOrder {
    /// Kept with the revocation.
    #[schema(example = "bought by a script", min_length = 1, max_length = 200)]
    pub(crate) reason: String,
    #[schema(example = "Kim", min_length = 1, max_length = 100)]
    pub(crate) by: String,
    /// Default: the open drop, else the last opened.
    pub(crate) drop_id: Option<DropId>,
    /// The user may claim another.
    #[serde(default)]
    pub(crate) may_claim_again: bool,
}

/// Revokes a user's claim in a coupon: in the given drop, or else in the one that `GET …/me`
/// shows. Without an operator, the user gives it back.
pub(crate) async fn revoke_claim(
    app: &App,
    id: CouponId,
    user: UserId,
    order: RevokeOrder,
    operator: Option<Operator>,
) -> Result<Revoked, Problem> {
    let coupon = app.catalogue.find(id).await?;
    let this = App::clone(app);
    let revoking = async move { revoke_in(&this, &coupon, user, order, operator).await };
    app.in_flight.run_unlimited(revoking).await?
}

async fn revoke_in(
    app: &App,
    coupon: &CouponWithDrops,
    user: UserId,
    order: RevokeOrder,
    operator: Option<Operator>,
) -> Result<Revoked, Problem> {
    let db = match &operator {
        Some(_) => &app.mysql.operators,
        None => &app.mysql.reads,
    };
    let id = coupon.coupon.id;
    let once_per = coupon.coupon.once_per;
    let record = db.person(id, &user).await.map_err(unknown)?;
    let (shown, standing) = match order.drop_id {
        None => {
            let (shown, standing) = standing_shown(app, coupon, &user).await;
            let shown = shown.ok_or(ClaimRefusal::ClaimStateUnknown)?;
            (shown.id, standing)
        }
        Some(named) => {
            let drop = drop_named(db, coupon, named).await?;
            (named, standing_in(app, coupon, Some(&drop), &user).await)
        }
    };
    let standing = standing.map_err(unknown)?;
    let claim = judge(once_per, Some(shown), Some(&record), Some(standing))
        .ok_or(ClaimRefusal::ClaimStateUnknown)?;
    let drop = match claim.drop_id {
        // With `once_per` `coupon`, the user's claim may be in another drop than the named one.
        Some(drop) if order.drop_id.is_none_or(|named| named == drop) => drop,
        None if order.drop_id.is_none() && coupon.lacks_a_drop(app.now()) => {
            return Err(ClaimRefusal::ClaimStateUnknown.into());
        }
        _ => return Err(nothing_held()),
    };
    let slot = match claim.status {
        ClaimStatus::Accepted | ClaimStatus::Issued => claim.slot,
        ClaimStatus::Waiting | ClaimStatus::Broken => None,
        ClaimStatus::Revoked | ClaimStatus::None => {
            let mut revoked = record.revoked.into_iter().rev();
            let earlier = revoked.find(|one| one.drop_id == drop.0);
            return finish(app, db, coupon, earlier.ok_or_else(nothing_held)?).await;
        }
    };
    let keys = app.redis.keys(id, shown);
    let redis = &app.redis;
    let held = match slot {
        Some(slot) if claim.status == ClaimStatus::Accepted => {
            let keys = redis.keys(id, drop);
            redis.held_slot(&keys, slot, &user).await.map_err(unknown)?
        }
        _ => None,
    };
    let known = redis.last_revocation(&keys, drop, once_per, user.as_str());
    let new = NewRevocation {
        coupon: id,
        drop,
        slot,
        claimed_at: held.and_then(|held| held.admitted_at_ms).map(instant),
        after: known.await.map_err(unknown)?,
        user,
        reason: order.reason,
        by: order.by,
        may_claim_again: order.may_claim_again,
        once_per,
        operator,
    };
    let mut attempt = 1;
    let revocation = loop {
        match db.revoke(new.clone()).await {
            Err(DbError::Query { .. }) if attempt < ATTEMPTS => attempt += 1,
            written => break written.map_err(unknown)?.map_err(in_use)?,
        }
    };
    crash_point(Point::RevocationWritten);
    finish(app, db, coupon, revocation).await
}

/// Runs the steps that follow once MySQL has the revocation. All are idempotent.
async fn finish(
    app: &App,
    db: &Db,
    coupon: &CouponWithDrops,
    revocation: Revocation,
) -> Result<Revoked, Problem> {
    let id = coupon.coupon.id;
    let once_per = coupon.coupon.once_per;
    let drop = DropId(revocation.drop_id);
    let keys = app.redis.keys(id, drop);
    let released = async {
        let until = app.redis.revoke(&keys, once_per, &revocation).await?;
        crash_point(Point::RevocationReleased);
        if revocation.is_to_be_ended() {
            let ended = db.end_revocation(&revocation, until).await?;
            app.redis.revoke(&keys, once_per, &ended).await?;
        }
        Ok::<_, StoreError>(())
    };
    released.await.map_err(|error| {
        tracing::warn!(%error, coupon = %id, "a revocation is not in Redis yet; a pass finishes it");
        Problem::unavailable(
            "the claim is revoked, but its slot may not be free yet; repeat the request to be certain",
        )
    })?;
    Ok(Revoked {
        status: "revoked",
        drop_id: drop,
        slot: revocation.slot,
    })
}

/// The catalogue holds only the last of the sealed drops.
async fn drop_named(db: &Db, coupon: &CouponWithDrops, id: DropId) -> Result<Drop, Problem> {
    if let Some(drop) = coupon.drop(id) {
        return Ok(drop.clone());
    }
    let all = db.coupon(coupon.coupon.id).await.map_err(unknown)?;
    let mut drops = all.into_iter().flat_map(|(_, drops)| drops);
    drops.find(|drop| drop.id == id).ok_or_else(nothing_held)
}

fn in_use(CouponInUse: CouponInUse) -> Problem {
    Problem::new(
        Code::Used,
        "the coupon's code is used; once the shop, or an operator, has undone that, repeat this",
    )
}

fn nothing_held() -> Problem {
    Problem::not_found("there is no claim of this user to give back or revoke")
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes it by value
fn unknown(error: impl std::error::Error) -> Problem {
    tracing::warn!(%error, "a claim could not be revoked");
    ClaimRefusal::ClaimStateUnknown.into()
}
