//! Pages of a coupon's holders, for operators and rebuilding.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::issued::IssuedRow;
use super::schema::{drops, issued_coupons};
use super::{Conn, Db, DbError, MOST_VALUES};
use crate::domain::{CouponId, DropId, Slot};

/// A range of a coupon's rows.
#[derive(Debug, Clone, Copy)]
pub struct HolderRange {
    pub coupon: CouponId,
    /// Only rows of this drop.
    pub drop: Option<DropId>,
    /// Only rows after this drop and slot. Drop 0 starts at the coupon's first drop.
    pub after: (DropId, Slot),
}

/// Rows in order of drop and slot.
#[derive(Debug, Clone, Default)]
pub struct HoldersPage {
    pub rows: Vec<IssuedRow>,
    pub has_more: bool,
}

impl Db {
    /// Reads a page of at most `limit` rows. Returns `None` if the drop does not belong to the
    /// coupon.
    pub async fn holders(
        &self,
        which: HolderRange,
        limit: usize,
    ) -> Result<Option<HoldersPage>, DbError> {
        self.run("page of holders", async move |conn| {
            let mut own: Vec<i64> = drops::table
                .filter(drops::coupon_id.eq(which.coupon.0))
                .order((drops::opens_at, drops::id))
                .select(drops::id)
                .load(conn)
                .await?;
            own.retain(|id| which.drop.is_none_or(|drop| drop.0 == *id));
            if own.is_empty() && which.drop.is_some() {
                return Ok(None);
            }
            let (DropId(first), mut after) = which.after;
            let mut rows = Vec::new();
            for drop in own.into_iter().skip_while(|id| first != 0 && first != *id) {
                let wanted = i64::try_from(limit + 1 - rows.len()).unwrap_or(i64::MAX);
                rows.extend(rows_after(conn, which.coupon, drop, after, wanted).await?);
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

    /// Counts the rows of each drop. Omits drops without rows.
    pub async fn rows_by_drop(&self, drops: Vec<DropId>) -> Result<HashMap<DropId, i64>, DbError> {
        self.run("count rows by drop", async move |conn| {
            let mut counts = HashMap::new();
            for some in drops.chunks(MOST_VALUES) {
                let found: Vec<(i64, i64)> = issued_coupons::table
                    .filter(issued_coupons::drop_id.eq_any(some.iter().map(|drop| drop.0)))
                    .group_by(issued_coupons::drop_id)
                    .select((issued_coupons::drop_id, diesel::dsl::count_star()))
                    .load(conn)
                    .await?;
                counts.extend(found.into_iter().map(|(drop, count)| (DropId(drop), count)));
            }
            Ok(counts)
        })
        .await
    }
}

async fn rows_after(
    conn: &mut Conn,
    coupon: CouponId,
    drop: i64,
    slot: Slot,
    limit: i64,
) -> QueryResult<Vec<IssuedRow>> {
    issued_coupons::table
        .filter(
            issued_coupons::drop_id
                .eq(drop)
                .and(issued_coupons::slot.gt(slot)),
        )
        .filter(issued_coupons::coupon_id.eq(coupon.0))
        .order(issued_coupons::slot)
        .limit(limit)
        .select(IssuedRow::as_select())
        .load(conn)
        .await
}
