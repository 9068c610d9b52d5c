//! How soon people who were admitted had their rows, by a sample of slots: a look costs the same
//! for a hundred slots and for ten millions.

use std::time::Duration;

use chrono::{NaiveDate, NaiveDateTime};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Datetime, Integer, Unsigned};
use diesel_async::RunQueryDsl;

use super::{Db, DbError};
use crate::domain::DropId;

/// Slots that are looked at of one drop; all of them, where there are no more.
const SLOTS: u32 = 100;

/// Slots of each drop that a day's share is made of. Drops: the newest that are not sealed, and
/// those that were sealed last, so many of each.
const SLOTS_OF_DAY: u32 = 200;
const DROPS: u32 = 250;

/// A day's share reads up to 100,000 rows.
const LONG: Duration = Duration::from_secs(10);

/// A slot, when it was given out, and when its row came (UTC).
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Step {
    #[diesel(sql_type = Unsigned<Integer>)]
    pub slot: u32,
    #[diesel(sql_type = Datetime)]
    pub claimed_at: NaiveDateTime,
    #[diesel(sql_type = Datetime)]
    pub issued_at: NaiveDateTime,
}

/// The promises of one day (UTC).
#[derive(Debug, Clone, PartialEq, Eq, QueryableByName)]
pub struct Day {
    #[diesel(sql_type = Date)]
    pub day: NaiveDate,
    #[diesel(sql_type = BigInt)]
    pub drops: i64,
    /// Rows that were looked at.
    #[diesel(sql_type = BigInt)]
    pub rows: i64,
    /// Those that came within a second of their claim.
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

fn series(numbers: u32) -> String {
    format!("WITH RECURSIVE series (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM series WHERE n < {})", numbers - 1)
}

impl Db {
    /// Some of a drop's rows, by slot: the order in which people were admitted.
    pub async fn pace(&self, drop: DropId) -> Result<Vec<Step>, DbError> {
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

    /// How soon rows came, day by day; newest first.
    pub async fn pace_by_day(&self, days: u32) -> Result<Vec<Day>, DbError> {
        self.run_within(LONG, "read the pace by day", async move |conn| {
            let (series, sample) = (series(SLOTS_OF_DAY), sample(SLOTS_OF_DAY));
            diesel::sql_query(format!(
                "{series}, recent AS (\
                     (SELECT id, quantity FROM drops WHERE sealed_at IS NULL AND opens_at <= UTC_TIMESTAMP(3) \
                      ORDER BY opens_at DESC LIMIT {DROPS}) \
                     UNION (SELECT id, quantity FROM drops \
                      WHERE sealed_at >= UTC_TIMESTAMP(3) - INTERVAL {days} DAY ORDER BY sealed_at DESC LIMIT {DROPS})) \
                 SELECT /*+ MAX_EXECUTION_TIME(10000) */ DATE(i.claimed_at) AS day, COUNT(DISTINCT d.id) AS drops, COUNT(*) AS `rows`, \
                     CAST(SUM(i.issued_at <= i.claimed_at + INTERVAL 1 SECOND) AS SIGNED) AS within_a_second \
                 FROM recent d {sample} WHERE i.claimed_at >= UTC_DATE() - INTERVAL {days} DAY GROUP BY day ORDER BY day DESC"
            ))
            .load(conn)
            .await
        })
        .await
    }
}
