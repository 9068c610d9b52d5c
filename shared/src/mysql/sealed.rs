//! Sealed drops: closed, verified exact, and skipped by passes from then on.

use std::collections::HashMap;

use chrono::{NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::schema::{drops, failed_claims};
use super::{Db, DbError, MOST_VALUES};
use crate::domain::{CouponId, DropId};

#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = drops)]
pub struct SealedDrop {
    pub id: i64,
    pub coupon_id: i64,
    pub quantity: u32,
    pub sealed_rows: Option<u32>,
}

impl Db {
    /// Seals a drop with as many rows as were verified.
    pub async fn seal_drop(&self, id: DropId, rows: u32) -> Result<(), DbError> {
        self.run("seal drop", async move |conn| {
            diesel::update(drops::table.find(id.0).filter(drops::sealed_at.is_null()))
                .set((drops::sealed_at.eq(Utc::now().naive_utc()), drops::sealed_rows.eq(rows)))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }

    /// Unseals the drops that an unresolved dead letter names, since a promise may be open there
    /// after all. Gives their number.
    pub async fn unseal_drops_of_dead_letters(&self) -> Result<usize, DbError> {
        self.run("unseal drops", async move |conn| {
            let unresolved = failed_claims::table.filter(failed_claims::resolved_at.is_null());
            if unresolved.select(failed_claims::id).first::<i64>(conn).await.optional()?.is_none() {
                return Ok(0);
            }
            let named = failed_claims::table
                .filter(failed_claims::resolved_at.is_null())
                .select(failed_claims::drop_id.assume_not_null());
            diesel::update(drops::table.filter(drops::sealed_at.is_not_null().and(drops::id.eq_any(named))))
                .set((drops::sealed_at.eq(None::<NaiveDateTime>), drops::sealed_rows.eq(None::<u32>)))
                .execute(conn)
                .await
        })
        .await
    }

    /// Up to `limit` sealed drops with ids above `after`, of one coupon or drop where they are
    /// given.
    pub async fn sealed_drops(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<SealedDrop>, DbError> {
        self.run("sealed drops", async move |conn| {
            let mut query = drops::table
                .filter(drops::sealed_at.is_not_null().and(drops::id.gt(after)))
                .order(drops::id)
                .limit(limit)
                .select(SealedDrop::as_select())
                .into_boxed();
            if let Some(coupon) = coupon {
                query = query.filter(drops::coupon_id.eq(coupon.0));
            }
            if let Some(drop) = drop {
                query = query.filter(drops::id.eq(drop.0));
            }
            query.load(conn).await
        })
        .await
    }

    /// How many rows each of these sealed drops was sealed with.
    pub async fn sealed_rows(&self, ids: Vec<DropId>) -> Result<HashMap<DropId, u32>, DbError> {
        self.run("read sealed drops", async move |conn| {
            let mut found: Vec<(i64, Option<u32>)> = Vec::new();
            for some in ids.chunks(MOST_VALUES) {
                let sealed = drops::table
                    .filter(drops::id.eq_any(some.iter().map(|d| d.0)).and(drops::sealed_at.is_not_null()))
                    .select((drops::id, drops::sealed_rows));
                found.extend(sealed.load::<(i64, Option<u32>)>(conn).await?);
            }
            Ok(found.into_iter().filter_map(|(id, rows)| Some((DropId(id), rows?))).collect())
        })
        .await
    }
}
