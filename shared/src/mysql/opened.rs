//! The drops of coupons that have opened, newest first, sealed ones too.

use chrono::{DateTime, Utc};
use diesel::sql_types::{Datetime, Text};
use diesel_async::RunQueryDsl;

use super::catalogue::DropRow;
use super::{Db, DbError, json};
use crate::coupon::Drop;
use crate::domain::CouponId;

impl Db {
    /// The drops of these coupons that had opened by `now`: of each the newest, `each` at most,
    /// newest first.
    pub async fn opened_drops(
        &self,
        coupons: Vec<CouponId>,
        now: DateTime<Utc>,
        each: u32,
    ) -> Result<Vec<Drop>, DbError> {
        self.run("read opened drops", async move |conn| {
            // By the index, a few rows a coupon, however many drops it has had.
            let newest = format!(
                "SELECT d.* FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$')) w STRAIGHT_JOIN LATERAL \
                 (SELECT * FROM drops FORCE INDEX (drops_opened) WHERE coupon_id = w.id AND opens_at <= ? \
                  ORDER BY opens_at DESC LIMIT {each}) d ON TRUE ORDER BY d.coupon_id, d.opens_at DESC, d.id DESC"
            );
            let found: Vec<DropRow> = diesel::sql_query(newest)
                .bind::<Text, _>(json(&coupons)?)
                .bind::<Datetime, _>(now.naive_utc())
                .load(conn)
                .await?;
            Ok(found.into_iter().map(Drop::from).collect())
        })
        .await
    }
}
