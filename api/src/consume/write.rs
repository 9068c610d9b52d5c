//! Writes claims in one transaction: rows, and dead letters for claims that can't become rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use diesel::QueryResult;
use diesel_async::AsyncConnection as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::codes::CodeKey;
use firstcome_shared::mysql::dead_letters::{self, FailedClaim};
use firstcome_shared::mysql::issued::IssuedBy;
use firstcome_shared::mysql::positions::{ReadRange, advance};
use firstcome_shared::mysql::{Conn, Db, DbError};

use super::message::Message;
use crate::rows::{Outcome, write_rows};

/// A claim of a message.
#[derive(Clone)]
pub(super) struct Record {
    pub(super) message: Arc<Message>,
    pub(super) part: usize,
}

/// Claims to write, and the positions to advance past their messages.
pub(super) struct Batch {
    pub(super) topic: String,
    pub(super) ranges: Vec<ReadRange>,
    pub(super) records: Vec<Record>,
}

/// The result of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) issued: u64,
    /// Claims that were published or read before, and whose rows exist.
    pub(super) again: u64,
    /// Claims that were given back or revoked. They get neither rows nor dead letters.
    pub(super) void: u64,
    /// Dead letters, by reason.
    pub(super) refused: BTreeMap<&'static str, u64>,
    /// Partitions to read again from their positions.
    pub(super) elsewhere: Vec<i32>,
}

/// The reason of a dead letter whose drop is locked.
pub(super) const ROW_LOCKED: &str = "row_locked";

/// Writes a batch. After `Ok`, each of its claims has a row or a dead letter. After an error, either
/// nothing was written, or everything was written and MySQL's response was lost. Writing the batch
/// again is correct in both cases.
pub(super) async fn write(db: &Db, batch: Batch) -> Result<Written, DbError> {
    crash_point(Point::RowsBegun);
    let key = db.code_key().await?;
    let written = db
        .run("write a batch", async move |conn| {
            conn.transaction(async |conn| {
                let mut written = write_in(conn, &batch.records, &key).await?;
                // Last, so that no position passes a claim without a row.
                written.elsewhere = advance(conn, &batch.topic, &batch.ranges).await?;
                Ok(written)
            })
            .await
        })
        .await?;
    crash_point(Point::RowsCommitted);
    Ok(written)
}

/// Like [`write`], but with a separate transaction for each drop, followed by the positions. A drop
/// whose rows another client of MySQL has locked does not delay other drops: its claims become dead
/// letters, and the reconciler issues them once it can.
pub(super) async fn write_by_drop(db: &Db, batch: Batch) -> Result<Written, DbError> {
    let mut by_drop: BTreeMap<Option<DropId>, Vec<Record>> = BTreeMap::new();
    for record in batch.records {
        let claim = record.message.claims[record.part].as_ref();
        by_drop
            .entry(claim.ok().map(|claim| claim.drop_id))
            .or_default()
            .push(record);
    }
    let mut done = Written::default();
    let mut failed = None;
    for records in by_drop.into_values() {
        let topic = batch.topic.clone();
        let rows = Batch {
            topic,
            ranges: Vec::new(),
            records: records.clone(),
        };
        let written = match write(db, rows).await {
            Err(error) if error.is_lock_wait() => keep_locked(db, records, error.to_string()).await,
            written => written,
        };
        match written {
            Ok(written) => done.add(written),
            // Continue with the other drops first. The whole batch is written again later.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    if let Some(error) = failed {
        return Err(error);
    }
    done.elsewhere = db.advance_positions(&batch.topic, batch.ranges).await?;
    Ok(done)
}

async fn keep_locked(db: &Db, records: Vec<Record>, error: String) -> Result<Written, DbError> {
    db.run("keep what is locked", async move |conn| {
        let mut written = Written::default();
        let refused = records
            .iter()
            .map(|record| written.refused(record, ROW_LOCKED, &error));
        let letters: Vec<FailedClaim> = refused.collect();
        conn.transaction(async |conn| dead_letters::keep(conn, &letters).await)
            .await?;
        Ok(written)
    })
    .await
}

impl Written {
    fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.again += other.again;
        self.void += other.void;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
    }

    /// Counts a dead letter, and builds it.
    fn refused(&mut self, record: &Record, reason: &'static str, error: &str) -> FailedClaim {
        *self.refused.entry(reason).or_default() += 1;
        record.message.letter(record.part, reason, error)
    }
}

async fn write_in(conn: &mut Conn, records: &[Record], key: &CodeKey) -> QueryResult<Written> {
    let claim = |record: &Record| record.message.claim(record.part);
    let claims: Vec<Claim> = records.iter().filter_map(claim).collect();
    let mut outcomes = write_rows(conn, &claims, key, IssuedBy::Consumer)
        .await?
        .into_iter();
    crash_point(Point::RowsInserted);
    let mut written = Written::default();
    let mut letters = Vec::new();
    for record in records {
        let outcome = match &record.message.claims[record.part] {
            Ok(_) => outcomes.next(),
            Err(bad) => Some(Outcome::Refused(bad.reason, bad.error.clone())),
        };
        match outcome {
            Some(Outcome::Issued) => written.issued += 1,
            Some(Outcome::Again) => written.again += 1,
            Some(Outcome::Void) | None => written.void += 1,
            Some(Outcome::Refused(reason, error)) => {
                letters.push(written.refused(record, reason, &error));
            }
        }
    }
    if !letters.is_empty() {
        dead_letters::keep(conn, &letters).await?;
        crash_point(Point::BackupInserted);
    }
    Ok(written)
}

#[cfg(test)]
mod tests;
