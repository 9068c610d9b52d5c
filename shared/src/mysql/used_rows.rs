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

    /// Returns the uses of codes that are in use although their coupons have no row: those of a
    /// drop, of a coupon, or all. Reads every use in the order of the primary key.
    pub async fn stray_uses(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
    ) -> DbResult<Vec<ListedUse>> {
        let mut stray = Vec::new();
        let mut after_drop = DropId(i64::MIN);
        let mut after_slot = 0;
        loop {
            // A slot may have uses of several claims: pages end with a whole slot.
            let page = "SELECT d.coupon_id, u.drop_id, u.slot, u.used_by, \
                        u.in_use <=> 1 AND i.slot IS NULL FROM (SELECT DISTINCT drop_id, slot \
                        FROM coupon_uses WHERE drop_id > ? OR drop_id = ? AND slot > ? \
                        ORDER BY drop_id, slot LIMIT ?) p \
                        STRAIGHT_JOIN coupon_uses u ON u.drop_id = p.drop_id AND u.slot = p.slot \
                        LEFT JOIN drops d ON d.id = u.drop_id \
                        LEFT JOIN issued_coupons i ON i.drop_id = u.drop_id \
                        AND i.slot = u.slot AND i.claimed_at = u.claimed_at \
                        ORDER BY u.drop_id, u.slot";
            let page = sql!(page, after_drop, after_drop, after_slot, SLOTS_AT_ONCE);
            let page: Vec<ListedUse> = self.all("stray uses", page).await?;
            let Some(last) = page.last() else {
                return Ok(stray);
            };
            after_drop = last.drop_id;
            after_slot = last.slot;
            stray.extend(page.into_iter().filter(|found: &ListedUse| {
                found.is_stray
                    && coupon.is_none_or(|coupon| found.coupon_id == Some(coupon))
                    && drop.is_none_or(|drop| found.drop_id == drop)
            }));
        }
    }
}
