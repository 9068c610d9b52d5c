//! Pages of a coupon's holders for operators, and counts by drop.

use std::collections::HashMap;
use std::time::Duration;

use super::issued::IssuedRow;
use super::{Db, DbResult, list};
use crate::domain::{CouponId, DropId, Slot};
use crate::sql;

/// A range of a coupon's rows.
#[derive(Debug, Clone, Copy)]
pub struct HolderRange {
    pub coupon: CouponId,
    /// Only rows of this drop.
    pub drop: Option<DropId>,
    /// Only rows after this drop and slot. Drop 0 starts at the coupon's first drop.
    pub after: (DropId, Slot),
}

/// Rows in the order in which their drops open, then in order of slot.
#[derive(Debug, Clone, Default)]
pub struct HoldersPage {
    pub rows: Vec<IssuedRow>,
    pub has_more: bool,
}

impl Db {
    /// Reads a page of at most `limit` rows. Returns `None` if the drop does not belong to the
    /// coupon.
    pub async fn holders(&self, which: HolderRange, limit: usize) -> DbResult<Option<HoldersPage>> {
        self.run("page of holders", async move |conn| {
            let mut own: Vec<DropId> = sql!(
                "SELECT id FROM drops WHERE coupon_id = ? \
                ORDER BY opens_at, id",
                which.coupon
            )
            .all(conn)
            .await?;
            own.retain(|id| which.drop.is_none_or(|drop| drop == *id));
            if own.is_empty() && which.drop.is_some() {
                return Ok(None);
            }
            let (first, mut after) = which.after;
            let mut rows: Vec<IssuedRow> = Vec::new();
            let page = "SELECT {columns} FROM issued_coupons WHERE drop_id = ? AND slot > ? \
                AND coupon_id = ? ORDER BY slot LIMIT ?";
            for drop in own
                .into_iter()
                .skip_while(|id| first.0 != 0 && first != *id)
            {
                let wanted = (limit + 1 - rows.len()) as u64;
                let page = sql!(page, drop, after, which.coupon, wanted);
                rows.extend(page.all::<Vec<IssuedRow>>(conn).await?);
                if rows.len() > limit {
                    break;
                }
                after = 0;
            }
            let has_more = rows.len() > limit;
            rows.truncate(limit);
            Ok(Some(HoldersPage { rows, has_more }))
        })
        .await
    }

    /// Counts what these drops have. Omits drops that have none.
    pub async fn count(&self, what: DropCount, drops: &[DropId]) -> DbResult<HashMap<DropId, u64>> {
        let count = match what {
            DropCount::Rows => {
                "SELECT drop_id, COUNT(*) FROM issued_coupons WHERE drop_id IN (?) GROUP BY drop_id"
            }
            DropCount::Revocations => {
                "SELECT drop_id, COUNT(*) FROM revoked_coupons WHERE drop_id IN (?) GROUP BY drop_id"
            }
            DropCount::DeadLetters => {
                "SELECT f.drop_id, COUNT(*) FROM failed_claims f JOIN drops d ON d.id = f.drop_id \
                 WHERE f.resolved_at IS NULL AND f.drop_id IN (?) \
                 AND (f.coupon_id IS NULL OR f.coupon_id = d.coupon_id) GROUP BY f.drop_id"
            }
        };
        let count = sql!(count, list(drops.iter().copied()));
        self.within(LONG).all("count by drop", count).await
    }
}

/// Time limit of a count over some drops.
const LONG: Duration = Duration::from_secs(30);

/// What is counted by drop.
#[derive(Debug, Clone, Copy)]
pub enum DropCount {
    Rows,
    Revocations,
    /// Unresolved ones, except those that name another coupon.
    DeadLetters,
}
