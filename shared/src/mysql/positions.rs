//! Stores how far the topic was read: one position per partition, which a consumer advances in the
//! transaction that inserts the rows.
//!
//! A position advances only if the range that was read starts at or below it. A consumer that
//! started above it, for whatever reason, therefore cannot mark unread messages as read: its rows
//! are written, and the position stays. Reading a range twice does not move the position back.

use std::collections::BTreeMap;
use std::ops::Range;

use diesel::QueryResult;

use super::{Conn, Db, DbResult, Sql, list};
use crate::sql;

/// The offset after the last message with a row or dead letter, by partition.
pub type Positions = BTreeMap<i32, i64>;

/// How many seconds ago the owner of a partition read it, or waited for the pace of rows.
pub type SecondsUnseen = BTreeMap<i32, i64>;

/// Offsets whose messages have rows or dead letters, by partition.
pub type ReadRanges = BTreeMap<i32, Range<i64>>;

/// Name in `reconciler_state` of the time at which a coupon was last seen waiting for unread
/// messages.
const UNPACED: &str = "rows_unpaced";

/// How long a suspension of the pace lasts. Longer than the urgent lane pauses between two
/// attempts.
const UNPACED_SECONDS: u32 = 10;

fn read(topic: &str) -> Sql {
    let read = "SELECT partition_id, next_offset FROM topic_positions WHERE topic = ?";
    sql!(read, topic)
}

impl Db {
    /// Reads the positions of a topic.
    pub async fn topic_positions(&self, topic: &str) -> DbResult<Positions> {
        self.all("read positions", read(topic)).await
    }

    /// Reads the positions of a topic, and how many seconds ago the owner of each partition read it
    /// or waited for the pace of rows.
    pub async fn attended_positions(&self, topic: &str) -> DbResult<(Positions, SecondsUnseen)> {
        let read = "SELECT partition_id, next_offset, TIMESTAMPDIFF(SECOND, seen_at, UTC_TIMESTAMP(3)) \
                    FROM topic_positions WHERE topic = ?";
        let rows: Vec<(i32, i64, i64)> = self.all("read positions", sql!(read, topic)).await?;
        let mut positions = Positions::new();
        let mut unseen = SecondsUnseen::new();
        for (partition, offset, seconds) in rows {
            positions.insert(partition, offset);
            unseen.insert(partition, seconds);
        }
        Ok((positions, unseen))
    }

    /// Records that the owner of these partitions still reads them, but waits for the pace of rows.
    pub async fn touch_positions(&self, topic: &str, partitions: Vec<i32>) -> DbResult<()> {
        let touch = "UPDATE topic_positions SET seen_at = UTC_TIMESTAMP(3) \
                     WHERE topic = ? AND partition_id IN (?)";
        self.execute("touch positions", sql!(touch, topic, list(partitions)))
            .await
            .map(|_| ())
    }

    /// Suspends the pace of rows for ten seconds, for all consumers.
    pub async fn suspend_pace(&self) -> DbResult<()> {
        self.set_state(UNPACED, String::new()).await
    }

    /// Whether the pace of rows is suspended. A time that is more than ten seconds ahead does not
    /// count: it was stored before MySQL's clock was set back.
    pub async fn is_pace_suspended(&self) -> DbResult<bool> {
        let recent = "SELECT COUNT(*) FROM reconciler_state WHERE name = ? \
                      AND updated_at > UTC_TIMESTAMP(3) - INTERVAL ? SECOND \
                      AND updated_at <= UTC_TIMESTAMP(3) + INTERVAL ? SECOND";
        let what = "read the suspension of the pace";
        let recent = sql!(recent, UNPACED, UNPACED_SECONDS, UNPACED_SECONDS);
        let found: Option<i64> = self.first(what, recent).await?;
        Ok(found.unwrap_or(0) > 0)
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
        let begin = "INSERT INTO topic_positions (topic, partition_id, next_offset) VALUES (?, ?, ?) \
                     ON DUPLICATE KEY UPDATE seen_at = IF(next_offset = ?, UTC_TIMESTAMP(3), seen_at), \
                     next_offset = IF(next_offset = ?, VALUES(next_offset), next_offset)";
        let known = seen.unwrap_or(first);
        let begin = sql!(begin, topic, partition, first, known, known);
        let what = "begin a partition at its first message";
        self.execute(what, begin).await.map(|_| ())
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
    let own = list(ranges.keys().copied());
    let locked = read(topic).and(sql!(" AND partition_id IN (?) FOR SHARE", own));
    let positions: Positions = locked.all(conn).await?;
    let elsewhere = ranges
        .iter()
        .filter(|(partition, offsets)| positions.get(partition) != Some(&offsets.end));
    Ok(elsewhere.map(|(partition, _)| *partition).collect())
}

/// Advances each position that is at or above the start of its range and below its end. Returns how
/// many were advanced. `STRAIGHT_JOIN` ensures that only these partitions' rows are locked, in the
/// order of the ranges.
async fn moved(conn: &mut Conn, topic: &str, ranges: &ReadRanges) -> QueryResult<usize> {
    if let [(partition, range)] = ranges.iter().collect::<Vec<_>>()[..] {
        // Most batches contain one partition, and this text stays prepared.
        let update = "UPDATE topic_positions SET next_offset = ?, seen_at = UTC_TIMESTAMP(3) \
                      WHERE topic = ? AND partition_id = ? AND ? <= next_offset AND next_offset < ?";
        return sql!(update, range.end, topic, *partition, range.start, range.end)
            .run(conn)
            .await;
    }
    let rows: Vec<String> = ranges
        .iter()
        .map(|(partition, offsets): (&i32, &Range<i64>)| {
            format!("ROW({partition}, {}, {})", offsets.start, offsets.end)
        })
        .collect();
    let update = format!(
        "UPDATE (VALUES {}) AS r (partition_id, begins, ends) \
         STRAIGHT_JOIN topic_positions AS p ON p.topic = ? AND p.partition_id = r.partition_id \
         SET p.next_offset = r.ends, p.seen_at = UTC_TIMESTAMP(3) \
         WHERE r.begins <= p.next_offset AND p.next_offset < r.ends",
        rows.join(", ")
    );
    sql!(update, topic).run(conn).await
}
