//! Writes claims as rows, and those that cannot become rows as dead letters: in one transaction, or
//! in one for each drop while rows are locked.

use std::sync::Arc;

use diesel::QueryResult;
use firstcome_shared::claim::{Claim, IssuedBy};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::DropId;
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::codes::CodeKey;
use firstcome_shared::mysql::dead_letters::{self, FailedClaim};
use firstcome_shared::mysql::positions::advance;
use firstcome_shared::mysql::{Conn, Db, DbError};

use super::batch::Batch;
use super::record::Record;
use crate::rows::{WriteOutcome, write_rows};

/// The outcome of each claim, and the partitions to read again from their positions.
pub(super) type WrittenBatch = Result<(Vec<WriteOutcome>, Vec<i32>), DbError>;

/// Writes claims, and advances the positions past their messages. After `Ok`, each claim has a row
/// or a dead letter, unless a revocation or an erasure voids it. After an error, either nothing was
/// written, or everything was written and MySQL's response was lost. Writing them again is correct
/// in both cases.
pub(super) async fn write(db: &Db, topic: &str, batch: Arc<Batch>) -> WrittenBatch {
    crash_point(Point::RowsBegun);
    let key = db.code_key().await?;
    let topic = topic.to_owned();
    let writing = db.transaction("write a batch", async move |conn| {
        let outcomes = insert(conn, &batch.records, &key).await?;
        // In the transaction of the rows, so that no position passes a claim without a row or a
        // dead letter.
        let elsewhere = advance(conn, &topic, &batch.ranges).await?;
        Ok((outcomes, elsewhere))
    });
    let written = writing.await?;
    crash_point(Point::RowsCommitted);
    Ok(written)
}

/// Like [`write`], but with a separate transaction for each drop, followed by the positions. If
/// another client of MySQL has locked rows of a drop, the claims of that drop become dead letters,
/// which the reconciler issues once it can, and the other drops are written. The claims must be
/// sorted by drop.
pub(super) async fn write_by_drop(db: &Db, topic: &str, batch: Arc<Batch>) -> WrittenBatch {
    let mut outcomes = Vec::new();
    let mut failed = None;
    for records in batch.records.chunk_by(|a, b| drop_id(a) == drop_id(b)) {
        let rows = Batch {
            records: records.to_vec(),
            ..Batch::default()
        };
        match write(db, topic, Arc::new(rows)).await {
            Ok((written, _)) => outcomes.extend(written),
            Err(error) if error.is_lock_wait() => {
                let refused = WriteOutcome::Refused(DeadLetterReason::RowLocked, error.to_string());
                let locked = vec![refused; records.len()];
                let kept = letters(records, &locked);
                let keep = db.run("keep what is locked", async move |conn| {
                    dead_letters::keep(conn, &kept).await
                });
                keep.await?;
                outcomes.extend(locked);
            }
            // Continue with the other drops first. The whole batch is written again later.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(()), Err)?;
    let elsewhere = db.advance_positions(topic, batch.ranges.clone()).await?;
    Ok((outcomes, elsewhere))
}

pub(super) fn drop_id(record: &Record) -> Option<DropId> {
    record.claim.as_ref().ok().map(|claim| claim.drop_id)
}

async fn insert(
    conn: &mut Conn,
    records: &[Record],
    key: &CodeKey,
) -> QueryResult<Vec<WriteOutcome>> {
    let claims: Vec<&Claim> = records.iter().flat_map(|record| &record.claim).collect();
    let written = write_rows(conn, &claims, key, IssuedBy::Consumer).await?;
    crash_point(Point::RowsInserted);
    let mut written = written.into_iter();
    let outcomes: Vec<WriteOutcome> = records
        .iter()
        .map(|record| match &record.claim {
            Ok(_) => written.next().unwrap_or(WriteOutcome::Void),
            Err(bad) => WriteOutcome::Refused(bad.reason, bad.error.clone()),
        })
        .collect();
    let letters = letters(records, &outcomes);
    if !letters.is_empty() {
        dead_letters::keep(conn, &letters).await?;
        crash_point(Point::FallbackInserted);
    }
    Ok(outcomes)
}

/// Builds the dead letters of claims that were refused.
fn letters(records: &[Record], outcomes: &[WriteOutcome]) -> Vec<FailedClaim> {
    records
        .iter()
        .zip(outcomes)
        .filter_map(|(record, outcome)| match outcome {
            WriteOutcome::Refused(reason, error) => Some(record.letter(*reason, error)),
            WriteOutcome::Issued | WriteOutcome::Again | WriteOutcome::Void => None,
        })
        .collect()
}

#[cfg(test)]
mod tests;
