//! Measures how soon admitted users got their rows. Reads a sample of slots, so that the cost does
//! not grow with the size of the drop.

use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Datetime, Integer, Nullable, Unsigned};
use diesel_async::RunQueryDsl;

use super::{Db, DbError};
use crate::domain::{DropId, Slot};

/// Sample size for one drop.
const SLOTS: u32 = 100;

/// Sample sizes for statistics by day: slots per drop, and drops. Up to this many drops are taken
/// from the newest unsealed ones, and as many from those sealed last.
const SLOTS_OF_DAY: u32 = 200;
const DROPS: u32 = 250;

/// Limit for statistics by day, which read up to 100,000 rows.
const LONG: Duration = Duration::from_secs(10);

/// A slot, its admission time, and the time of its row if it exists (UTC).
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct SlotPace {
    #[diesel(sql_type = Unsigned<Integer>)]
    pub slot: u32,
    #[diesel(sql_type = Datetime)]
    pub claimed_at: NaiveDateTime,
    #[diesel(sql_type = Nullable<Datetime>)]
    pub issued_at: Option<NaiveDateTime>,
}

/// The rows of one day (UTC), and the promises that passes found broken on that day.
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct DayPace {
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    #[diesel(sql_type = BigInt)]
    pub drops: i64,
    /// Rows in the sample, and broken promises.
    #[diesel(sql_type = BigInt)]
    pub looked_at: i64,
    /// Rows written within a second of their claim.
    #[diesel(sql_type = BigInt)]
    pub within_a_second: i64,
}

/// SQL that selects a sample of slots, spread evenly over a drop; `n` is a series that starts at 0.
fn sample(most: u32) -> String {
    format!(
        "JOIN series ON series.n < LEAST({most}, d.quantity) \
         STRAIGHT_JOIN issued_coupons i ON i.drop_id = d.id AND i.slot = 1 + FLOOR(series.n * d.quantity / LEAST({most}, d.quantity))"
    )
}

/// Returns the slots that [`Db::pace`] reads.
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
    /// Reads a sample of a drop's rows in order of slot, which is the order of admission.
    pub async fn pace(&self, drop: DropId) -> Result<Vec<SlotPace>, DbError> {
        self.run("read a drop's pace", async move |conn| {
            let series = series(SLOTS);
            let sample = sample(SLOTS);
            diesel::sql_query(format!(
                "{series} SELECT i.slot, i.claimed_at, i.issued_at FROM drops d {sample} \
                 WHERE d.id = {drop} ORDER BY i.slot"
            ))
            .load(conn)
            .await
        })
        .await
    }

    /// Reads how soon rows were written, by day, newest first. An unresolved broken promise counts
    /// as a miss. Because only a sample of a large drop's rows is read, its broken promises are
    /// scaled down accordingly, and rounded up.
    pub async fn pace_by_day(&self, days: u32) -> Result<Vec<DayPace>, DbError> {
        self.run_within(LONG, "read the pace by day", async move |conn| {
            let series = series(SLOTS_OF_DAY);
            let sample = sample(SLOTS_OF_DAY);
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
