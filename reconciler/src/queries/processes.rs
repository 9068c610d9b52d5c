//! What other processes have announced: deadlines, positions, the pass that runs.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use firstcome_shared::columns::{MysqlTime, now, seconds_from_now};
use firstcome_shared::mysql::positions::{Positions, SecondsUnseen};
use firstcome_shared::mysql::{Db, DbResult};
use firstcome_shared::schema::{processes, topic_positions};

const DAY: i64 = 86_400;

/// The longest deadlines of all processes of the last day, in milliseconds: claims of a process
/// that died may still be in flight.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deadlines {
    pub publish_ms: i64,
    /// Time until a second store has the claim.
    pub in_flight_ms: i64,
}

/// The deadlines of one process.
#[derive(Queryable, Selectable)]
#[diesel(table_name = processes)]
struct ProcessDeadlines {
    publish_deadline_ms: i64,
    fallback_deadline_ms: i64,
}

/// Reads the longest deadlines of the API's processes.
pub(crate) async fn longest_deadlines(db: &Db) -> DbResult<Deadlines> {
    let all = processes::table
        .filter(processes::seen_at.gt(seconds_from_now(-DAY)))
        .select(ProcessDeadlines::as_select())
        .distinct();
    let all: Vec<ProcessDeadlines> = db.rows("read deadlines", all).await?;
    let publish = all.iter().map(|own| own.publish_deadline_ms);
    let in_flight = all
        .iter()
        .map(|own| own.publish_deadline_ms + own.fallback_deadline_ms);
    Ok(Deadlines {
        publish_ms: publish.max().unwrap_or(0),
        in_flight_ms: in_flight.max().unwrap_or(0),
    })
}

/// A stored position, with the two times that tell how long its owner has been silent.
#[derive(Queryable, Selectable)]
#[diesel(table_name = topic_positions)]
struct AttendedPosition {
    partition_id: i32,
    next_offset: i64,
    seen_at: DateTime<Utc>,
    #[diesel(select_expression = now(), select_expression_type = MysqlTime)]
    now: DateTime<Utc>,
}

/// Reads the positions of a topic, and how many seconds ago the owner of each partition read it
/// or waited for the pace of rows.
pub(crate) async fn attended_positions(
    db: &Db,
    topic: &str,
) -> DbResult<(Positions, SecondsUnseen)> {
    let rows = topic_positions::table
        .filter(topic_positions::topic.eq(topic.to_owned()))
        .select(AttendedPosition::as_select());
    let rows: Vec<AttendedPosition> = db.rows("read positions", rows).await?;
    let mut positions = Positions::new();
    let mut unseen = SecondsUnseen::new();
    for row in rows {
        positions.insert(row.partition_id, row.next_offset);
        unseen.insert(row.partition_id, (row.now - row.seen_at).num_seconds());
    }
    Ok((positions, unseen))
}
