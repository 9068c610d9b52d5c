//! Checks claims right after their rows were inserted, in the same transaction, and deletes rows
//! that must not stay. Nearly every batch needs only one statement.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::RunQueryDsl;

use super::void::are_void;
use super::{Conn, Prepared, json};
use crate::claim::{Claim, IssuedBy};
use crate::columns::Datetime;
use crate::coupon::{ClaimFault, DropWindow};
use crate::domain::DropId;
use crate::schema::issued_coupons;

/// Whether the inserted row of a claim stays, and if not, why it was deleted right away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InsertOutcome {
    Issued,
    /// A revocation voids the claim.
    Void,
    /// The claim is not possible in its drop.
    Fault(ClaimFault),
}

/// Deletes the rows of void claims and, unless a reconciler inserted them, of claims that are
/// impossible in their drop.
pub(super) async fn take_out(
    conn: &mut Conn,
    claims: &[&Claim],
    by: IssuedBy,
) -> QueryResult<Vec<InsertOutcome>> {
    let (windows, has_revocations) = read_windows(conn, claims, by).await?;
    let void = if has_revocations {
        are_void(conn, claims).await?
    } else {
        vec![false; claims.len()]
    };
    let mut outcomes = Vec::with_capacity(claims.len());
    for (claim, is_void) in claims.iter().zip(void) {
        let window = windows.get(&claim.drop_id);
        let outcome = match window.and_then(|window| window.fault(claim.claimed_at)) {
            _ if is_void => InsertOutcome::Void,
            Some(fault) => InsertOutcome::Fault(fault),
            None => InsertOutcome::Issued,
        };
        if outcome != InsertOutcome::Issued {
            diesel::delete(issued_coupons::table.find((claim.drop_id, claim.slot)))
                .execute(conn)
                .await?;
        }
        outcomes.push(outcome);
    }
    Ok(outcomes)
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
    claims: &[&Claim],
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
