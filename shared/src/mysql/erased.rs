//! Identifies claims of erased users that have no row. A message that is read again after an
//! erasure still contains the user id; its drop, slot and time show that it belongs to an erased
//! claim. The consumer's `classify` handles claims that have a row.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Nullable};
use diesel_async::RunQueryDsl;

use super::Conn;
use super::claim::Claim;
use super::dead_letters::list;
use super::erase::GONE;
use crate::domain::{CouponId, DropId, Slot};

/// Prefix of every pseudonym.
const PSEUDONYMS: &str = "erased-";

/// SQL that selects dead letters of erased users, because an erasure removes the payload of
/// resolved ones. If a user's real id only starts like a pseudonym, the dead letter still has its
/// payload or is open.
pub(super) const ERASED_LETTER: &str =
    "user_id LIKE 'erased-%' AND resolved_at IS NOT NULL AND payload IS NULL";

/// Whether the text is the pseudonym of an erased user.
pub fn is_pseudonym(user: &str) -> bool {
    let digits = user.strip_prefix(PSEUDONYMS).unwrap_or_default();
    digits.len() == 20
        && digits
            .bytes()
            .all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Rounds the time to the precision of its column.
pub fn as_stored(at: DateTime<Utc>) -> NaiveDateTime {
    at.naive_utc().round_subsecs(3)
}

/// An erased claim on a known drop and slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, QueryableByName)]
struct ErasedClaim {
    #[diesel(sql_type = BigInt)]
    drop_id: i64,
    #[diesel(sql_type = BigInt)]
    slot: i64,
    #[diesel(sql_type = Nullable<Datetime>)]
    claimed_at: Option<NaiveDateTime>,
    /// When the claim was revoked, if that was before it had a row; later claims do not match.
    #[diesel(sql_type = Nullable<Datetime>)]
    revoked_at: Option<NaiveDateTime>,
}

/// Claims of erased users on some slots, from their revocations and their dead letters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErasedClaims(HashMap<(DropId, i64), Vec<ErasedClaim>>);

impl ErasedClaims {
    /// Whether a claim on this slot was admitted at this time.
    pub fn contain(&self, drop: DropId, slot: Slot, claimed_at: DateTime<Utc>) -> bool {
        let at = as_stored(claimed_at);
        let is_it = |one: &ErasedClaim| match one.claimed_at {
            Some(known) => known == at,
            None => one.revoked_at.is_some_and(|revoked| at <= revoked),
        };
        self.0
            .get(&(drop, i64::from(slot)))
            .is_some_and(|on_slot| on_slot.iter().any(is_it))
    }

    /// Reads the claims on a range of slots of drops, each given with its coupon.
    pub(super) async fn read(
        conn: &mut Conn,
        drops: &[(CouponId, DropId)],
        slots: RangeInclusive<Slot>,
    ) -> QueryResult<Self> {
        let coupons = list(drops.iter().map(|(coupon, _)| coupon.0));
        let drops = list(drops.iter().map(|(_, drop)| drop.0));
        let (low, high) = slots.into_inner();
        let which = format!(
            "coupon_id IN ({coupons}) AND drop_id IN ({drops}) AND slot BETWEEN {low} AND {high}"
        );
        let found: Vec<ErasedClaim> = diesel::sql_query(format!(
            "SELECT drop_id, CAST(slot AS SIGNED) AS slot, claimed_at, revoked_at FROM revoked_coupons \
             WHERE {which} AND user_id LIKE '{PSEUDONYMS}%' AND revoked_by = '{GONE}' \
             UNION ALL SELECT drop_id, slot, claimed_at, NULL FROM failed_claims \
             WHERE {which} AND {ERASED_LETTER} AND claimed_at IS NOT NULL"
        ))
        .load(conn)
        .await?;
        let mut claims = Self::default();
        for one in found {
            claims
                .0
                .entry((DropId(one.drop_id), one.slot))
                .or_default()
                .push(one);
        }
        Ok(claims)
    }

    /// Selects the claims that belong to erased users.
    pub(super) async fn among<'c>(
        conn: &mut Conn,
        claims: &[&'c Claim],
    ) -> QueryResult<Vec<&'c Claim>> {
        let slots = claims.iter().map(|claim| claim.slot);
        let (Some(low), Some(high)) = (slots.clone().min(), slots.max()) else {
            return Ok(Vec::new());
        };
        let mut drops: Vec<_> = claims
            .iter()
            .map(|claim| (claim.coupon_id, claim.drop_id))
            .collect();
        drops.sort_unstable();
        drops.dedup();
        let erased = Self::read(conn, &drops, low..=high).await?;
        let is_one = |claim: &&Claim| {
            claim
                .claimed_at
                .is_some_and(|at| erased.contain(claim.drop_id, claim.slot, at))
        };
        Ok(claims.iter().copied().filter(is_one).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn user_id_that_only_starts_like_a_pseudonym_is_not_one() {
        assert!(is_pseudonym("erased-0123456789abcdef0123"));
        for person in [
            "erased-joe",
            "erased-",
            "erased-0123456789ABCDEF0123",
            "erased-0123456789abcdef01234",
            "joe",
        ] {
            assert!(!is_pseudonym(person), "{person}");
        }
    }
}
