//! Rows of issued coupons with the uses of their codes, and uses that have no row.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Bool, Integer, Nullable, Text, Unsigned};
use serde_json::{Value, json};

use super::issued::IssuedRow;
use super::uses::CodeUse;
use super::{Db, DbResult};
use crate::domain::{CouponId, DropId, Slot};
use crate::schema::coupon_uses;

/// The claim of a row: drop, slot, and time.
pub type RowClaim = (i64, Slot, DateTime<Utc>);

/// A use of a code.
#[derive(Debug, Clone, QueryableByName)]
pub struct ListedUse {
    #[diesel(sql_type = Nullable<BigInt>)]
    pub coupon_id: Option<CouponId>,
    #[diesel(sql_type = BigInt)]
    pub drop_id: DropId,
    #[diesel(sql_type = Unsigned<Integer>)]
    pub slot: Slot,
    #[diesel(sql_type = Text)]
    pub used_by: String,
    /// Whether the code is in use, but its coupon has no row.
    #[diesel(sql_type = Bool)]
    pub is_stray: bool,
}

/// A use with the claim of its row.
#[derive(Debug, Clone, QueryableByName)]
#[diesel(table_name = coupon_uses)]
pub struct UseOfRow {
    pub drop_id: DropId,
    pub slot: Slot,
    pub claimed_at: DateTime<Utc>,
    #[diesel(embed)]
    pub order: CodeUse,
}

/// Slots read per statement of a deep pass.
const SLOTS_AT_ONCE: i64 = 2_000;

impl UseOfRow {
    /// Returns the claim of its row.
    pub fn claim(&self) -> RowClaim {
        (self.drop_id.0, self.slot, self.claimed_at)
    }
}

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
    pub async fn uses_of_rows(&self, rows: &[IssuedRow]) -> DbResult<Vec<UseOfRow>> {
        let claims: Vec<Value> = rows.iter().map(IssuedRow::claim_as_json).collect();
        let uses = "SELECT u.* FROM JSON_TABLE(?, '$[*]' COLUMNS (drop_id BIGINT PATH '$.drop', \
                    slot INT UNSIGNED PATH '$.slot', claimed_at DATETIME(3) PATH '$.at')) j \
                    STRAIGHT_JOIN coupon_uses u ON u.drop_id = j.drop_id AND u.slot = j.slot \
                    AND u.claimed_at = j.claimed_at \
                    ORDER BY COALESCE(u.used_at, u.undone_at), u.reference";
        let uses = sql_query(uses).bind::<Text, _>(super::json(&claims));
        self.rows("uses of rows", uses).await
    }

    /// Reads a page of the uses of codes, of a drop, of a coupon, or of all, in the order of the
    /// primary key, and returns those that are in use although their coupons have no row.
    pub async fn stray_uses(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        UsesAfter { drop: after, slot }: UsesAfter,
    ) -> DbResult<StrayUses> {
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
        let mut stray: Vec<ListedUse> = self.rows("stray uses", page).await?;
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
