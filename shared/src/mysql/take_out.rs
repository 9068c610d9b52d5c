//! Checks claims right after their rows were inserted, in the same transaction, and deletes rows
//! that must not stay. Nearly every batch needs only one statement.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::RunQueryDsl;

use super::void::void_among;
use super::{Conn, Prepared, json};
use crate::claim::{Claim, IssuedBy};
use crate::columns::Datetime;
use crate::coupon::{ClaimFault, DropWindow};
use crate::domain::{DropId, Slot};
use crate::schema::issued_coupons;

/// Why a row was deleted right after its insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenOut {
    /// A revocation voids the claim.
    Void,
    /// The claim is not possible in its drop.
    Fault(ClaimFault),
}

/// The claims whose rows were deleted, by drop and slot.
pub type TakenOutRows = HashMap<(DropId, Slot), TakenOut>;

/// Deletes the rows of void claims and, unless a reconciler inserted them, of claims that are
/// impossible in their drop.
pub(super) async fn take_out(
    conn: &mut Conn,
    claims: &[Claim],
    by: IssuedBy,
) -> QueryResult<TakenOutRows> {
    let (windows, has_revocations) = read_windows(conn, claims, by).await?;
    let mut taken = TakenOutRows::default();
    if has_revocations {
        let void = void_among(conn, &claims.iter().collect::<Vec<_>>())
            .await?
            .into_iter();
        taken.extend(void.map(|claim| ((claim.drop_id, claim.slot), TakenOut::Void)));
    }
    for claim in claims {
        let window = windows.get(&claim.drop_id);
        if let Some(fault) = window.and_then(|window| window.fault(claim.claimed_at)) {
            let place = (claim.drop_id, claim.slot);
            taken.entry(place).or_insert(TakenOut::Fault(fault));
        }
    }
    for (drop, slot) in taken.keys() {
        diesel::delete(issued_coupons::table.find((drop, slot)))
            .execute(conn)
            .await?;
    }
    Ok(taken)
}

/// The windows of the drops.
type Windows = HashMap<DropId, DropWindow>;

/// A drop, or, without an id, a revocation.
#[derive(QueryableByName)]
struct SeenWindow {
    #[diesel(sql_type = Nullable<BigInt>)]
    drop_id: Option<DropId>,
    #[diesel(sql_type = Nullable<Datetime>)]
    opens_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Datetime>)]
    closes_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Bool)]
    is_sealed: bool,
}

/// Reads whether the coupons have revocations and, unless a reconciler inserts the rows, the drops.
/// This usually locks nothing, because coupons rarely have revocations. It runs after the insert
/// and uses a locking read. A revocation also inserts its own row before it reads a claim's row, so
/// one of the two transactions waits for the other and sees its row.
async fn read_windows(
    conn: &mut Conn,
    claims: &[Claim],
    by: IssuedBy,
) -> QueryResult<(Windows, bool)> {
    let coupons: BTreeSet<i64> = claims.iter().map(|claim| claim.coupon_id.0).collect();
    let drops: BTreeSet<i64> = match by {
        IssuedBy::Reconciler => BTreeSet::new(),
        IssuedBy::Consumer | IssuedBy::Api => claims.iter().map(|claim| claim.drop_id.0).collect(),
    };
    let seen: Vec<SeenWindow> = Prepared(
        sql_query(
            "(SELECT NULL AS drop_id, NULL AS opens_at, NULL AS closes_at, 0 AS is_sealed \
                 FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j \
                 STRAIGHT_JOIN revoked_coupons r ON r.coupon_id = j.id LIMIT 1 FOR SHARE OF r) \
             UNION ALL (SELECT d.id, d.opens_at, d.closes_at, d.sealed_at IS NOT NULL \
                 FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j \
                 STRAIGHT_JOIN drops d ON d.id = j.id)",
        )
        .bind::<Text, _>(json(&coupons))
        .bind::<Text, _>(json(&drops)),
    )
    .load(conn)
    .await?;
    let has_revocations = seen.iter().any(|found| found.drop_id.is_none());
    Ok((
        seen.into_iter()
            .filter_map(|found| {
                let window = DropWindow {
                    opens_at: found.opens_at?,
                    closes_at: found.closes_at,
                    is_sealed: found.is_sealed,
                };
                Some((found.drop_id?, window))
            })
            .collect(),
        has_revocations,
    ))
}
