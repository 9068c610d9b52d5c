//! Rows of issued coupons with the uses of their codes, and uses that have no row.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use serde_json::{Value, json};

use super::issued::IssuedRow;
use super::uses::CodeUse;
use super::{Db, DbResult};
use crate::domain::{DropId, Slot};
use crate::schema::coupon_uses;

/// The claim of a row: drop, slot, and time.
pub type RowClaim = (i64, Slot, DateTime<Utc>);

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
}
