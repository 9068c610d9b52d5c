//! Stores how far the topic was read: one position per partition, which a consumer advances in the
//! transaction that inserts the rows.
//!
//! A position advances only if the range that was read starts at or below it. A consumer that
//! started above it, for whatever reason, therefore cannot mark unread messages as read: its rows
//! are written, and the position stays. Reading a range twice does not move the position back.

use std::collections::BTreeMap;
use std::ops::Range;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Text;
use diesel_async::RunQueryDsl;

use super::{Conn, Db, DbResult, Prepared, json};
use crate::columns::{now, seconds_from_now};
use crate::schema::{reconciler_state, topic_positions};

/// The offset after the last message with a row or dead letter, by partition.
pub type Positions = BTreeMap<i32, i64>;

/// How many seconds ago the owner of a partition read it or, with a pace of rows, attended to it.
pub type SecondsUnseen = BTreeMap<i32, i64>;

/// Offsets whose messages have rows or dead letters, by partition.
pub type ReadRanges = BTreeMap<i32, Range<i64>>;

/// Name in `reconciler_state` of the time at which a coupon was last seen waiting for unread
/// messages.
const UNPACED: &str = "rows_unpaced";

/// How long a suspension of the pace lasts. Longer than the urgent lane pauses between two
/// attempts.
const UNPACED_SECONDS: i64 = 10;

impl Db {
    /// Reads the positions of a topic.
    pub async fn topic_positions(&self, topic: &str) -> DbResult<Positions> {
        let positions = topic_positions::table
            .filter(topic_positions::topic.eq(topic.to_owned()))
            .select((topic_positions::partition_id, topic_positions::next_offset));
        let positions = self.rows("read positions", positions).await?;
        Ok(positions.into_iter().collect())
    }

    /// Records that the owner of these partitions, which keeps a pace of rows, attends to them.
    pub async fn touch_positions(&self, topic: &str, partitions: Vec<i32>) -> DbResult<()> {
        let own = topic_positions::table
            .filter(topic_positions::topic.eq(topic.to_owned()))
            .filter(topic_positions::partition_id.eq_any(partitions));
        let touch = diesel::update(own).set(topic_positions::seen_at.eq(now()));
        self.write("touch positions", touch).await.map(|_| ())
    }

    /// Suspends the pace of rows for ten seconds, for all consumers.
    pub async fn suspend_pace(&self) -> DbResult<()> {
        self.set_state(UNPACED, String::new()).await
    }

    /// Whether the pace of rows is suspended. A time that is more than ten seconds ahead does not
    /// count: it was stored before MySQL's clock was set back.
    pub async fn is_pace_suspended(&self) -> DbResult<bool> {
        let recent = reconciler_state::table
            .find(UNPACED)
            .filter(reconciler_state::updated_at.gt(seconds_from_now(-UNPACED_SECONDS)))
            .filter(reconciler_state::updated_at.le(seconds_from_now(UNPACED_SECONDS)))
            .select(reconciler_state::name);
        let found: Option<String> = self.row("read the suspension of the pace", recent).await?;
        Ok(found.is_some())
    }

    /// Stores the first offset of a partition whose position is missing, or outside the log (the
    /// topic was recreated, messages expired, or the position was moved). A position that has
    /// changed since it was `seen` stays.
    pub async fn begin_at_first(
        &self,
        topic: &str,
        partition: i32,
        seen: Option<i64>,
        first: i64,
    ) -> DbResult<()> {
        let topic = topic.to_owned();
        self.run(
            "begin a partition at its first message",
            async move |conn| {
                diesel::insert_or_ignore_into(topic_positions::table)
                    .values((
                        topic_positions::topic.eq(&topic),
                        topic_positions::partition_id.eq(partition),
                        topic_positions::next_offset.eq(first),
                    ))
                    .execute(conn)
                    .await?;
                let unchanged = topic_positions::table
                    .find((&topic, partition))
                    .filter(topic_positions::next_offset.eq(seen.unwrap_or(first)));
                diesel::update(unchanged)
                    .set((
                        topic_positions::next_offset.eq(first),
                        topic_positions::seen_at.eq(now()),
                    ))
                    .execute(conn)
                    .await
                    .map(|_| ())
            },
        )
        .await
    }

    /// Advances positions in a transaction that inserts no rows; see [`advance`].
    pub async fn advance_positions(&self, topic: &str, ranges: ReadRanges) -> DbResult<Vec<i32>> {
        let topic = topic.to_owned();
        self.transaction("move positions", async move |conn| {
            advance(conn, &topic, &ranges).await
        })
        .await
    }
}

/// Advances positions past the ranges that were read, in the transaction of their rows and after
/// inserting them. Returns the partitions whose positions differ from the ends of their ranges: the
/// consumer must read them again from their positions.
pub async fn advance(conn: &mut Conn, topic: &str, ranges: &ReadRanges) -> QueryResult<Vec<i32>> {
    if ranges.is_empty() || moved(conn, topic, ranges).await? == ranges.len() {
        return Ok(Vec::new());
    }
    // Lock only these partitions: consumers that lock each other's rows could deadlock.
    let own: Vec<i32> = ranges.keys().copied().collect();
    let found: Vec<(i32, i64)> = topic_positions::table
        .filter(topic_positions::topic.eq(topic))
        .filter(topic_positions::partition_id.eq_any(own))
        .select((topic_positions::partition_id, topic_positions::next_offset))
        .for_share()
        .load(conn)
        .await?;
    let positions: Positions = found.into_iter().collect();
    let elsewhere = ranges
        .iter()
        .filter(|(partition, offsets)| positions.get(partition) != Some(&offsets.end));
    Ok(elsewhere.map(|(partition, _)| *partition).collect())
}

/// Advances each position that is at or above the start of its range and below its end. Returns how
/// many were advanced.
async fn moved(conn: &mut Conn, topic: &str, ranges: &ReadRanges) -> QueryResult<usize> {
    if let [(partition, range)] = ranges.iter().collect::<Vec<_>>()[..] {
        let own = topic_positions::table
            .find((topic, *partition))
            .filter(topic_positions::next_offset.ge(range.start))
            .filter(topic_positions::next_offset.lt(range.end));
        return diesel::update(own)
            .set((
                topic_positions::next_offset.eq(range.end),
                topic_positions::seen_at.eq(now()),
            ))
            .execute(conn)
            .await;
    }
    let ranges: Vec<(i32, i64, i64)> = ranges
        .iter()
        .map(|(partition, offsets)| (*partition, offsets.start, offsets.end))
        .collect();
    Prepared(
        sql_query(
            "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (partition_id INT PATH '$[0]', \
                 begins BIGINT PATH '$[1]', ends BIGINT PATH '$[2]')) r \
             STRAIGHT_JOIN topic_positions p ON p.topic = ? AND p.partition_id = r.partition_id \
             SET p.next_offset = r.ends, p.seen_at = UTC_TIMESTAMP(3) \
             WHERE r.begins <= p.next_offset AND p.next_offset < r.ends",
        )
        .bind::<Text, _>(json(&ranges))
        .bind::<Text, _>(topic),
    )
    .execute(conn)
    .await
}
