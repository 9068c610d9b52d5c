//! Stores how far the topic was read: one position per partition, which a consumer advances in the
//! transaction that inserts the rows.
//!
//! A position advances only if the range that was read starts at or below it. A consumer that
//! started above it, for whatever reason, therefore cannot mark unread messages as read: its rows
//! are written, the position stays, and a [`Gap`](PositionFault::Gap) is recorded. Reading a range
//! twice does not move the position back.

use std::ops::Range;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Nullable, Text};
use diesel::{QueryResult, sql_query};
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::{Conn, Db, DbError};
use crate::kafka::{Beginning, MessagePrint, PositionFault, StoredPosition, StoredPositions};

/// Offsets of a partition whose messages have rows or dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRange {
    pub partition: i32,
    pub offsets: Range<i64>,
    /// The message at the last offset, or `None` if it cannot be read or the offset holds no
    /// message.
    pub last: Option<MessagePrint>,
}

#[derive(QueryableByName)]
struct Row {
    #[diesel(sql_type = Integer)]
    partition_id: i32,
    #[diesel(sql_type = BigInt)]
    next_offset: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    before_print: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    recent_fault: Option<String>,
    #[diesel(sql_type = Nullable<BigInt>)]
    fault_offset: Option<i64>,
}

impl Row {
    fn position(&self) -> StoredPosition {
        let fault = self.recent_fault.as_ref();
        let fault: Option<PositionFault> = fault.and_then(|text| text.parse().ok());
        StoredPosition {
            next: self.next_offset,
            before: self.before_print.map(MessagePrint),
            fault: fault.zip(self.fault_offset),
        }
    }
}

/// Faults are reported for an hour, so that a pass sees them although consumers continue at once.
const POSITIONS: &str = "SELECT partition_id, next_offset, before_print, fault_offset, \
     IF(fault_at > UTC_TIMESTAMP(3) - INTERVAL 1 HOUR, fault, NULL) AS recent_fault \
     FROM topic_positions WHERE topic = ?";

/// Reads the positions of a topic. If `locked` is given, reads and locks only the positions of its
/// partitions.
async fn load(
    conn: &mut Conn,
    topic: &str,
    locked: Option<&[ReadRange]>,
) -> QueryResult<StoredPositions> {
    let filter = locked.map_or_else(String::new, |ranges| {
        let own: Vec<String> = ranges.iter().map(|it| it.partition.to_string()).collect();
        format!(" AND partition_id IN ({}) FOR SHARE", own.join(", "))
    });
    let rows: Vec<Row> = sql_query(format!("{POSITIONS}{filter}"))
        .bind::<Text, _>(topic)
        .load(conn)
        .await?;
    let position = |row: Row| (row.partition_id, row.position());
    Ok(rows.into_iter().map(position).collect())
}

impl Db {
    /// Reads the positions of a topic.
    pub async fn topic_positions(&self, topic: &str) -> Result<StoredPositions, DbError> {
        let topic = topic.to_owned();
        self.run("read positions", async move |conn| {
            load(conn, &topic, None).await
        })
        .await
    }

    /// Stores where reading these partitions begins: inserts missing positions, and records faults.
    pub async fn begin_reading(
        &self,
        topic: &str,
        beginnings: Vec<(i32, Beginning)>,
    ) -> Result<(), DbError> {
        let topic = topic.to_owned();
        self.run("write where reading begins", async move |conn| {
            for (partition, beginning) in &beginnings {
                begin(conn, &topic, *partition, beginning).await?;
            }
            Ok(())
        })
        .await
    }

    /// Advances positions in a transaction that inserts no rows; see [`advance`].
    pub async fn advance_positions(
        &self,
        topic: &str,
        ranges: Vec<ReadRange>,
    ) -> Result<Vec<i32>, DbError> {
        let topic = topic.to_owned();
        self.run("move positions", async move |conn| {
            conn.transaction(async |conn| advance(conn, &topic, &ranges).await)
                .await
        })
        .await
    }
}

/// Stores where reading a partition begins. Moving a position back is always safe, because messages
/// are only read again.
async fn begin(
    conn: &mut Conn,
    topic: &str,
    partition: i32,
    beginning: &Beginning,
) -> QueryResult<usize> {
    match beginning.fault {
        None => {
            sql_query(
                "INSERT IGNORE INTO topic_positions (topic, partition_id, next_offset) VALUES (?, ?, ?)",
            )
            .bind::<Text, _>(topic)
            .bind::<Integer, _>(partition)
            .bind::<BigInt, _>(beginning.from)
            .execute(conn)
            .await
        }
        Some((PositionFault::Gap, offset)) => note_gap(conn, topic, partition, offset).await,
        Some((fault, offset)) => {
            sql_query(
                "UPDATE topic_positions SET next_offset = ?, before_print = NULL, fault = ?, \
                 fault_at = UTC_TIMESTAMP(3), fault_offset = ? WHERE topic = ? AND partition_id = ?",
            )
            .bind::<BigInt, _>(beginning.from)
            .bind::<Text, _>(fault.as_str())
            .bind::<BigInt, _>(offset)
            .bind::<Text, _>(topic)
            .bind::<Integer, _>(partition)
            .execute(conn)
            .await
        }
    }
}

/// Advances positions past the ranges that were read, in the transaction of their rows and after
/// inserting them. Returns the partitions that the consumer must read again from their positions:
/// those with a gap, and those whose position somebody has moved beyond the range.
pub async fn advance(conn: &mut Conn, topic: &str, ranges: &[ReadRange]) -> QueryResult<Vec<i32>> {
    if ranges.is_empty() || moved(conn, topic, ranges).await? == ranges.len() {
        return Ok(Vec::new());
    }
    // Lock only these partitions: consumers that lock each other's rows would deadlock.
    let positions = load(conn, topic, Some(ranges)).await?;
    let gaps = ranges
        .iter()
        .filter(|range| is_gap(positions.get(&range.partition), range));
    let mut partitions = Vec::new();
    for range in gaps {
        note_gap(conn, topic, range.partition, range.offsets.start).await?;
        partitions.push(range.partition);
    }
    let ahead = ranges
        .iter()
        .filter(|range| is_ahead(positions.get(&range.partition), range));
    partitions.extend(ahead.map(|range| range.partition));
    Ok(partitions)
}

/// Advances each position that is at or above the start of its range and below its end. Returns how
/// many were advanced. `STRAIGHT_JOIN` ensures that only these partitions' rows are locked, in the
/// order of the ranges.
async fn moved(conn: &mut Conn, topic: &str, ranges: &[ReadRange]) -> QueryResult<usize> {
    let rows: Vec<String> = ranges
        .iter()
        .map(|range| {
            let print = range.last.unwrap_or(MessagePrint::UNKNOWN).0;
            let Range { start, end } = range.offsets;
            format!("ROW({}, {start}, {end}, {print})", range.partition)
        })
        .collect();
    sql_query(format!(
        "UPDATE (VALUES {}) AS r (partition_id, begins, ends, print) \
         STRAIGHT_JOIN topic_positions AS p ON p.topic = ? AND p.partition_id = r.partition_id \
         SET p.next_offset = r.ends, p.before_print = r.print \
         WHERE r.begins <= p.next_offset AND p.next_offset < r.ends",
        rows.join(", ")
    ))
    .bind::<Text, _>(topic)
    .execute(conn)
    .await
}

/// Whether there are unread messages between the position and the range. A missing position means
/// that MySQL was reset to a state before the partition was first read.
fn is_gap(position: Option<&StoredPosition>, range: &ReadRange) -> bool {
    position.is_none_or(|position| range.offsets.start > position.next)
}

/// Whether the position is beyond the range.
fn is_ahead(position: Option<&StoredPosition>, range: &ReadRange) -> bool {
    position.is_some_and(|position| range.offsets.end < position.next)
}

/// Records that a partition was read up to an offset above its position.
async fn note_gap(conn: &mut Conn, topic: &str, partition: i32, offset: i64) -> QueryResult<usize> {
    sql_query(
        "INSERT INTO topic_positions (topic, partition_id, next_offset, fault, fault_at, fault_offset) \
         VALUES (?, ?, 0, ?, UTC_TIMESTAMP(3), ?) ON DUPLICATE KEY UPDATE \
         fault = VALUES(fault), fault_at = VALUES(fault_at), fault_offset = VALUES(fault_offset)",
    )
    .bind::<Text, _>(topic)
    .bind::<Integer, _>(partition)
    .bind::<Text, _>(PositionFault::Gap.as_str())
    .bind::<BigInt, _>(offset)
    .execute(conn)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_above_the_position_leaves_a_gap_and_a_range_below_is_read_again() {
        let [advances, gap, ahead] = [(false, false), (true, false), (false, true)];
        for (position, read, expected) in [
            (Some(5), 5..9, advances),
            (Some(5), 2..9, advances),
            (Some(5), 2..4, ahead),
            (Some(5), 5..5, advances),
            (Some(5), 6..9, gap),
            (Some(5), 6..6, gap),
            (None, 0..4, gap),
        ] {
            let stored = position.map(|next| StoredPosition {
                next,
                before: None,
                fault: None,
            });
            let range = ReadRange {
                partition: 0,
                offsets: read.clone(),
                last: None,
            };
            assert_eq!(
                (
                    is_gap(stored.as_ref(), &range),
                    is_ahead(stored.as_ref(), &range)
                ),
                expected,
                "{position:?} {read:?}"
            );
        }
    }
}
