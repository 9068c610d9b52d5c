//! Uses of codes that have no row.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Unsigned};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::mysql::{Db, DbResult};

use super::Scope;

/// A use of a code.
#[derive(Debug, Clone, QueryableByName)]
pub(crate) struct ListedUse {
    #[diesel(sql_type = Nullable<BigInt>)]
    pub(crate) coupon_id: Option<CouponId>,
    #[diesel(sql_type = BigInt)]
    pub(crate) drop_id: DropId,
    #[diesel(sql_type = Unsigned<Integer>)]
    pub(crate) slot: Slot,
    #[diesel(sql_type = Text)]
    pub(crate) used_by: String,
    /// Whether the code is in use, but its coupon has no row.
    #[diesel(sql_type = Bool)]
    pub(crate) is_stray: bool,
}

/// Slots read per statement of a deep pass.
const SLOTS_AT_ONCE: i64 = 2_000;

/// Reads a page of the uses of codes, of a drop, of a coupon, or of all, in the order of the
/// primary key.
pub(crate) async fn uses(
    db: &Db,
    Scope { coupon, drop }: Scope,
    after: UsesAfter,
) -> DbResult<Vec<ListedUse>> {
    let UsesAfter { drop: after, slot } = after;
    // A slot may have uses of several claims: pages end with a whole slot.
    let page = sql_query(
        "SELECT d.coupon_id, u.drop_id, u.slot, u.used_by, \
             u.in_use <=> 1 AND i.slot IS NULL AS is_stray \
         FROM (SELECT DISTINCT drop_id, slot FROM coupon_uses \
             WHERE (? IS NULL OR drop_id = ?) \
             AND (? IS NULL OR drop_id IN (SELECT id FROM drops WHERE coupon_id = ?)) \
             AND (drop_id > ? OR drop_id = ? AND slot > ?) \
             ORDER BY drop_id, slot LIMIT ?) p \
         STRAIGHT_JOIN coupon_uses u ON u.drop_id = p.drop_id AND u.slot = p.slot \
         LEFT JOIN drops d ON d.id = u.drop_id \
         LEFT JOIN issued_coupons i ON i.drop_id = u.drop_id AND i.slot = u.slot \
             AND i.claimed_at = u.claimed_at \
         ORDER BY u.drop_id, u.slot",
    )
    .bind::<Nullable<BigInt>, _>(drop)
    .bind::<Nullable<BigInt>, _>(drop)
    .bind::<Nullable<BigInt>, _>(coupon)
    .bind::<Nullable<BigInt>, _>(coupon)
    .bind::<BigInt, _>(after)
    .bind::<BigInt, _>(after)
    .bind::<Unsigned<Integer>, _>(slot)
    .bind::<BigInt, _>(SLOTS_AT_ONCE);
    db.rows("stray uses", page).await
}

/// The slot after which a page of uses begins.
#[derive(Debug, Clone, Copy)]
pub(crate) struct UsesAfter {
    pub(crate) drop: DropId,
    pub(crate) slot: Slot,
}
