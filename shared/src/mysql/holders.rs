//! Pages of a coupon's holders, for operators and rebuilding.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::db::IdRow;
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

/// Maximum number of drops that contribute to one page.
const DROPS_AT_ONCE: usize = 100;

impl Db {
    /// Reads a page of at most `limit` rows. Returns `None` if the drop does not belong to the
    /// coupon.
    pub async fn holders(
        &self,
        which: HolderRange,
        limit: usize,
    ) -> Result<Option<HoldersPage>, DbError> {
        self.run("page of holders", async move |conn| {
            let Some(mut drop) = first_drop(conn, which).await? else {
                return Ok(None);
            };
            let mut page = HoldersPage::default();
            let mut after = which.after.1;
            for _ in 0..DROPS_AT_ONCE {
                let wanted = i64::try_from(limit + 1 - page.rows.len()).unwrap_or(i64::MAX);
                page.rows
                    .extend(rows_after(conn, which.coupon, drop, after, wanted).await?);
                page.has_more = page.rows.len() > limit;
                if page.has_more || which.drop.is_some() {
                    break;
                }
                let Some(next) = next_drop(conn, which.coupon, drop).await? else {
                    page.has_more = false;
                    break;
                };
                drop = next;
                after = 0;
                page.has_more = true;
            }
            page.rows.truncate(limit);
            Ok(Some(page))
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

/// Finds the first drop of the page.
async fn first_drop(conn: &mut Conn, which: HolderRange) -> QueryResult<Option<i64>> {
    let own = drops::table
        .filter(drops::coupon_id.eq(which.coupon.0))
        .order((drops::opens_at, drops::id))
        .select(drops::id);
    match (which.drop, which.after.0) {
        (Some(drop), _) => own
            .filter(drops::id.eq(drop.0))
            .first(conn)
            .await
            .optional(),
        (None, DropId(0)) => Ok(Some(own.first(conn).await.optional()?.unwrap_or_default())),
        (None, after) => Ok(Some(after.0)),
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

/// Finds the next drop that has a row.
async fn next_drop(conn: &mut Conn, coupon: CouponId, after: i64) -> QueryResult<Option<i64>> {
    let found: Option<IdRow> = diesel::sql_query(
        "SELECT d.id FROM drops a JOIN drops d ON d.coupon_id = ? AND (d.opens_at, d.id) > (a.opens_at, a.id) \
         WHERE a.id = ? AND EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = d.id) ORDER BY d.opens_at, d.id LIMIT 1",
    )
    .bind::<BigInt, _>(coupon.0)
    .bind::<BigInt, _>(after)
    .get_result(conn)
    .await
    .optional()?;
    Ok(found.map(|found| found.id))
}
