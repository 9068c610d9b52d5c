//! Claims that must never become rows, because a revocation voids them
//! (docs/decisions/0013-revoking.md).

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::QueryResult;

use super::{Conn, Sql, of_users};
use crate::claim::Claim;
use crate::domain::{CouponId, UserId};
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
    Ok(void)
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
