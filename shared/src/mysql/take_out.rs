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
use crate::schema::{drops, issued_coupons};

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

/// Batches lock a drop from this many seconds before it closes, by MySQL's clock.
const LOCKED_BEFORE: i64 = 60;

/// Deletes the rows of void claims and, unless a reconciler inserted them, of claims that are
/// impossible in their drop.
pub(super) async fn take_out(
    conn: &mut Conn,
    claims: &[Claim],
    by: IssuedBy,
) -> QueryResult<TakenOutRows> {
    let (mut windows, has_revocations) = read_windows(conn, claims, by).await?;
    seal_is_final(conn, &mut windows).await?;
    let mut taken = TakenOutRows::default();
    if has_revocations {
        let void = void_among(conn, &claims.iter().collect::<Vec<_>>())
            .await?
            .into_iter();
        taken.extend(void.map(|claim| ((claim.drop_id, claim.slot), TakenOut::Void)));
    }
    for claim in claims {
        let window = windows.get(&claim.drop_id);
        if let Some(fault) = window.and_then(|(window, _)| window.fault(claim.claimed_at)) {
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

/// The windows of the drops, each with whether the drop has closed or closes soon.
type Windows = HashMap<DropId, (DropWindow, bool)>;

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
    #[diesel(sql_type = Bool)]
    closes_soon: bool,
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
            "(SELECT NULL AS drop_id, NULL AS opens_at, NULL AS closes_at, 0 AS is_sealed, \
                 0 AS closes_soon FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j \
                 STRAIGHT_JOIN revoked_coupons r ON r.coupon_id = j.id LIMIT 1 FOR SHARE OF r) \
             UNION ALL (SELECT d.id, d.opens_at, d.closes_at, d.sealed_at IS NOT NULL, \
                 COALESCE(d.closes_at <= UTC_TIMESTAMP(3) + INTERVAL ? SECOND, 0) \
                 FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) j \
                 STRAIGHT_JOIN drops d ON d.id = j.id)",
        )
        .bind::<Text, _>(json(&coupons))
        .bind::<BigInt, _>(LOCKED_BEFORE)
        .bind::<Text, _>(json(&drops)),
    )
    .load(conn)
    .await?;
    let has_revocations = seen.iter().any(|found| found.drop_id.is_none());
    Ok((
        seen.into_iter()
            .filter_map(|found: SeenWindow| {
                let window = DropWindow {
                    opens_at: found.opens_at?,
                    closes_at: found.closes_at,
                    is_sealed: found.is_sealed,
                };
                Some((found.drop_id?, (window, found.closes_soon)))
            })
            .collect(),
        has_revocations,
    ))
}

/// Locks drops that have closed and are not sealed, because a pass that cannot see these rows yet
/// may be sealing one. Either the pass has already sealed the drop, or it waits for this
/// transaction and counts its rows. Because clocks differ and this transaction may end after the
/// drop closes, drops are locked from [`LOCKED_BEFORE`] on. Other drops stay unlocked, so that an
/// operator's change is not delayed.
async fn seal_is_final(conn: &mut Conn, windows: &mut Windows) -> QueryResult<()> {
    let unsure = |(window, closes_soon): &(DropWindow, bool)| *closes_soon && !window.is_sealed;
    let ids: BTreeSet<i64> = windows
        .iter()
        .filter(|(_, seen)| unsure(seen))
        .map(|(drop, _)| drop.0)
        .collect();
    if ids.is_empty() {
        return Ok(());
    }
    let locked: Vec<(DropId, bool)> = drops::table
        .filter(drops::id.eq_any(ids))
        .order(drops::id)
        .select((drops::id, drops::sealed_at.is_not_null()))
        .for_share()
        .load(conn)
        .await?;
    for (drop, is_sealed) in locked {
        if let Some((window, _)) = windows.get_mut(&drop) {
            window.is_sealed = is_sealed;
        }
    }
    Ok(())
}
