//! The barrier: MySQL has everything that the topic had at a moment.
//!
//! The consumer stores its positions in the transaction of its rows. If the stored positions have
//! reached the end offsets, no unread message matters, so a pass never reads the topic. A closed
//! coupon is judged only after the longest deadline that any API announced has passed since the
//! answer of the command that closed it, and after the positions have reached the ends that were
//! read then: every claim from before the closing has a row, a dead letter, or is only in Redis.

use std::time::Duration;

use firstcome_shared::kafka::Logs;
use firstcome_shared::mysql::positions::{Positions, SecondsUnseen};
use firstcome_shared::mysql::{Db, DbError};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::context::Stores;
use crate::queries;
use crate::queries::processes::Deadlines;
use crate::topic::Topic;

/// Whether the positions have reached the ends. The positions are read between the two reads of the
/// ends: a position beyond the later end belongs to another log. A missing position counts as the
/// first offset.
pub fn is_reached(before: &Logs, positions: &Positions, after: &Logs) -> bool {
    before.iter().all(|(partition, log)| {
        let position = positions.get(partition).copied().unwrap_or(log.start);
        let is_of_log = after.get(partition).is_some_and(|log| position <= log.end);
        log.end <= position && is_of_log
    })
}

/// How far the consumer has read.
#[derive(Debug)]
pub struct ReadState {
    pub is_reached: bool,
    pub logs: Logs,
    pub positions: Positions,
    pub unseen: SecondsUnseen,
}

/// Time after which a claim without a row is overdue, if its message may wait in a partition to
/// which no consumer has attended for as long.
pub const OVERDUE: Duration = Duration::from_secs(60);

impl ReadState {
    /// Returns the offsets of which MySQL has everything.
    pub(crate) fn read(&self) -> Logs {
        let positions = self.positions.iter();
        positions
            .map(|(partition, at)| (*partition, 0..*at))
            .collect()
    }

    /// Whether MySQL still has everything of these offsets: it may have gone back since.
    pub(crate) fn has_read(&self, read: &Logs) -> bool {
        is_reached(read, &self.positions, &self.logs)
    }

    pub(crate) fn unread_messages(&self) -> i64 {
        self.logs
            .iter()
            .map(|(partition, log)| {
                let position = self.positions.get(partition).copied();
                (log.end - position.unwrap_or(log.start)).max(0)
            })
            .sum()
    }

    /// Returns the partitions that may have unread messages: those whose position is not the end of
    /// the log.
    pub(crate) fn unread_partitions(&self) -> impl Iterator<Item = i32> {
        self.logs.iter().filter_map(|(partition, log)| {
            let position = self.positions.get(partition).copied();
            (position.unwrap_or(log.start) != log.end).then_some(*partition)
        })
    }

    /// Returns how long ago the owner of a partition read it, or waited for the pace of rows:
    /// [`Duration::MAX`] if the partition has no position. If MySQL's clock was wrong, that time
    /// may be in the future: then its distance from now counts.
    pub(crate) fn unattended_for(&self, partition: i32) -> Duration {
        let seconds = self.unseen.get(&partition);
        seconds.map_or(Duration::MAX, |it| Duration::from_secs(it.unsigned_abs()))
    }

    /// Whether messages are unread in a partition to which no consumer attends.
    pub(crate) fn is_unattended(&self) -> bool {
        let mut unread = self.unread_partitions();
        unread.any(|partition| self.unattended_for(partition) > OVERDUE)
    }
}

/// Reads ends, positions, and ends again. Only a consumer resets a position outside its log.
pub async fn read_state(db: &Db, topic: &Topic) -> Result<ReadState, BarrierError> {
    let before = topic.logs().await.map_err(BarrierError::Kafka)?;
    let name = &topic.settings.topic;
    let (positions, unseen) =
        queries::processes::attended_positions(&db.of_primary(), name).await?;
    let logs = topic.logs().await.map_err(BarrierError::Kafka)?;
    Ok(ReadState {
        is_reached: is_reached(&before, &positions, &logs),
        logs,
        positions,
        unseen,
    })
}

const POLL: Duration = Duration::from_millis(100);

/// Waits until the consumer has read what the topic had at first: while claims arrive, it is always
/// some messages behind. Returns the last state after this patience, or if the process stops.
pub(crate) async fn wait(
    stores: &Stores,
    patience: Duration,
    stop: &CancellationToken,
) -> Result<ReadState, BarrierError> {
    let began = Instant::now();
    let mut ends = None;
    loop {
        let mut now = read_state(&stores.db, &stores.topic).await?;
        let first = ends.get_or_insert_with(|| now.logs.clone());
        now.is_reached |= is_reached(first, &now.positions, &now.logs);
        if now.is_reached || began.elapsed() > patience || stop.is_cancelled() {
            return Ok(now);
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Why the barrier is unknown.
#[derive(Debug, thiserror::Error)]
pub enum BarrierError {
    #[error("the topic cannot be read: {0:#}")]
    Kafka(anyhow::Error),
    #[error(transparent)]
    Mysql(#[from] DbError),
}

/// Returns the longest deadlines that an API announced within the last day, but never less than
/// `least`.
pub async fn deadlines(db: &Db, least: Deadlines) -> Result<Deadlines, DbError> {
    let announced = queries::processes::longest_deadlines(db).await?;
    Ok(Deadlines {
        publish_ms: announced.publish_ms.max(least.publish_ms),
        in_flight_ms: announced.in_flight_ms.max(least.in_flight_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn barrier_is_reached_only_by_positions_of_the_same_log() {
        let logs = |end: i64| Logs::from([(0, 10..end), (1, 0..0)]);
        for (position, before, after, expected) in [
            (Some(20), 20, 20, true),
            (Some(22), 20, 25, true),
            (Some(19), 20, 20, false),
            (None, 20, 20, false),
            (None, 10, 10, true),
            // Unread messages have expired.
            (Some(3), 20, 20, false),
            // The topic was recreated, and is shorter than what was read.
            (Some(5_000), 20, 25, false),
        ] {
            let positions: Positions = position.map(|at| (0, at)).into_iter().collect();
            let reached = is_reached(&logs(before), &positions, &logs(after));
            assert_eq!(reached, expected, "{position:?} {before} {after}");
        }
    }

    #[test]
    fn offsets_that_were_read_are_not_read_any_more_once_mysql_went_back() {
        let at = |position: Option<i64>, end: i64| ReadState {
            is_reached: true,
            logs: Logs::from([(0, 10..end), (1, 0..0)]),
            positions: position.map(|at| (0, at)).into_iter().collect(),
            unseen: SecondsUnseen::new(),
        };
        let read = at(Some(20), 20).read();
        for (position, end, expected) in [
            (Some(20), 20, true),
            (Some(20), 25, true),
            (Some(25), 25, true),
            (Some(19), 20, false),
            (None, 20, false),
            // The topic was recreated.
            (Some(20), 15, false),
        ] {
            let has_read = at(position, end).has_read(&read);
            assert_eq!(has_read, expected, "{position:?} {end}");
        }
        assert!(at(None, 10).has_read(&at(None, 10).read()));
    }

    #[test]
    fn only_unread_partitions_that_nobody_has_seen_for_a_minute_are_unattended() {
        for (position, seconds, expected) in [
            (Some(19), Some(59), false),
            (Some(19), Some(61), true),
            (Some(20), Some(3_600), false),
            (Some(5_000), Some(61), true),
            (None, None, true),
            (Some(19), Some(-3_600), true),
        ] {
            let state = ReadState {
                is_reached: false,
                logs: Logs::from([(0, 10..20), (1, 0..0)]),
                positions: position.map(|at| (0, at)).into_iter().collect(),
                unseen: seconds.map(|it| (0, it)).into_iter().collect(),
            };
            assert_eq!(state.is_unattended(), expected, "{position:?} {seconds:?}");
        }
    }
}
