//! Claims that must never become rows, because a revocation voids them
//! (docs/decisions/0013-revoking.md).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;

use super::erased::as_stored;
use super::{Conn, Prepared, ascii, json};
use crate::claim::Claim;
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::schema::revoked_coupons;

/// Returns which of these claims are void, in their order. Locks the revocations it reads until the
/// transaction ends.
pub async fn are_void(conn: &mut Conn, claims: &[&Claim]) -> QueryResult<Vec<bool>> {
    let mut void = vec![false; claims.len()];
    let mut users: BTreeMap<CouponId, BTreeSet<&UserId>> = BTreeMap::new();
    let mut slots: BTreeMap<(CouponId, DropId), Vec<Slot>> = BTreeMap::new();
    for claim in claims {
        let coupon = claim.coupon_id;
        users.entry(coupon).or_default().insert(&claim.user_id);
        let of_drop = slots.entry((coupon, claim.drop_id));
        of_drop.or_default().push(claim.slot);
    }
    for (coupon, users) in users {
        let revoked = lock_of_users(conn, coupon, &users).await?;
        for (void, claim) in void.iter_mut().zip(claims) {
            let is_of = |scope: &RevokedScope| scope.is_of(claim);
            *void |= claim.coupon_id == coupon && revoked.iter().any(is_of);
        }
    }
    for (drop, slots) in slots {
        let erased = erased_on_slots(conn, drop, &slots).await?;
        for (void, claim) in void.iter_mut().zip(claims) {
            let is_of = |revocation: &ErasedRevocation| revocation.is_of(claim);
            *void |= (claim.coupon_id, claim.drop_id) == drop && erased.iter().any(is_of);
        }
    }
    Ok(void)
}

/// The claims that a revocation voids.
#[derive(QueryableByName)]
#[diesel(table_name = revoked_coupons)]
struct RevokedScope {
    user_id: UserId,
    person_scope: i64,
    again_from: Option<DateTime<Utc>>,
}

impl RevokedScope {
    /// Whether the revocation, which is of the claim's coupon, voids the claim.
    fn is_of(&self, claim: &Claim) -> bool {
        self.user_id == claim.user_id
            && (self.person_scope == 0 || self.person_scope == claim.drop_id.0)
            && self
                .again_from
                .is_none_or(|until| claim.claimed_at.is_some_and(|at| at <= until))
    }
}

/// A revocation whose user is erased. A message that is read again still names the user.
#[derive(Debug, Clone, QueryableByName)]
#[diesel(table_name = revoked_coupons)]
struct ErasedRevocation {
    slot: Option<Slot>,
    /// When the revoked claim was admitted, if it had a row.
    claimed_at: Option<DateTime<Utc>>,
    /// By Redis's clock, as the times of claims.
    again_from: Option<DateTime<Utc>>,
}

impl ErasedRevocation {
    /// Whether the revocation voids the claim: the slot and the time show it, because the user id
    /// is gone. If the claim had no row, its time is unknown, but the next user on the slot was
    /// admitted after the ban had ended. Without an end, the claim counts as not revoked: a coupon
    /// that comes back harms less than a promise that is not kept.
    fn is_of(&self, claim: &Claim) -> bool {
        let Some(at) = claim.claimed_at.map(as_stored) else {
            return false;
        };
        let is_its_time = match self.claimed_at {
            Some(own) => at == own,
            None => self.again_from.is_some_and(|end| at < end),
        };
        self.slot == Some(claim.slot) && is_its_time
    }
}

/// Reads the revocations of erased users on these slots. They are not locked: a user whose claim is
/// on its way is not erased.
async fn erased_on_slots(
    conn: &mut Conn,
    (coupon, drop): (CouponId, DropId),
    slots: &[Slot],
) -> QueryResult<Vec<ErasedRevocation>> {
    Prepared(
        sql_query(
            "SELECT r.slot, r.claimed_at, r.again_from \
             FROM JSON_TABLE(?, '$[*]' COLUMNS (slot INT UNSIGNED PATH '$')) j \
             STRAIGHT_JOIN revoked_coupons r FORCE INDEX (revoked_coupons_drop) \
                 ON r.drop_id = ? AND r.coupon_id = ? AND r.slot = j.slot \
             WHERE r.user_id LIKE 'erased-%' AND r.user_id REGEXP '^erased-[0-9a-f]{20}$'",
        )
        .bind::<Text, _>(json(&slots))
        .bind::<BigInt, _>(drop)
        .bind::<BigInt, _>(coupon),
    )
    .load(conn)
    .await
}

/// Reads and locks the revocations of these users. One parameter for all of them: MySQL describes
/// each parameter of a statement in a packet, a thousand for a full batch.
async fn lock_of_users(
    conn: &mut Conn,
    coupon: CouponId,
    users: &BTreeSet<&UserId>,
) -> QueryResult<Vec<RevokedScope>> {
    Prepared(
        sql_query(
            "SELECT r.user_id, r.person_scope, r.again_from \
             FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id VARCHAR(128) CHARACTER SET ascii \
                 COLLATE ascii_bin PATH '$')) j \
             STRAIGHT_JOIN revoked_coupons r FORCE INDEX (revoked_coupons_one) \
                 ON r.coupon_id = ? AND r.user_id = j.user_id FOR SHARE OF r",
        )
        .bind::<Text, _>(ascii(users.iter().map(|user| user.as_str())))
        .bind::<BigInt, _>(coupon),
    )
    .load(conn)
    .await
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn claim_of_an_erased_user_is_known_by_its_slot_and_time() {
        let at = |ms| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms);
        let with_row = ErasedRevocation {
            slot: Some(5),
            claimed_at: Some(at(10)),
            again_from: None,
        };
        let without_row = ErasedRevocation {
            claimed_at: None,
            ..with_row.clone()
        };
        let ended = ErasedRevocation {
            again_from: Some(at(15)),
            ..without_row.clone()
        };
        for (slot, claimed_at, expected) in [
            (5, Some(at(10)), [true, false, true]),
            // The next user on the slot.
            (5, Some(at(15)), [false, false, false]),
            (6, Some(at(10)), [false, false, false]),
            (5, None, [false, false, false]),
        ] {
            let claim = Claim {
                coupon_id: CouponId(1),
                drop_id: DropId(2),
                slot,
                user_id: UserId::from_store("u-4".to_owned()),
                claimed_at,
            };
            let found = [&with_row, &without_row, &ended].map(|one| one.is_of(&claim));
            assert_eq!(found, expected, "{claim:?}");
        }
    }
}
