//! Pages of a coupon's holders for operators, and counts by drop.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::issued::IssuedRow;
use super::{Db, DbResult};
use crate::domain::{CouponId, DropId, Slot};
use crate::schema::{drops, issued_coupons};

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
pub struct IssuedRowsPage {
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
    ) -> DbResult<Option<IssuedRowsPage>> {
        self.run("page of holders", async move |conn| {
            let mut own: Vec<DropId> = drops::table
                .filter(drops::coupon_id.eq(which.coupon))
                .order((drops::opens_at, drops::id))
                .select(drops::id)
                .load(conn)
                .await?;
            own.retain(|id| which.drop.is_none_or(|drop| drop == *id));
            if own.is_empty() && which.drop.is_some() {
                return Ok(None);
            }
            let (first, mut after) = which.after;
            let mut rows: Vec<IssuedRow> = Vec::new();
            for drop in own
                .into_iter()
                .skip_while(|id| first.0 != 0 && first != *id)
            {
                let wanted = i64::try_from(limit + 1 - rows.len()).unwrap_or(i64::MAX);
                let page: Vec<IssuedRow> = issued_coupons::table
                    .filter(issued_coupons::drop_id.eq(drop))
                    .filter(issued_coupons::slot.gt(after))
                    .filter(issued_coupons::coupon_id.eq(which.coupon))
                    .order(issued_coupons::slot)
                    .limit(wanted)
                    .select(IssuedRow::as_select())
                    .load(conn)
                    .await?;
                rows.extend(page);
                if rows.len() > limit {
                    break;
                }
                after = 0;
            }
            let has_more = rows.len() > limit;
            rows.truncate(limit);
            Ok(Some(IssuedRowsPage { rows, has_more }))
        })
        .await
    }
}
