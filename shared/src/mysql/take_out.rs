//! Checks claims right after their rows were inserted, in the same transaction, and deletes rows
//! that must not stay. Nearly every batch needs only one statement.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::QueryResult;

use super::void::void_among;
use super::{Conn, list};
use crate::claim::{Claim, IssuedBy};
use crate::coupon::{ClaimFault, DropWindow};
use crate::domain::{DropId, Slot};
use crate::sql;

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
const LOCKED_BEFORE: u32 = 60;

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
        let delete = "DELETE FROM issued_coupons WHERE drop_id = ? AND slot = ?";
        sql!(delete, *drop, *slot).run(conn).await?;
    }
    Ok(taken)
}

/// The windows of the drops, each with whether the drop has closed or closes soon.
type Windows = HashMap<DropId, (DropWindow, bool)>;

/// Reads whether the coupons have revocations and, unless a reconciler inserts the rows, the drops.
/// This usually locks nothing, because coupons rarely have revocations. It runs after the insert
/// and uses a locking read. A revocation also inserts its own row before it reads a claim's row, so
/// one of the two transactions waits for the other and sees its row.
async fn read_windows(
    conn: &mut Conn,
    claims: &[Claim],
    by: IssuedBy,
) -> QueryResult<(Windows, bool)> {
    type Seen = (
        Option<DropId>,
        Option<DateTime<Utc>>,
        Option<DateTime<Utc>>,
        bool,
        bool,
    );
    let coupons: BTreeSet<i64> = claims.iter().map(|claim| claim.coupon_id.0).collect();
    let mut query = sql!(
        "(SELECT NULL AS drop_id, NULL AS opens_at, NULL AS closes_at, 0 AS is_sealed, 0 AS \
        closes_soon FROM revoked_coupons WHERE coupon_id IN (?) LIMIT 1 FOR SHARE)",
        list(coupons)
    );
    if by != IssuedBy::Reconciler {
        let drops: BTreeSet<i64> = claims.iter().map(|claim| claim.drop_id.0).collect();
        query = query.and(sql!(
            " UNION ALL (SELECT id, opens_at, closes_at, sealed_at IS NOT NULL, \
            COALESCE(closes_at <= UTC_TIMESTAMP(3) + INTERVAL ? SECOND, 0) FROM drops \
            WHERE id IN (?))",
            LOCKED_BEFORE,
            list(drops)
        ));
    }
    let seen: Vec<Seen> = query.all(conn).await?;
    let has_revocations = seen.iter().any(|(drop, ..)| drop.is_none());
    Ok((
        seen.into_iter()
            .filter_map(
                |(drop, opens_at, closes_at, is_sealed, closes_soon): Seen| {
                    let window = DropWindow {
                        opens_at: opens_at?,
                        closes_at,
                        is_sealed,
                    };
                    Some((drop?, (window, closes_soon)))
                },
            )
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
    let lock = "SELECT id, sealed_at IS NOT NULL FROM drops WHERE id IN (?) ORDER BY id FOR SHARE";
    let locked: Vec<(DropId, bool)> = sql!(lock, list(ids)).all(conn).await?;
    for (drop, is_sealed) in locked {
        if let Some((window, _)) = windows.get_mut(&drop) {
            window.is_sealed = is_sealed;
        }
    }
    Ok(())
}
