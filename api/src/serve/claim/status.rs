//! The status of a user's claim, from Redis and MySQL together.

use chrono::{DateTime, Utc};
use firstcome_shared::claim::Claim;
use firstcome_shared::coupon::{Coupon, Drop};
use firstcome_shared::domain::{CouponId, DropId, OncePer, Slot, UserId};
use firstcome_shared::model::Revocation;
use firstcome_shared::mysql::DbError;
use firstcome_shared::mysql::issued::IssuedRow;
use firstcome_shared::mysql::promises::UserRecord;
use firstcome_shared::redis::RedisError;
use firstcome_shared::redis::standing::ClaimStanding;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::outcome::ClaimRefusal;
use super::second_store::Call;
use crate::serve::catalogue::coupon_with_drops::CouponWithDrops;
use crate::serve::state::App;

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
    pub(super) status: ClaimStatus,
    /// The drop of the claim. Null if the user has none.
    pub(super) drop_id: Option<DropId>,
    #[schema(value_type = Option<u32>)]
    pub(super) slot: Option<Slot>,
    /// Redeems the coupon; null until it is issued.
    #[schema(example = "0GF8-K2RX-0015-J4B3-K69R")]
    code: Option<String>,
    /// When a shop used the code; null if none has, or if the use was undone.
    used_at: Option<DateTime<Utc>>,
    /// When the code expires; null if it never does, or is not issued yet.
    expires_at: Option<DateTime<Utc>>,
    /// Position in the waiting list; 1 is next.
    position: Option<u32>,
}

impl MyClaim {
    pub(super) fn new(status: ClaimStatus, drop_id: Option<DropId>, slot: Option<Slot>) -> Self {
        Self {
            status,
            drop_id,
            slot,
            code: None,
            used_at: None,
            expires_at: None,
            position: None,
        }
    }

    fn revoked(by: &Revocation) -> Self {
        Self::new(ClaimStatus::Revoked, Some(DropId(by.drop_id)), by.slot)
    }

    fn has_row(&self, row: &IssuedRow) -> bool {
        self.code.as_ref() == Some(&row.code)
    }
}

/// Returns the status of a user's claim: `accepted` only once a second store holds the claim.
pub(crate) async fn my_claim(
    app: &App,
    id: CouponId,
    user: UserId,
) -> Result<MyClaim, ClaimRefusal> {
    let coupon = app.catalogue.find(id).await?;
    let now = app.clock.now(id);
    // Taken before the gate is read. A gate that was open then closes later, so the reconciler
    // waits at least for the deadlines that count from here.
    let asked_at = Instant::now();
    let only = match coupon.coupon.once_per {
        OncePer::Coupon => None,
        OncePer::Drop => Some(
            current_drop(&coupon, now)
                .map(|drop| drop.id)
                .unwrap_or_default(),
        ),
    };
    let (record, (shown, standing)) = tokio::join!(
        app.mysql.reads.user_with_row(id, only, &user),
        standing_shown(app, &coupon, now, &user)
    );
    let revocation = standing.as_ref().ok().and_then(|it| it.revocation);
    let record = match (record, revocation) {
        // With a row, the revocations were not read.
        (Ok(found), Some(revocation)) if !has_revocation(&found, revocation) => {
            app.mysql.reads.user_record(id, &user).await
        }
        (record, _) => record,
    };
    let claim = settle(app, &coupon, shown, record, standing)?;
    // `accepted` acknowledges the claim, as the response to a claim does.
    if let (ClaimStatus::Accepted, Some(drop_id), Some(slot)) =
        (claim.status, claim.drop_id, claim.slot)
    {
        let keys = app.redis.keys(id, drop_id);
        let found = app.redis.held_slot(&keys, slot, &user).await;
        let admitted = found.ok().flatten().ok_or(ClaimRefusal::NotDurable)?;
        let held = Claim {
            coupon_id: id,
            drop_id,
            slot,
            user_id: user,
            claimed_at: admitted.claimed_at,
        };
        let call = Call {
            coupon: id,
            era: coupon.coupon.era,
            asked_at,
            now,
        };
        let stored = app.second_store.ensure(call, &[held]).await;
        stored[0].ok_or(ClaimRefusal::NotDurable)?;
    }
    Ok(claim)
}

/// Returns the status that follows from what the stores answered.
fn settle(
    app: &App,
    coupon: &CouponWithDrops,
    drop: Option<&Drop>,
    record: Result<UserRecord, DbError>,
    standing: Result<ClaimStanding, RedisError>,
) -> Result<MyClaim, ClaimRefusal> {
    tracing::debug!(mysql = ?record.as_ref().err(), redis = ?standing.as_ref().err(), "looked up");
    let record = record.ok();
    let standing = standing.ok();
    let id = drop.map(|drop| drop.id);
    let is_whole =
        app.catalogue.is_of_primary() && !coupon.lacks_a_drop(app.clock.now(coupon.coupon.id));
    let mut claim = judge(coupon.coupon.once_per, id, record.as_ref(), standing)
        .filter(|claim| is_certain(claim, record.as_ref(), drop, standing, is_whole))
        .ok_or(ClaimRefusal::ClaimStateUnknown)?;
    if let Some(record) = record
        && let Some(row) = record.rows.iter().find(|row| claim.has_row(row))
    {
        claim.expires_at = coupon.coupon.code_expires_at(row.claimed_at);
        claim.used_at = record.used_at.get(&row.drop_id).copied();
    }
    Ok(claim)
}

/// Whether the stores will not soon contradict this status. `drop` is the one that is shown, and
/// `is_whole` says that MySQL is no replica and has all drops of the coupon.
fn is_certain(
    claim: &MyClaim,
    record: Option<&UserRecord>,
    drop: Option<&Drop>,
    standing: Option<ClaimStanding>,
    is_whole: bool,
) -> bool {
    match claim.status {
        // A replica may lack the user's row, and MySQL the user's drop.
        ClaimStatus::None => is_whole,
        // A replica, or a MySQL that was restored, may still have the row of a claim that was
        // returned.
        ClaimStatus::Issued => {
            let is_shown =
                drop.is_some_and(|drop| drop.sealed_at.is_none() && Some(drop.id) == claim.drop_id);
            let is_gone = |it: ClaimStanding| it.trusted && !it.holds();
            // Redis knows a revocation that MySQL has forgotten.
            let has_gone_back = standing
                .and_then(|it| it.revocation)
                .is_some_and(|id| record.is_none_or(|record| !has_revocation(record, id)));
            !(has_gone_back || is_shown && standing.is_some_and(is_gone))
        }
        // Until Redis has the revocation, a claim is answered `already_claimed`.
        ClaimStatus::Revoked => standing.is_some_and(|it| !it.holds()),
        ClaimStatus::Accepted | ClaimStatus::Waiting | ClaimStatus::Broken => true,
    }
}

fn has_revocation(record: &UserRecord, id: i64) -> bool {
    record.revoked.iter().any(|one| one.id == id)
}

/// Returns the drop to show by Redis's clock, and the user's status in it according to Redis: the
/// current drop. If users may have one per coupon, an earlier one that is not sealed precedes it if
/// the user has a claim or a place there, or may have one.
pub(super) async fn standing_shown<'a>(
    app: &App,
    coupon: &'a CouponWithDrops,
    now: DateTime<Utc>,
    user: &UserId,
) -> (Option<&'a Drop>, Result<ClaimStanding, RedisError>) {
    let current = current_drop(coupon, now);
    let standing = standing_in(app, coupon, current, user).await;
    if coupon.coupon.once_per == OncePer::Drop || !has_nothing(&standing) {
        return (current, standing);
    }
    let read = current.map(|drop| drop.id);
    let others = coupon.all().rev().map(|one| one.drop);
    for drop in others
        .filter(|drop| Some(drop.id) != read && drop.sealed_at.is_none() && drop.opens_at <= now)
    {
        let standing = standing_in(app, coupon, Some(drop), user).await;
        if !has_nothing(&standing) {
            return (Some(drop), standing);
        }
    }
    (current, standing)
}

/// Whether it is certain that the user has no claim in a coupon and no place in a drop.
fn has_nothing(standing: &Result<ClaimStanding, RedisError>) -> bool {
    let is_nothing = |it: &ClaimStanding| it.trusted && !it.holds() && it.position.is_none();
    standing.as_ref().is_ok_and(is_nothing)
}

/// Reads the user's status in a drop from Redis. A sealed drop has none there.
pub(super) async fn standing_in(
    app: &App,
    coupon: &CouponWithDrops,
    drop: Option<&Drop>,
    user: &UserId,
) -> Result<ClaimStanding, RedisError> {
    let Some(drop) = drop.filter(|drop| drop.sealed_at.is_none()) else {
        return Ok(NOT_IN_REDIS);
    };
    let keys = app.redis.keys(coupon.coupon.id, drop.id);
    let Coupon { settings, era, .. } = &coupon.coupon;
    app.redis
        .standing(&keys, settings.once_per, *era, user)
        .await
}

/// The keys of sealed drops expire in Redis, so MySQL alone knows who holds a slot.
const NOT_IN_REDIS: ClaimStanding = ClaimStanding {
    loaded: true,
    trusted: true,
    slot: None,
    position: None,
    claimant: None,
    revocation: None,
};

/// Returns the current drop or, if none has opened, the first one, because an operator may have added
/// a claim to it manually.
fn current_drop(coupon: &CouponWithDrops, now: DateTime<Utc>) -> Option<&Drop> {
    let current = coupon.current(now).or_else(|| coupon.all().next());
    current.map(|one| one.drop)
}

/// Returns the status of the claim, or `None` if it is uncertain. A store that did not answer is
/// passed as `None`. Even if Redis answered, it may have lost data ([`ClaimStanding::trusted`]).
pub(super) fn judge(
    once_per: OncePer,
    drop: Option<DropId>,
    record: Option<&UserRecord>,
    standing: Option<ClaimStanding>,
) -> Option<MyClaim> {
    let counts = |id| once_per == OncePer::Coupon || Some(id) == drop;
    let knows_mysql = record.is_some();
    let nothing = UserRecord::default();
    let record = record.unwrap_or(&nothing);
    let revoked = record
        .revoked
        .iter()
        .rev()
        .find(|one| counts(DropId(one.drop_id)));

    // Check this first: an open revocation voids all claims, and the other tables and Redis may
    // not show that yet.
    if let Some(open) = revoked.filter(|one| one.again_from.is_none()) {
        return Some(MyClaim::revoked(open));
    }
    let claimant = standing
        .and_then(|standing| standing.claimant)
        .filter(|_| once_per == OncePer::Coupon);
    let slot = standing.and_then(|standing| standing.slot);
    let held = drop.zip(slot).or(claimant);
    let mut rows = record.rows.iter();
    if let Some(row) = rows.find(|row| counts(DropId(row.drop_id))) {
        let issued = (DropId(row.drop_id), row.slot);
        // The user returned a claim and claimed again, and one store has forgotten that. Only a pass
        // can determine which.
        if held.is_some_and(|held| held != issued) {
            return None;
        }
        return Some(MyClaim {
            code: Some(row.code.clone()),
            ..MyClaim::new(ClaimStatus::Issued, Some(issued.0), Some(issued.1))
        });
    }
    let standing = standing?;
    // The claimants name a slot of this drop but `users` does not. Only a pass can determine which
    // is right.
    if slot.is_none() && claimant.is_some_and(|(of, _)| Some(of) == drop) {
        return None;
    }
    // While the gate is closed, Redis may have lost promises, also of a user who returned a claim and
    // claimed again, or who was owed a slot.
    if !standing.trusted {
        return None;
    }
    if let Some((drop, slot)) = held {
        return Some(MyClaim::new(ClaimStatus::Accepted, Some(drop), Some(slot)));
    }
    // Check `broken` before `waiting`: a broken promise puts the user on the waiting list.
    let broken = record
        .broken
        .iter()
        .rev()
        .find(|broken| broken.mended_at.is_none() && counts(broken.drop_id))
        .map(|one| {
            let slot = one.slot.and_then(|slot| Slot::try_from(slot).ok());
            MyClaim::new(ClaimStatus::Broken, Some(one.drop_id), slot)
        });
    let waiting = || MyClaim::new(ClaimStatus::Waiting, drop, None);
    let owed = broken.or_else(|| standing.position.map(|_| waiting()));
    if let Some(owed) = owed {
        return Some(MyClaim {
            position: standing.position,
            ..owed
        });
    }
    match revoked {
        Some(revocation) => Some(MyClaim::revoked(revocation)),
        None => knows_mysql.then(|| MyClaim::new(ClaimStatus::None, None, None)),
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::mysql::promises::BrokenPromiseRow;

    use super::*;
    use crate::serve::catalogue::coupon_with_drops::tests::coupon;

    fn row(drop_id: i64) -> IssuedRow {
        let at = DateTime::UNIX_EPOCH;
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

    fn broken_in(drop: i64) -> BrokenPromiseRow {
        BrokenPromiseRow {
            drop_id: DropId(drop),
            slot: Some(9),
            ..BrokenPromiseRow::default()
        }
    }

    /// The record of a user with rows and broken promises in these drops.
    fn record(rows: &[i64], broken: &[i64]) -> UserRecord {
        UserRecord {
            rows: rows.iter().copied().map(row).collect(),
            broken: broken.iter().copied().map(broken_in).collect(),
            ..UserRecord::default()
        }
    }

    const PER_COUPON: OncePer = OncePer::Coupon;
    const PER_DROP: OncePer = OncePer::Drop;

    /// The record of a user whose claim in drop 2 was revoked and who may claim again.
    fn revoked_once() -> UserRecord {
        UserRecord {
            revoked: vec![Revocation {
                id: 1,
                coupon_id: 1,
                drop_id: 2,
                slot: None,
                user_id: "u-1".into(),
                reason: "returned".into(),
                revoked_by: "user".into(),
                may_claim_again: true,
                revoked_at: DateTime::UNIX_EPOCH,
                again_from: Some(DateTime::UNIX_EPOCH),
            }],
            ..UserRecord::default()
        }
    }

    #[test]
    fn status_that_the_other_store_may_soon_contradict_is_uncertain() {
        let coupon = coupon(&[(0, 10), (10, 20)]);
        let shown = coupon.drop(DropId(2));
        let holds = ClaimStanding {
            slot: Some(7),
            ..NOT_IN_REDIS
        };
        let doubtful = ClaimStanding {
            trusted: false,
            ..NOT_IN_REDIS
        };
        let nothing = NOT_IN_REDIS;
        let revoked_before = |id| ClaimStanding {
            revocation: Some(id),
            ..doubtful
        };
        let record = revoked_once();
        for (status, standing, if_whole, if_not) in [
            (ClaimStatus::None, Some(nothing), true, false),
            (ClaimStatus::Issued, Some(nothing), false, false),
            (ClaimStatus::Issued, Some(doubtful), true, true),
            (ClaimStatus::Issued, Some(holds), true, true),
            // MySQL knows revocation 1 only.
            (ClaimStatus::Issued, Some(revoked_before(1)), true, true),
            (ClaimStatus::Issued, Some(revoked_before(2)), false, false),
            (ClaimStatus::Issued, None, true, true),
            (ClaimStatus::Revoked, Some(nothing), true, true),
            (ClaimStatus::Revoked, Some(holds), false, false),
            (ClaimStatus::Revoked, None, false, false),
            (ClaimStatus::Accepted, Some(holds), true, true),
        ] {
            let claim = MyClaim::new(status, Some(DropId(2)), Some(7));
            let is = [true, false].map(|it| is_certain(&claim, Some(&record), shown, standing, it));
            assert_eq!(is, [if_whole, if_not], "{status:?} {standing:?}");
        }
        // Nor may the row of an earlier drop be shown that MySQL has back.
        let earlier = MyClaim::new(ClaimStatus::Issued, Some(DropId(1)), Some(7));
        for (id, expected) in [(1, true), (2, false)] {
            let standing = Some(revoked_before(id));
            let is = is_certain(&earlier, Some(&record), shown, standing, true);
            assert_eq!(is, expected, "{id}");
        }
    }

    #[test]
    fn status_follows_from_the_records_of_both_stores() {
        let none = Some(NOT_IN_REDIS);
        let holds = Some(ClaimStanding {
            slot: Some(3),
            ..NOT_IN_REDIS
        });
        let holds_its_row = Some(ClaimStanding {
            slot: Some(7),
            ..NOT_IN_REDIS
        });
        let waits = Some(ClaimStanding {
            position: Some(4),
            ..NOT_IN_REDIS
        });
        let elsewhere = Some(ClaimStanding {
            claimant: Some((DropId(1), 5)),
            ..NOT_IN_REDIS
        });
        let doubtful = Some(ClaimStanding {
            trusted: false,
            ..NOT_IN_REDIS
        });
        let perhaps = Some(ClaimStanding {
            slot: Some(3),
            trusted: false,
            ..NOT_IN_REDIS
        });
        let claimed_again = || UserRecord {
            rows: vec![row(2)],
            ..revoked_once()
        };
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
            // A row and a slot that contradict each other leave both uncertain.
            (PER_DROP, Some(record(&[2], &[])), holds_its_row, "Issued 2"),
            (PER_DROP, Some(record(&[2], &[])), holds, "unknown"),
            (PER_DROP, Some(record(&[1], &[])), holds, "Accepted 2"),
            (PER_COUPON, Some(record(&[1], &[])), holds, "unknown"),
            (PER_COUPON, Some(record(&[2], &[])), elsewhere, "unknown"),
            (PER_DROP, Some(record(&[2], &[])), elsewhere, "Issued 2"),
            (PER_DROP, Some(record(&[], &[1])), none, "None 0"),
            // Without a slot, Redis must be trusted, and `none` needs MySQL, too.
            (PER_COUPON, Some(record(&[], &[])), none, "None 0"),
            (PER_COUPON, None, none, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), None, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), doubtful, "unknown"),
            (PER_COUPON, Some(record(&[], &[])), perhaps, "unknown"),
            (PER_COUPON, Some(record(&[2], &[])), perhaps, "unknown"),
            (PER_COUPON, Some(record(&[2], &[])), doubtful, "Issued 2"),
            // A user who returned a claim may have claimed again.
            (PER_DROP, Some(revoked_once()), none, "Revoked 2"),
            (PER_DROP, Some(revoked_once()), holds, "Accepted 2"),
            (PER_DROP, Some(claimed_again()), none, "Issued 2"),
            (PER_DROP, Some(revoked_once()), doubtful, "unknown"),
            (PER_DROP, Some(record(&[], &[2])), doubtful, "unknown"),
        ] {
            let case = format!("{once_per:?} {record:?} {standing:?}");
            let claim = judge(once_per, Some(DropId(2)), record.as_ref(), standing);
            let said = claim.map_or("unknown".into(), |claim| {
                format!("{:?} {}", claim.status, claim.drop_id.map_or(0, |id| id.0))
            });
            assert_eq!(said, expected, "{case}");
        }
    }
}
