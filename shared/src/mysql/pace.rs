//! How soon people who were admitted had their rows, by a sample of slots: a look costs the same
//! for a hundred slots and for ten millions.

use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Datetime, Integer, Nullable, Unsigned};
use diesel_async::RunQueryDsl;

use super::{Db, DbError};
use crate::domain::{DropId, Slot};

/// Slots that are looked at of one drop; all of them, where there are no more.
const SLOTS: u32 = 100;

/// Slots of each drop that a day's share is made of. Drops: the newest that are not sealed, and
/// those that were sealed last, so many of each.
const SLOTS_OF_DAY: u32 = 200;
const DROPS: u32 = 250;

/// A day's share reads up to 100,000 rows.
const LONG: Duration = Duration::from_secs(10);

/// A slot, when it was given out, and when its row came, if it is there (UTC).
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct SlotPace {
    #[diesel(sql_type = Unsigned<Integer>)]
    pub slot: u32,
    #[diesel(sql_type = Datetime)]
    pub claimed_at: NaiveDateTime,
    #[diesel(sql_type = Nullable<Datetime>)]
    pub issued_at: Option<NaiveDateTime>,
}

/// The rows of one day (UTC), and the promises of which a pass found that day that they are broken.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct DayPace {
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    #[diesel(sql_type = BigInt)]
    pub drops: i64,
    /// Rows that were looked at, and broken promises.
    #[diesel(sql_type = BigInt)]
    pub looked_at: i64,
    /// Rows that came within a second of their claim.
    #[diesel(sql_type = BigInt)]
    pub within_a_second: i64,
}

/// The slots of a sample, spread evenly over a drop: `n` is a number of a series that begins at 0.
fn sample(most: u32) -> String {
    format!(
        "JOIN series ON series.n < LEAST({most}, d.quantity) \
         STRAIGHT_JOIN issued_coupons i ON i.drop_id = d.id AND i.slot = 1 + FLOOR(series.n * d.quantity / LEAST({most}, d.quantity))"
    )
}

/// The slots that [`Db::pace`] looks at.
pub fn sampled(quantity: Slot) -> Vec<Slot> {
    let most = SLOTS.min(quantity);
    let slot = |n: u32| 1 + u64::from(n) * u64::from(quantity) / u64::from(most);
    (0..most)
        .filter_map(|n| Slot::try_from(slot(n)).ok())
        .collect()
}

fn series(numbers: u32) -> String {
    format!(
        "WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < {})",
        numbers - 1
    )
}

impl Db {
    /// Some of a drop's rows, by slot: the order in which people were admitted.
    pub async fn pace(&self, drop: DropId) -> Result<Vec<SlotPace>, DbError> {
        self.run("read a drop's pace", async move |conn| {
            let (series, sample) = (series(SLOTS), sample(SLOTS));
            diesel::sql_query(format!(
                "{series} SELECT i.slot, i.claimed_at, i.issued_at FROM drops d {sample} \
                 WHERE d.id = {drop} ORDER BY i.slot"
            ))
            .load(conn)
            .await
        })
        .await
    }

    /// How soon rows came, day by day; newest first. A promise that is broken and not mended is a
    /// miss; as rows of a large drop are only some of them, so are its broken promises, rounded up.
    pub async fn pace_by_day(&self, days: u32) -> Result<Vec<DayPace>, DbError> {
        self.run_within(LONG, "read the pace by day", async move |conn| {
            let (series, sample) = (series(SLOTS_OF_DAY), sample(SLOTS_OF_DAY));
            diesel::sql_query(format!(
                "{series}, recent AS (\
                     (SELECT id, quantity FROM drops WHERE sealed_at IS NULL AND opens_at <= UTC_TIMESTAMP(3) \
                      ORDER BY opens_at DESC LIMIT {DROPS}) \
                     UNION (SELECT id, quantity FROM drops \
                      WHERE sealed_at >= UTC_TIMESTAMP(3) - INTERVAL {days} DAY ORDER BY sealed_at DESC LIMIT {DROPS})), \
                 found AS (\
                     SELECT DATE(i.claimed_at) AS day, d.id AS drop_id, COUNT(*) AS looked_at, \
                         SUM(i.issued_at <= i.claimed_at + INTERVAL 1 SECOND) AS in_time \
                     FROM recent d {sample} WHERE i.claimed_at >= UTC_DATE() - INTERVAL {days} DAY GROUP BY day, d.id \
                     UNION ALL \
                     SELECT DATE(b.created_at) AS day, d.id, \
                         CEIL(COUNT(*) * LEAST({SLOTS_OF_DAY}, d.quantity) / d.quantity), 0 \
                     FROM broken_promises b JOIN drops d ON d.id = b.drop_id \
                     WHERE b.mended_at IS NULL AND b.created_at >= UTC_DATE() - INTERVAL {days} DAY \
                     GROUP BY day, d.id, d.quantity) \
                 SELECT /*+ MAX_EXECUTION_TIME(10000) */ day, COUNT(DISTINCT drop_id) AS drops, \
                     CAST(SUM(looked_at) AS SIGNED) AS looked_at, CAST(SUM(in_time) AS SIGNED) AS within_a_second \
                 FROM found GROUP BY day ORDER BY day DESC"
            ))
            .load(conn)
            .await
        })
        .await
    }
}
