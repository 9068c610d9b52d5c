//! Pages of a coupon's holders for operators, and counts by drop.

use std::collections::HashMap;
use std::time::Duration;

use diesel::dsl::count_star;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::issued::IssuedRow;
use super::{Db, DbResult};
use crate::domain::{CouponId, DropId, Slot};
use crate::schema::{drops, failed_claims, issued_coupons, revoked_coupons};

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
            Ok(Some(HoldersPage { rows, has_more }))
        })
        .await
    }

    /// Counts what these drops have. Omits drops that have none.
    pub async fn count(&self, what: DropCount, drops: &[DropId]) -> DbResult<HashMap<DropId, u64>> {
        let ids = drops.to_vec();
        let db = self.within(LONG);
        let counts: Vec<(DropId, i64)> = match what {
            DropCount::Rows => {
                let rows = issued_coupons::table
                    .filter(issued_coupons::drop_id.eq_any(ids))
                    .group_by(issued_coupons::drop_id)
                    .select((issued_coupons::drop_id, count_star()));
                db.rows("count rows by drop", rows).await?
            }
            DropCount::Revocations => {
                let revocations = revoked_coupons::table
                    .filter(revoked_coupons::drop_id.eq_any(ids))
                    .group_by(revoked_coupons::drop_id)
                    .select((revoked_coupons::drop_id, count_star()));
                db.rows("count revocations by drop", revocations).await?
            }
            DropCount::DeadLetters => {
                let names_it = failed_claims::coupon_id
                    .is_null()
                    .or(failed_claims::coupon_id.eq(drops::coupon_id.nullable()));
                let letters = failed_claims::table
                    .inner_join(drops::table.on(failed_claims::drop_id.eq(drops::id.nullable())))
                    .filter(failed_claims::resolved_at.is_null())
                    .filter(drops::id.eq_any(ids))
                    .filter(names_it)
                    .group_by(drops::id)
                    .select((drops::id, count_star()));
                db.rows("count dead letters by drop", letters).await?
            }
        };
        Ok(counts
            .into_iter()
            .map(|(drop, count)| (drop, count.cast_unsigned()))
            .collect())
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
