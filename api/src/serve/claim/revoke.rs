//! Giving back and revoking, in the order of docs/decisions/0013-revoking.md: MySQL, then Redis,
//! and both again if the user may claim again. All steps are idempotent. After a crash, a pass
//! completes them.

use std::sync::Arc;

use chrono::Utc;
use firstcome_shared::StoreError;
use firstcome_shared::coupon::Drop;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::ops_actions::Operator;
use firstcome_shared::mysql::promises::PersonRecord;
use firstcome_shared::mysql::revoked::{NewRevocation, Revocation};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::standing::Standing;
use serde::Serialize;
use utoipa::ToSchema;

use super::admit::ClaimService;
use super::outcome::ClaimRefusal;
use super::status::drop_to_show;
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, instant};

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
    slot: Option<Slot>,
}

/// A request to revoke.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) drop: Option<DropId>,
    pub(crate) reason: String,
    pub(crate) by: String,
    pub(crate) may_claim_again: bool,
    /// `None` if the user gives the coupon back.
    pub(crate) operator: Option<Operator>,
}

impl ClaimService {
    /// Revokes a user's claim in a coupon: in the given drop, or else in the one that `GET …/me`
    /// shows.
    pub(crate) async fn revoke(
        self: &Arc<Self>,
        id: CouponId,
        user: UserId,
        order: Order,
    ) -> Result<Revoked, ClaimRefusal> {
        let coupon = self.catalogue.find(id).await?;
        let claims = Arc::clone(self);
        let is_operator = order.operator.is_some();
        let db = if is_operator {
            &self.operators
        } else {
            &self.questions
        }
        .clone();
        let revoking = async move { claims.revoke_in(&db, &coupon, user, order).await };
        if is_operator {
            self.question_limit.run_unlimited(revoking).await?
        } else {
            self.question_limit.run(revoking).await?
        }
    }

    async fn revoke_in(
        &self,
        db: &Db,
        coupon: &CouponWithDrops,
        user: UserId,
        order: Order,
    ) -> Result<Revoked, ClaimRefusal> {
        let (coupon_id, once_per) = (coupon.coupon.id, coupon.coupon.once_per);
        let record = db.person(coupon_id, &user).await.map_err(unknown)?;
        let shown = self.drop_of(db, coupon, order.drop).await?;
        let keys = self.redis.keys(coupon_id, shown.id);
        let standing = self.redis.standing(&keys, coupon.coupon.era, &user);
        let standing = standing.await.map_err(unknown)?;
        let held = match held(once_per, &shown, &record, &standing) {
            Err(ClaimRefusal::NothingHeld)
                if order.drop.is_none() && coupon.lacks_a_drop(Utc::now()) =>
            {
                return Err(ClaimRefusal::StandingUnknown);
            }
            held => held?,
        };
        // With `once_per` `coupon`, the user's claim may be in another drop than the named one.
        if order.drop.is_some_and(|named| named != held.drop()) {
            return Err(ClaimRefusal::NothingHeld);
        }
        let (drop, slot) = match held {
            Held::Claim(drop, slot) => (drop, slot),
            Held::Revoked(earlier) => return self.finish(db, coupon, earlier.clone()).await,
        };
        let known = self
            .redis
            .last_revocation(&keys, drop, once_per, user.as_str());
        let new = NewRevocation {
            coupon: coupon_id,
            drop,
            slot,
            after: known.await.map_err(unknown)?,
            user,
            reason: order.reason,
            by: order.by,
            may_claim_again: order.may_claim_again,
            once_per,
            operator: order.operator,
        };
        let mut attempt = 1;
        let revocation = loop {
            match db.revoke(new.clone()).await {
                Err(DbError::Query { .. }) if attempt < ATTEMPTS => attempt += 1,
                written => break written.map_err(unknown)?,
            }
        };
        crash_point(Point::RevocationWritten);
        self.finish(db, coupon, revocation).await
    }

    /// Returns the named drop or, without one, the drop to show by Redis's clock, by which the next
    /// may already be open.
    async fn drop_of(
        &self,
        db: &Db,
        coupon: &CouponWithDrops,
        named: Option<DropId>,
    ) -> Result<Drop, ClaimRefusal> {
        let Some(id) = named else {
            let now_ms = self.redis.time_ms().await.map_err(unknown)?;
            let shown = drop_to_show(coupon, instant(now_ms));
            return Ok(shown.ok_or(ClaimRefusal::StandingUnknown)?.drop.clone());
        };
        if let Some(drop) = coupon.drop(id) {
            return Ok(drop.clone());
        }
        // The catalogue holds only the last of the sealed drops.
        let all = db.coupon(coupon.coupon.id).await.map_err(unknown)?;
        let mut drops = all.into_iter().flat_map(|(_, drops)| drops);
        if let Some(drop) = drops.find(|drop| drop.id == id) {
            return Ok(drop);
        }
        // MySQL may have lost it.
        let keys = self.redis.keys(coupon.coupon.id, id);
        let given_out = self.redis.given_out(&[&keys]).await.map_err(unknown)?;
        Err(if given_out.iter().any(Option::is_some) {
            ClaimRefusal::StandingUnknown
        } else {
            ClaimRefusal::NothingHeld
        })
    }

    /// Runs the steps that follow once MySQL has the revocation. All are idempotent.
    async fn finish(
        &self,
        db: &Db,
        coupon: &CouponWithDrops,
        revocation: Revocation,
    ) -> Result<Revoked, ClaimRefusal> {
        let (id, once_per) = (coupon.coupon.id, coupon.coupon.once_per);
        let drop = DropId(revocation.drop_id);
        let keys = self.redis.keys(id, drop);
        let released = async {
            let until = self.redis.revoke(&keys, once_per, &revocation).await?;
            crash_point(Point::RevocationReleased);
            if revocation.is_to_be_ended() {
                let ended = db.end_revocation(&revocation, until).await?;
                self.redis.revoke(&keys, once_per, &ended).await?;
            }
            Ok::<_, StoreError>(())
        };
        released.await.map_err(|error| {
            tracing::warn!(%error, coupon = %id, "a revocation is not in Redis yet; a pass finishes it");
            ClaimRefusal::HalfRevoked
        })?;
        if let Err(error) = self.redis.wake_if_anyone_waits(id, &[keys]).await {
            tracing::debug!(%error, "could not wake the reconciler; the next scheduled pass promotes waiting users");
        }
        Ok(Revoked {
            status: "revoked",
            drop_id: drop,
            slot: revocation.slot,
        })
    }
}

#[allow(clippy::needless_pass_by_value)] // `map_err` passes it by value
fn unknown(error: impl std::error::Error) -> ClaimRefusal {
    tracing::warn!(%error, "a claim could not be revoked");
    ClaimRefusal::StandingUnknown
}

/// The claim that can be revoked.
enum Held<'a> {
    Claim(DropId, Option<Slot>),
    /// The claim was revoked before.
    Revoked(&'a Revocation),
}

impl Held<'_> {
    fn drop(&self) -> DropId {
        match self {
            Self::Claim(drop, _) => *drop,
            Self::Revoked(earlier) => DropId(earlier.drop_id),
        }
    }
}

fn held<'a>(
    once_per: OncePer,
    shown: &Drop,
    record: &'a PersonRecord,
    standing: &Standing,
) -> Result<Held<'a>, ClaimRefusal> {
    let counts = |drop: i64| once_per == OncePer::Coupon || drop == shown.id.0;
    let earlier = record.revoked.iter().rev().find(|one| counts(one.drop_id));
    // An open revocation voids all claims of the user.
    if let Some(open) = earlier.filter(|one| one.again_from.is_none()) {
        return Ok(Held::Revoked(open));
    }
    if let Some(row) = record.rows.iter().find(|row| counts(row.drop_id)) {
        return Ok(Held::Claim(DropId(row.drop_id), Some(row.slot)));
    }
    let claimant = standing.claimant.filter(|_| once_per == OncePer::Coupon);
    if let Some((drop, slot)) = standing.slot.map(|slot| (shown.id, slot)).or(claimant) {
        return Ok(Held::Claim(drop, Some(slot)));
    }
    let broken = record.broken.iter().rev().find(|(drop, _)| counts(drop.0));
    if standing.position.is_some() || broken.is_some() {
        return Ok(Held::Claim(
            broken.map_or(shown.id, |(drop, _)| *drop),
            None,
        ));
    }
    match earlier {
        Some(earlier) => Ok(Held::Revoked(earlier)),
        // The keys of a sealed drop may have expired, which does not mean that data was lost.
        None if standing.trusted || shown.sealed_at.is_some() => Err(ClaimRefusal::NothingHeld),
        // Redis may have lost the claim.
        None => Err(ClaimRefusal::StandingUnknown),
    }
}
