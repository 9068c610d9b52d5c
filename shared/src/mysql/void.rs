//! Claims that must never become rows, because a revocation voids them
//! (docs/decisions/0013-revoking.md).

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::QueryResult;

use super::erased::{NAMES_SOMEBODY, as_stored};
use super::sql::row;
use super::{Conn, Sql, list, of_users};
use crate::claim::Claim;
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::sql;

/// Returns the void claims among these. Locks the revocations it reads until the transaction ends.
pub async fn void_among<'c>(conn: &mut Conn, claims: &[&'c Claim]) -> QueryResult<Vec<&'c Claim>> {
    let mut void = Vec::new();
    let coupons: BTreeSet<CouponId> = claims.iter().map(|claim| claim.coupon_id).collect();
    for coupon in coupons {
        let own = claims.iter().filter(|claim| claim.coupon_id == coupon);
        let users: BTreeSet<&UserId> = own.clone().map(|claim| &claim.user_id).collect();
        let revoked: Vec<(String, i64, Option<DateTime<Utc>>)> =
            locked_of_people(coupon, &users).all(conn).await?;
        let is_void = |claim: &Claim| {
            revoked.iter().any(|(user, scope, until)| {
                user == claim.user_id.as_str()
                    && (*scope == 0 || *scope == claim.drop_id.0)
                    && until.is_none_or(|until| claim.claimed_at.is_some_and(|at| at <= until))
            })
        };
        void.extend(own.filter(|claim| is_void(claim)));
    }
    let mut of_drops: BTreeMap<(CouponId, DropId), Vec<&'c Claim>> = BTreeMap::new();
    for claim in claims {
        let of_drop = of_drops.entry((claim.coupon_id, claim.drop_id));
        of_drop.or_default().push(claim);
    }
    for (drop, own) in of_drops {
        let slots = own.iter().map(|claim| claim.slot);
        let erased: Vec<ErasedRevocation> = erased_on_slots(drop, slots).all(conn).await?;
        let own = own.into_iter();
        void.extend(own.filter(|claim| erased.iter().any(|one| one.is_of(claim))));
    }
    Ok(void)
}

row! {
    /// A revocation whose user is erased. A message that is read again still names the user.
    struct ErasedRevocation {
        slot: Slot,
        /// When the revoked claim was admitted, if it had a row.
        claimed_at: Option<DateTime<Utc>>,
        /// By Redis's clock, as the times of claims.
        again_from: Option<DateTime<Utc>>,
    }
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
        claim.slot == self.slot && is_its_time
    }
}

/// Selects the revocations of erased users on these slots. They are not locked: a user whose claim
/// is on its way is not erased.
fn erased_on_slots((coupon, drop): (CouponId, DropId), slots: impl Iterator<Item = Slot>) -> Sql {
    let erased = format!(
        "SELECT {{columns}} FROM revoked_coupons FORCE INDEX (revoked_coupons_drop) \
         WHERE drop_id = ? AND coupon_id = ? AND slot IN (?) AND NOT ({NAMES_SOMEBODY})"
    );
    sql!(erased, drop, coupon, list(slots))
}

/// Selects and locks the revocations of these users. One parameter for all of them: MySQL describes
/// each parameter of a statement in a packet, a thousand for a full batch.
fn locked_of_people(coupon: CouponId, users: &BTreeSet<&UserId>) -> Sql {
    let columns = "SELECT r.user_id, r.person_scope, r.again_from FROM ";
    let users = users.iter().map(|user| user.as_str());
    let own = " STRAIGHT_JOIN revoked_coupons r FORCE INDEX (revoked_coupons_one) \
               ON r.coupon_id = ? AND r.user_id = j.user_id FOR SHARE OF r";
    of_users(columns, users, sql!(own, coupon))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;

    #[test]
    fn claim_of_an_erased_user_is_known_by_its_slot_and_time() {
        let at = |ms| DateTime::UNIX_EPOCH + TimeDelta::milliseconds(ms);
        let with_row = ErasedRevocation {
            slot: 5,
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
