//! Claims that must never become rows, because a revocation voids them
//! (docs/decisions/0013-revoking.md).

use std::collections::BTreeSet;

use chrono::NaiveDateTime;
use diesel::QueryResult;

use super::claim::Claim;
use super::{Conn, list};
use crate::domain::CouponId;
use crate::sql;

/// Returns the void claims among these. Locks the revocations it reads until the transaction ends.
pub async fn void_among<'c>(conn: &mut Conn, claims: &[&'c Claim]) -> QueryResult<Vec<&'c Claim>> {
    let mut void = Vec::new();
    let coupons: BTreeSet<CouponId> = claims.iter().map(|claim| claim.coupon_id).collect();
    for coupon in coupons {
        let own = claims.iter().filter(|claim| claim.coupon_id == coupon);
        let users = own.clone().map(|claim| &claim.user_id);
        let query = "SELECT user_id, person_scope, again_from FROM revoked_coupons \
                     WHERE coupon_id = ? AND user_id IN (?) FOR SHARE";
        let revoked: Vec<(String, i64, Option<NaiveDateTime>)> =
            sql!(query, coupon, list(users)).all(conn).await?;
        let is_void = |claim: &Claim| {
            let admitted = claim.claimed_at.map(|at| at.naive_utc());
            revoked.iter().any(|(user, scope, until)| {
                user == claim.user_id.as_str()
                    && (*scope == 0 || *scope == claim.drop_id.0)
                    && until.is_none_or(|until| admitted.is_some_and(|at| at <= until))
            })
        };
        void.extend(own.filter(|claim| is_void(claim)));
    }
    Ok(void)
}
