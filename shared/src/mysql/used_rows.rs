//! Rows of issued coupons with the uses of their codes, and uses that have no row.

use chrono::{DateTime, Utc};
use serde_json::{Value, json};

use super::issued::IssuedRow;
use super::sql::row;
use super::uses::CodeUse;
use super::{Db, DbResult};
use crate::domain::{CouponId, DropId, Slot};
use crate::sql;

/// The claim of a row: drop, slot, and time.
pub type RowClaim = (i64, Slot, DateTime<Utc>);

row! {
    /// A use of a code.
    pub struct ListedUse {
        pub coupon_id: Option<CouponId>,
        pub drop_id: DropId,
        pub slot: Slot,
        pub used_by: String,
        /// Whether the code is in use, but its coupon has no row.
        pub is_stray: bool,
    }
}

/// Slots read per statement of a deep pass.
const SLOTS_AT_ONCE: u64 = 2_000;

impl IssuedRow {
    /// Returns the claim of this row.
    pub fn claim(&self) -> RowClaim {
        (self.drop_id, self.slot, self.claimed_at)
    }

    fn claim_as_json(&self) -> Value {
        let at = self.claimed_at.format("%Y-%m-%d %H:%M:%S%.3f").to_string();
        json!({"drop": self.drop_id, "slot": self.slot, "at": at})
    }
}

impl Db {
    /// Reads the uses of these rows, including undone ones, oldest first.
    pub async fn uses_of_rows(&self, rows: &[IssuedRow]) -> DbResult<Vec<(RowClaim, CodeUse)>> {
        let claims: Vec<Value> = rows.iter().map(IssuedRow::claim_as_json).collect();
        let uses = "SELECT u.drop_id, u.slot, u.claimed_at, {u.columns} \
                    FROM JSON_TABLE(?, '$[*]' COLUMNS (drop_id BIGINT PATH '$.drop', \
                    slot INT UNSIGNED PATH '$.slot', claimed_at DATETIME(3) PATH '$.at')) j \
                    STRAIGHT_JOIN coupon_uses u ON u.drop_id = j.drop_id AND u.slot = j.slot \
                    AND u.claimed_at = j.claimed_at \
                    ORDER BY COALESCE(u.used_at, u.undone_at), u.reference";
        self.all("uses of rows", sql!(uses, super::json(&claims)))
            .await
    }

    /// Reads a page of the uses of codes, of a drop, of a coupon, or of all, in the order of the
    /// primary key, and returns those that are in use although their coupons have no row.
    pub async fn stray_uses(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        UsesAfter { drop: after, slot }: UsesAfter,
    ) -> DbResult<StrayUses> {
        let which = match (coupon, drop) {
            (_, Some(drop)) => sql!("drop_id = ?", drop),
            (Some(coupon), None) => {
                let own = "drop_id IN (SELECT id FROM drops WHERE coupon_id = ?)";
                sql!(own, coupon)
            }
            (None, None) => sql!("TRUE"),
        };
        // A slot may have uses of several claims: pages end with a whole slot.
        let begin = "SELECT d.coupon_id, u.drop_id, u.slot, u.used_by, \
                     u.in_use <=> 1 AND i.slot IS NULL FROM (SELECT DISTINCT drop_id, slot \
                     FROM coupon_uses WHERE ";
        let rest = " AND (drop_id > ? OR drop_id = ? AND slot > ?) \
                    ORDER BY drop_id, slot LIMIT ?) p \
                    STRAIGHT_JOIN coupon_uses u ON u.drop_id = p.drop_id AND u.slot = p.slot \
                    LEFT JOIN drops d ON d.id = u.drop_id \
                    LEFT JOIN issued_coupons i ON i.drop_id = u.drop_id \
                    AND i.slot = u.slot AND i.claimed_at = u.claimed_at \
                    ORDER BY u.drop_id, u.slot";
        let rest = sql!(rest, after, after, slot, SLOTS_AT_ONCE);
        let page = sql!(begin).and(which).and(rest);
        let mut stray: Vec<ListedUse> = self.all("stray uses", page).await?;
        let after = stray.last().map(|last| UsesAfter {
            drop: last.drop_id,
            slot: last.slot,
        });
        stray.retain(|found| found.is_stray);
        Ok(StrayUses { stray, after })
    }
}

/// The slot after which a page of uses begins.
#[derive(Debug, Clone, Copy)]
pub struct UsesAfter {
    pub drop: DropId,
    pub slot: Slot,
}

impl Default for UsesAfter {
    fn default() -> Self {
        Self {
            drop: DropId(i64::MIN),
            slot: 0,
        }
    }
}

/// The stray uses of a page, and where the next page begins, if there is one.
#[derive(Debug)]
pub struct StrayUses {
    pub stray: Vec<ListedUse>,
    pub after: Option<UsesAfter>,
}
