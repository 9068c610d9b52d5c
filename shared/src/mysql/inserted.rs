//! Checks claims right after their rows were inserted, in the same transaction, and deletes rows
//! that must not stay. Nearly every batch needs only one statement.

use std::collections::HashMap;
use std::fmt::Write as _;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Datetime, Nullable};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};

use super::Conn;
use super::claim::Claim;
use super::dead_letters::list;
use super::erased::ERASED_LETTER;
use super::issued::IssuedBy;
use super::schema::drops;
use super::void::void_among;
use crate::coupon::{ClaimFault, DropWindow};
use crate::domain::{DropId, Slot};

/// Why a row was deleted right after its insertion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TakenOut {
    /// A revocation or an erasure voids the claim.
    Void,
    /// The claim of a message is impossible in its drop.
    Fault(ClaimFault),
}

/// The claims whose rows were deleted, by drop and slot.
pub type TakenOutRows = HashMap<(DropId, Slot), TakenOut>;

/// A drop of the claims. A row without a drop id means that a coupon has revocations or dead
/// letters of erased users.
#[derive(QueryableByName)]
struct Seen {
    #[diesel(sql_type = Nullable<BigInt>)]
    drop_id: Option<i64>,
    #[diesel(sql_type = Nullable<Datetime>)]
    opens_at: Option<NaiveDateTime>,
    #[diesel(sql_type = Nullable<Datetime>)]
    closes_at: Option<NaiveDateTime>,
    #[diesel(sql_type = Nullable<Datetime>)]
    sealed_at: Option<NaiveDateTime>,
    /// Whether the drop has closed or closes soon.
    #[diesel(sql_type = BigInt)]
    may_be_sealed: i64,
}

impl Seen {
    fn window(&self) -> Option<(DropId, DropWindow)> {
        let closes_at = self.closes_at.map(|at| at.and_utc());
        let window = DropWindow {
            opens_at: self.opens_at?.and_utc(),
            closes_at,
            is_sealed: self.sealed_at.is_some(),
        };
        Some((DropId(self.drop_id?), window))
    }
}

/// Batches lock a drop from this many seconds before it closes, by MySQL's clock.
const LOCKED_BEFORE: u32 = 60;

/// Deletes the rows of void claims, and of claims that no pass has judged and that are impossible
/// in their drop.
pub(super) async fn take_out(
    conn: &mut Conn,
    claims: &[Claim],
    by: IssuedBy,
) -> QueryResult<TakenOutRows> {
    let mut seen = look(conn, claims, by).await?;
    seal_is_final(conn, &mut seen).await?;
    let mut taken = TakenOutRows::default();
    if seen.iter().any(|one| one.drop_id.is_none()) {
        let void = void_among(conn, &claims.iter().collect::<Vec<_>>()).await?;
        let void = void
            .into_iter()
            .map(|claim| ((claim.drop_id, claim.slot), TakenOut::Void));
        taken.extend(void);
    }
    let windows: HashMap<DropId, DropWindow> = seen.iter().filter_map(Seen::window).collect();
    for claim in claims {
        let fault = windows
            .get(&claim.drop_id)
            .and_then(|window| window.fault(claim.claimed_at));
        if let Some(fault) = fault {
            taken
                .entry((claim.drop_id, claim.slot))
                .or_insert(TakenOut::Fault(fault));
        }
    }
    delete(conn, &taken).await?;
    Ok(taken)
}

/// Reads the drops and relevant revocations. This usually locks nothing, because coupons rarely
/// have revocations. It runs after the insert and uses a locking read. A revocation also inserts
/// its own row before it reads a claim's row, so one of the two transactions waits for the other
/// and sees its row.
async fn look(conn: &mut Conn, claims: &[Claim], by: IssuedBy) -> QueryResult<Vec<Seen>> {
    let distinct = |ids: &mut dyn Iterator<Item = i64>| {
        let mut ids: Vec<i64> = ids.collect();
        ids.sort_unstable();
        ids.dedup();
        list(ids.into_iter())
    };
    let coupons = distinct(&mut claims.iter().map(|claim| claim.coupon_id.0));
    let mut sql = format!(
        "(SELECT NULL AS drop_id, NULL AS opens_at, NULL AS closes_at, NULL AS sealed_at, 0 AS may_be_sealed \
         FROM revoked_coupons WHERE coupon_id IN ({coupons}) LIMIT 1 FOR SHARE) \
         UNION ALL (SELECT NULL, NULL, NULL, NULL, 0 FROM failed_claims \
         WHERE coupon_id IN ({coupons}) AND {ERASED_LETTER} LIMIT 1)"
    );
    if by != IssuedBy::Reconciler {
        let drops = distinct(&mut claims.iter().map(|claim| claim.drop_id.0));
        // Writing to a `String` does not fail.
        let _ = write!(
            sql,
            " UNION ALL (SELECT id, opens_at, closes_at, sealed_at, \
             COALESCE(closes_at <= UTC_TIMESTAMP(3) + INTERVAL {LOCKED_BEFORE} SECOND, 0) FROM drops WHERE id IN ({drops}))"
        );
    }
    diesel::sql_query(sql).load(conn).await
}

/// Locks closed drops, because a pass that cannot see these rows yet may be sealing one. Either the
/// pass has already sealed the drop, or it waits for this transaction and counts its rows. Because
/// clocks differ and this transaction may end after the drop closes, drops are locked from
/// [`LOCKED_BEFORE`] on. Other drops stay unlocked, so that an operator's change is not delayed.
async fn seal_is_final(conn: &mut Conn, seen: &mut [Seen]) -> QueryResult<()> {
    let unsure = |one: &Seen| one.may_be_sealed != 0 && one.sealed_at.is_none();
    let ids: Vec<i64> = seen
        .iter()
        .filter(|one| unsure(one))
        .filter_map(|one| one.drop_id)
        .collect();
    if ids.is_empty() {
        return Ok(());
    }
    let closed = drops::table.filter(drops::id.eq_any(ids)).order(drops::id);
    let closed: Vec<(i64, Option<NaiveDateTime>)> = closed
        .select((drops::id, drops::sealed_at))
        .for_share()
        .load(conn)
        .await?;
    for one in seen.iter_mut() {
        let now = closed.iter().find(|(id, _)| Some(*id) == one.drop_id);
        one.sealed_at = now.map_or(one.sealed_at, |(_, sealed_at)| *sealed_at);
    }
    Ok(())
}

async fn delete(conn: &mut Conn, rows: &TakenOutRows) -> QueryResult<()> {
    if rows.is_empty() {
        return Ok(());
    }
    let keys: Vec<String> = rows
        .keys()
        .map(|(drop, slot)| format!("({drop},{slot})"))
        .collect();
    conn.batch_execute(&format!(
        "DELETE FROM issued_coupons WHERE (drop_id, slot) IN ({})",
        keys.join(",")
    ))
    .await
}
