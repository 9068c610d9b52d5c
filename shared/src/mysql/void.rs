//! Claims that must never become rows: claims that a revocation voids
//! (docs/decisions/0013-revoking.md), and claims of erased users.

use std::collections::HashMap;
use std::fmt::Write as _;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Nullable, Text};
use diesel_async::RunQueryDsl;

use super::claim::Claim;
use super::erased::ErasedClaims;
use super::literal::push_text;
use super::{Conn, MOST_VALUES};

#[derive(QueryableByName)]
struct VoidFor {
    #[diesel(sql_type = BigInt)]
    coupon_id: i64,
    #[diesel(sql_type = Text)]
    user_id: String,
    #[diesel(sql_type = BigInt)]
    person_scope: i64,
    #[diesel(sql_type = Nullable<Datetime>)]
    again_from: Option<NaiveDateTime>,
}

impl VoidFor {
    fn voids(&self, claim: &Claim) -> bool {
        let admitted = claim.claimed_at.map(|at| at.naive_utc());
        (self.person_scope == 0 || self.person_scope == claim.drop_id.0)
            && self
                .again_from
                .is_none_or(|from| admitted.is_some_and(|at| at <= from))
    }
}

/// Returns the void claims among these. Locks the revocations it reads until the transaction ends.
pub async fn void_among<'c>(conn: &mut Conn, claims: &[&'c Claim]) -> QueryResult<Vec<&'c Claim>> {
    let mut void = ErasedClaims::among(conn, claims).await?;
    for claims in claims.chunks(MOST_VALUES) {
        let mut sql = String::from(
            "SELECT coupon_id, user_id, person_scope, again_from FROM revoked_coupons WHERE (coupon_id, user_id) IN (",
        );
        for (i, claim) in claims.iter().enumerate() {
            let _ = write!(sql, "{}({},", if i > 0 { "," } else { "" }, claim.coupon_id);
            push_text(&mut sql, claim.user_id.as_str());
            sql.push(')');
        }
        sql.push_str(") FOR SHARE");
        let found: Vec<VoidFor> = diesel::sql_query(sql).load(conn).await?;
        let mut of_person: HashMap<(i64, &str), Vec<&VoidFor>> = HashMap::new();
        for one in &found {
            of_person
                .entry((one.coupon_id, &one.user_id))
                .or_default()
                .push(one);
        }
        let is_void = |claim: &Claim| {
            let own = of_person.get(&(claim.coupon_id.0, claim.user_id.as_str()));
            own.is_some_and(|own| own.iter().any(|one| one.voids(claim)))
        };
        void.extend(claims.iter().filter(|claim| is_void(claim)));
    }
    Ok(void)
}
