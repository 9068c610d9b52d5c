//! The status of a user's claim, from Redis and MySQL together.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use firstcome_shared::coupon::{Allow, Coupon};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::mysql::promises::PersonRecord;
use firstcome_shared::mysql::revoked::Revocation;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::standing::Standing;
use firstcome_shared::trace;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::admit::ClaimService;
use super::outcome::ClaimRefusal;
use super::second_store::{Admitted, Call};
use crate::serve::auth::{Groups, Requester};
use crate::serve::catalogue::coupon_with_drops::{CouponWithDrops, DropWithKeys, instant};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClaimStatus {
    /// The user has a slot; the coupon will be issued.
    Accepted,
    /// The user has the coupon; `code` redeems it.
    Issued,
    /// The user is on the waiting list.
    Waiting,
    /// The coupon was promised, but the promise could not be kept.
    Broken,
    /// The claim was given back or revoked.
    Revoked,
    /// The user has no claim.
    None,
}

/// A user's claim: of the open or last opened drop, or, with `once_per` `coupon`, of any drop.
#[derive(Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct MyClaim {
    status: ClaimStatus,
    /// Null without a claim.
    drop_id: Option<DropId>,
    slot: Option<Slot>,
    /// Redeems the coupon; null until it is issued.
    #[schema(example = "12-215-J4B3-K69R-NG6Z-CMPF")]
    code: Option<String>,
    /// Position in the waiting list; 1 is next.
    position: Option<u32>,
    /// Whether the user may claim; null with a claim, for an unrestricted coupon, and while
    /// unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    allowed: Option<bool>,
}

impl MyClaim {
    const NONE: Self = Self {
        status: ClaimStatus::None,
        drop_id: None,
        slot: None,
        code: None,
        position: None,
        allowed: None,
    };

    fn of(status: ClaimStatus, drop: DropId, slot: Option<Slot>) -> Self {
        Self {
            status,
            drop_id: Some(drop),
            slot,
            ..Self::NONE
        }
    }

    fn revoked(revocation: &Revocation) -> Self {
        let drop = DropId(revocation.drop_id);
        Self::of(ClaimStatus::Revoked, drop, revocation.slot)
    }
}

impl ClaimService {
    /// Returns the status of a user's claim.
    pub(crate) async fn my_claim(
        self: &Arc<Self>,
        id: CouponId,
        requester: Requester,
    ) -> Result<MyClaim, ClaimRefusal> {
        let coupon = self.catalogue.find(id).await?;
        let claims = Arc::clone(self);
        self.question_limit
            .run(async move { claims.look_up(&coupon, requester).await })
            .await?
    }

    async fn look_up(
        &self,
        coupon: &CouponWithDrops,
        requester: Requester,
    ) -> Result<MyClaim, ClaimRefusal> {
        let Requester { user, groups } = requester;
        let in_redis = self.standing_shown(coupon, &user);
        let (record, (shown, standing)) =
            tokio::join!(self.questions.person(coupon.coupon.id, &user), in_redis);
        if let Err(error) = &record {
            tracing::debug!(%error, "a claim is looked up without MySQL");
        }
        if let Err(error) = &standing {
            tracing::debug!(%error, "a claim is looked up without Redis");
        }
        let drop = shown.map(|one| one.drop.id);
        let now_ms = standing.as_ref().map_or(0, |found| found.now_ms);
        let claim = judge(coupon.coupon.once_per, drop, record.ok(), standing.ok());
        let mut claim = claim.ok_or(ClaimRefusal::StandingUnknown)?;
        if claim.status == ClaimStatus::None {
            // A replica may lack the user's row.
            if !self.catalogue.is_of_primary() || coupon.lacks_a_drop(Utc::now()) {
                return Err(ClaimRefusal::StandingUnknown);
            }
            claim.allowed = self.may_claim(&coupon.coupon, &user, &groups).await;
        }
        if let (ClaimStatus::Accepted, Some(drop), Some(slot)) =
            (claim.status, claim.drop_id, claim.slot)
        {
            // The status `accepted` acknowledges the claim, as the response to a claim does.
            let call = Call {
                coupon: coupon.coupon.id,
                era: coupon.coupon.era,
                asked_at: Instant::now(),
                now_ms,
            };
            let admitted = Admitted::new(call, drop, slot, user, trace::current());
            let stored = self.second_store.ensure(coupon, vec![admitted]).await;
            stored
                .into_iter()
                .next()
                .flatten()
                .ok_or(ClaimRefusal::NotDurable)?;
        }
        Ok(claim)
    }

    /// Returns the drop to show by Redis's clock, and the user's status in it according to Redis.
    async fn standing_shown<'a>(
        &self,
        coupon: &'a CouponWithDrops,
        user: &UserId,
    ) -> (Option<DropWithKeys<'a>>, Result<Standing, RedisError>) {
        let is_sealed = |one: DropWithKeys<'_>| one.drop.sealed_at.is_some();
        let now = match self.redis.time_ms().await {
            Ok(now_ms) => instant(now_ms),
            Err(_) if coupon.all().all(is_sealed) => Utc::now(),
            Err(error) => return (drop_to_show(coupon, Utc::now()), Err(error)),
        };
        let shown = drop_to_show(coupon, now);
        let standing = match shown.filter(|one| !is_sealed(*one)) {
            Some(one) => self.redis.standing(one.keys, coupon.coupon.era, user).await,
            // The keys of sealed drops expire in Redis, so that their absence proves nothing.
            None => Ok(Standing {
                now_ms: now.timestamp_millis(),
                loaded: true,
                trusted: true,
                slot: None,
                position: None,
                claimant: None,
            }),
        };
        (shown, standing)
    }

    /// Whether the coupon's restriction admits the user. `None` if there is no restriction or the
    /// answer is unknown.
    async fn may_claim(&self, coupon: &Coupon, user: &UserId, groups: &Groups) -> Option<bool> {
        match coupon.allow.as_ref()? {
            Allow::Group(group) => groups.have(group),
            Allow::List => self
                .redis
                .is_allowed(coupon.id, user)
                .await
                .unwrap_or_else(|error| {
                    tracing::debug!(%error, "could not look up a user on an allow list");
                    None
                }),
        }
    }
}

/// Returns the drop to show: the current one or, if none has opened, the first one, because an
/// operator may have added a claim to it manually. If users may have one per coupon, prefers a drop
/// that is not sealed, because Redis then returns the user's claim in any drop.
pub(super) fn drop_to_show(
    coupon: &CouponWithDrops,
    now: DateTime<Utc>,
) -> Option<DropWithKeys<'_>> {
    let current = coupon.current(now).or_else(|| coupon.all().next());
    if coupon.coupon.once_per == OncePer::Drop
        || current.is_some_and(|one| one.drop.sealed_at.is_none())
    {
        return current;
    }
    let unsealed = |one: &DropWithKeys| one.drop.sealed_at.is_none() && one.drop.opens_at <= now;
    coupon.all().rev().find(unsealed).or(current)
}

/// Returns the status of the claim, or `None` if it is uncertain. A store that did not answer is
/// passed as `None`. A store that answered may not be trusted.
fn judge(
    once_per: OncePer,
    drop: Option<DropId>,
    record: Option<PersonRecord>,
    standing: Option<Standing>,
) -> Option<MyClaim> {
    let counts = |id: DropId| once_per == OncePer::Coupon || Some(id) == drop;
    let knows_mysql = record.is_some();
    let PersonRecord {
        rows,
        revoked,
        broken,
    } = record.unwrap_or_default();
    if let Some(row) = rows.into_iter().find(|row| counts(DropId(row.drop_id))) {
        return Some(MyClaim {
            code: Some(row.code),
            ..MyClaim::of(ClaimStatus::Issued, DropId(row.drop_id), Some(row.slot))
        });
    }
    let mut revoked = revoked.iter().rev();
    let revoked = revoked.find(|one| counts(DropId(one.drop_id)));
    // Check this before Redis, which may not have applied the revocation yet.
    if let Some(open) = revoked.filter(|one| one.again_from.is_none()) {
        return Some(MyClaim::revoked(open));
    }
    let standing = standing?;
    let claimant = standing.claimant.filter(|_| once_per == OncePer::Coupon);
    // The claimants name a slot of this drop but `users` does not. Only a pass can determine which
    // is right.
    let is_of_this = |(of, _): (DropId, Slot)| Some(of) == drop;
    if standing.slot.is_none() && claimant.is_some_and(is_of_this) {
        return None;
    }
    if let Some((drop, slot)) = drop.zip(standing.slot).or(claimant) {
        // While the gate is closed, Redis may have lost some of its promises.
        let accepted = MyClaim::of(ClaimStatus::Accepted, drop, Some(slot));
        return standing.trusted.then_some(accepted);
    }
    // Check `broken` before `waiting`: a broken promise puts the user on the waiting list.
    if let Some((drop, slot)) = broken.into_iter().rev().find(|(id, _)| counts(*id)) {
        let slot = slot.and_then(|slot| Slot::try_from(slot).ok());
        return Some(MyClaim {
            position: standing.position,
            ..MyClaim::of(ClaimStatus::Broken, drop, slot)
        });
    }
    if standing.position.is_some() {
        return Some(MyClaim {
            status: ClaimStatus::Waiting,
            drop_id: drop,
            position: standing.position,
            ..MyClaim::NONE
        });
    }
    match revoked {
        Some(revoked) => Some(MyClaim::revoked(revoked)),
        None => (knows_mysql && standing.trusted).then_some(MyClaim::NONE),
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::mysql::issued::IssuedRow;

    use super::*;

    const NOWHERE: Standing = Standing {
        now_ms: 0,
        loaded: true,
        trusted: true,
        slot: None,
        position: None,
        claimant: None,
    };

    fn row(drop_id: i64) -> IssuedRow {
        let at = DateTime::UNIX_EPOCH.naive_utc();
        IssuedRow {
            drop_id,
            slot: 7,
            coupon_id: 1,
            user_id: "u-1".into(),
            code: "CODE".into(),
            claimed_at: at,
            issued_at: at,
            issued_by: "consumer".into(),
        }
    }

    /// The record of a user with rows and broken promises in these drops.
    fn record(rows: &[i64], broken: &[i64]) -> PersonRecord {
        PersonRecord {
            rows: rows.iter().copied().map(row).collect(),
            broken: broken.iter().map(|id| (DropId(*id), Some(9))).collect(),
            revoked: Vec::new(),
        }
    }

    const PER_COUPON: OncePer = OncePer::Coupon;
    const PER_DROP: OncePer = OncePer::Drop;

    #[test]
    fn status_follows_from_the_records_of_both_stores() {
        let none = Some(NOWHERE);
        let holds = Some(Standing {
            slot: Some(3),
            ..NOWHERE
        });
        let waits = Some(Standing {
            position: Some(4),
            ..NOWHERE
        });
        let elsewhere = Some(Standing {
            claimant: Some((DropId(1), 5)),
            ..NOWHERE
        });
        let doubtful = Some(Standing {
            trusted: false,
            ..NOWHERE
        });
        let perhaps = Some(Standing {
            slot: Some(3),
            trusted: false,
            ..NOWHERE
        });
        for (once_per, record, standing, expected) in [
            // A row in the scope of `once_per` makes the status `issued`, even without Redis.
            (PER_COUPON, Some(record(&[1], &[])), none, "Issued 1"),
            (PER_DROP, Some(record(&[1], &[])), none, "None 0"),
            (PER_DROP, Some(record(&[1, 2], &[])), none, "Issued 2"),
            (PER_COUPON, Some(record(&[2], &[])), None, "Issued 2"),
            // `accepted` and `waiting` need no MySQL.
            (PER_DROP, None, holds, "Accepted 2"),
            (PER_DROP, None, waits, "Waiting 2"),
            (PER_COUPON, None, elsewhere, "Accepted 1"),
            (PER_DROP, Some(record(&[], &[])), elsewhere, "None 0"),
            // A slot or row takes precedence over a broken promise.
            (PER_DROP, Some(record(&[], &[2])), none, "Broken 2"),
            (PER_DROP, Some(record(&[], &[2])), holds, "Accepted 2"),
            (PER_DROP, Some(record(&[2], &[2])), none, "Issued 2"),
            (PER_DROP, Some(record(&[], &[1])), none, "None 0"),
            // `none` only if all stores answer and are trusted.
            (PER_COUPON, Some(record(&[], &[])), none, "None 0"),
            (PER_COUPON, None, none, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), None, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), doubtful, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), perhaps, "unknown"),
            (PER_COUPON, Some(record(&[2], &[])), perhaps, "Issued 2"),
        ] {
            let case = format!("{once_per:?} {record:?} {standing:?}");
            let claim = judge(once_per, Some(DropId(2)), record, standing);
            let said = claim.map_or("unknown".into(), |claim| {
                format!("{:?} {}", claim.status, claim.drop_id.map_or(0, |id| id.0))
            });
            assert_eq!(said, expected, "{case}");
        }
    }
}
