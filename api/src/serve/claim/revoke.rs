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
use super::status::{ClaimStatus, MyClaim, judge, standing_in, standing_shown};
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::App;

/// Maximum number of attempts to write, because MySQL may roll back the transaction to end a
/// deadlock with a consumer.
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

/// Why a user loses a slot, who decided it, and in which drop.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RevokeBody)]
pub(crate) struct RevokeOrder {
    /// Kept with the revocation.
    #[schema(example = "bought by a script", min_length = 1, max_length = 200)]
    pub(crate) reason: String,
    #[schema(example = "Kim", min_length = 1, max_length = 100)]
    pub(crate) by: String,
    /// Default: the open drop, else the last opened; with `once_per` `coupon`, the drop of the
    /// claim.
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
    let record = db.user_record(id, &user).await.map_err(unknown)?;
    let (shown, standing) = match order.drop_id {
        None => {
            let now = app.clock.now(id);
            let (shown, standing) = standing_shown(app, coupon, now, &user).await;
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
    let lacks_a_drop = coupon.lacks_a_drop(app.clock.now(coupon.coupon.id));
    let to_revoke = claim_to_revoke(&claim, order.drop_id, record.revoked, lacks_a_drop);
    let ClaimToRevoke {
        drop,
        slot,
        is_admitted,
    } = match to_revoke {
        ToRevoke::Claim(claim) => claim,
        ToRevoke::Finish(revocation) => return finish(app, db, coupon, *revocation).await,
        ToRevoke::Nothing => return Err(nothing_held()),
        ToRevoke::Unknown => return Err(ClaimRefusal::ClaimStateUnknown.into()),
    };
    let claimed_at = match slot {
        Some(slot) if is_admitted => {
            let keys = app.redis.keys(id, drop);
            let held = app.redis.held_slot(&keys, slot, &user).await;
            held.map_err(unknown)?.and_then(|held| held.claimed_at)
        }
        _ => None,
    };
    let shown_keys = app.redis.keys(id, shown);
    let known = app
        .redis
        .last_revocation(&shown_keys, drop, once_per, user.as_str());
    let new = NewRevocation {
        coupon: id,
        drop,
        slot,
        claimed_at,
        after: known.await.map_err(unknown)?,
        user,
        reason: order.reason,
        by: order.by,
        may_claim_again: order.may_claim_again,
        once_per,
        operator,
    };
    let revocation = write_revocation(db, &new).await?;
    crash_point(Point::RevocationWritten);
    finish(app, db, coupon, revocation).await
}

async fn write_revocation(db: &Db, new: &NewRevocation) -> Result<Revocation, Problem> {
    let mut attempt = 1;
    loop {
        match db.revoke(new.clone()).await {
            Err(DbError::Query { .. }) if attempt < ATTEMPTS => attempt += 1,
            written => return written.map_err(unknown)?.map_err(in_use),
        }
    }
}

/// A claim that can be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ClaimToRevoke {
    drop: DropId,
    /// `None` for a position in the waiting list or a broken promise.
    slot: Option<Slot>,
    /// The user has the slot, and no row is known yet.
    is_admitted: bool,
}

/// The subject of a request to revoke.
#[derive(Debug, PartialEq, Eq)]
enum ToRevoke {
    Claim(ClaimToRevoke),
    /// The claim was revoked before, perhaps not in all stores.
    Finish(Box<Revocation>),
    Nothing,
    /// MySQL has lost a drop, and the user may have a claim in it.
    Unknown,
}

/// Decides what to revoke. `named` is the drop that the request names; `revoked` are the user's
/// revocations, oldest first.
fn claim_to_revoke(
    claim: &MyClaim,
    named: Option<DropId>,
    revoked: Vec<Revocation>,
    lacks_a_drop: bool,
) -> ToRevoke {
    let drop = match claim.drop_id {
        // With `once_per` `coupon`, the user's claim may be in another drop than the named one.
        Some(drop) if named.is_none_or(|named| named == drop) => drop,
        None if named.is_none() && lacks_a_drop => return ToRevoke::Unknown,
        _ => return ToRevoke::Nothing,
    };
    let slot = match claim.status {
        ClaimStatus::Accepted | ClaimStatus::Issued => claim.slot,
        ClaimStatus::Waiting | ClaimStatus::Broken => None,
        ClaimStatus::Revoked | ClaimStatus::None => {
            let mut latest = revoked.into_iter().rev();
            let earlier = latest.find(|one| one.drop_id == drop.0);
            return earlier.map_or(ToRevoke::Nothing, |one| ToRevoke::Finish(Box::new(one)));
        }
    };
    ToRevoke::Claim(ClaimToRevoke {
        drop,
        slot,
        is_admitted: claim.status == ClaimStatus::Accepted,
    })
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
            crash_point(Point::RevocationEnded);
            app.redis.revoke(&keys, once_per, &ended).await?;
        }
        Ok::<_, StoreError>(())
    };
    released.await.map_err(|error| {
        tracing::warn!(%error, coupon = %id, "a revocation is not in Redis yet; a pass finishes it");
        Problem::unavailable(
            "the claim will be revoked, but may still be shown; repeat the request to be certain",
        )
    })?;
    Ok(Revoked {
        status: "revoked",
        drop_id: drop,
        slot: revocation.slot,
    })
}

/// Finds a drop of the coupon, in MySQL if the catalogue lacks it: of the sealed drops, the
/// catalogue has only the last one.
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

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn revocation(id: i64, drop_id: i64) -> Revocation {
        Revocation {
            id,
            coupon_id: 1,
            drop_id,
            slot: Some(7),
            user_id: "u-1".to_owned(),
            reason: String::new(),
            revoked_by: String::new(),
            may_claim_again: false,
            revoked_at: DateTime::UNIX_EPOCH,
            again_from: None,
        }
    }

    #[test]
    fn claim_in_the_named_or_shown_drop_is_revoked_or_its_revocation_finished() {
        let claim = |slot, is_admitted| {
            ToRevoke::Claim(ClaimToRevoke {
                drop: DropId(2),
                slot,
                is_admitted,
            })
        };
        let finish = || ToRevoke::Finish(Box::new(revocation(12, 2)));
        let in_drop = Some(DropId(2));
        let other = Some(DropId(3));
        for (status, drop_id, named, expected) in [
            (ClaimStatus::Accepted, in_drop, None, claim(Some(7), true)),
            (
                ClaimStatus::Accepted,
                in_drop,
                in_drop,
                claim(Some(7), true),
            ),
            (ClaimStatus::Accepted, in_drop, other, ToRevoke::Nothing),
            (ClaimStatus::Issued, in_drop, None, claim(Some(7), false)),
            (ClaimStatus::Waiting, in_drop, None, claim(None, false)),
            (ClaimStatus::Broken, in_drop, None, claim(None, false)),
            (ClaimStatus::Revoked, in_drop, None, finish()),
            (ClaimStatus::Revoked, in_drop, other, ToRevoke::Nothing),
            (ClaimStatus::Revoked, other, other, ToRevoke::Nothing),
            (ClaimStatus::None, None, None, ToRevoke::Nothing),
            (ClaimStatus::None, None, in_drop, ToRevoke::Nothing),
        ] {
            let claim = MyClaim::new(status, drop_id, Some(7));
            let revoked = vec![revocation(11, 2), revocation(12, 2), revocation(13, 9)];
            let found = claim_to_revoke(&claim, named, revoked, false);
            assert_eq!(found, expected, "{status:?} {drop_id:?} {named:?}");
        }
    }

    #[test]
    fn claim_to_revoke_is_unknown_if_its_drop_is_lost_and_no_drop_is_named() {
        let claim = MyClaim::new(ClaimStatus::None, None, None);
        let lost = claim_to_revoke(&claim, None, Vec::new(), true);
        assert_eq!(lost, ToRevoke::Unknown);
        let named = claim_to_revoke(&claim, Some(DropId(2)), Vec::new(), true);
        assert_eq!(named, ToRevoke::Nothing);
    }
}
