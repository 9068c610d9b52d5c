//! Writes a batch in one transaction: rows, and dead letters for claims that can't become rows.

mod classify;
pub(crate) mod pacing;
pub(crate) mod repeats;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use diesel::QueryResult;
use diesel_async::AsyncConnection as _;
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::domain::{CouponId, DropId, Slot};
use firstcome_shared::mysql::catalogue::{DropRules, rules_of_drops};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::codes::CodeKey;
use firstcome_shared::mysql::dead_letters::{self, FailedClaim};
use firstcome_shared::mysql::issued::{IssuedBy, IssuedRow, insert, of_people, on_slots};
use firstcome_shared::mysql::positions::{ReadRange, advance};
use firstcome_shared::mysql::void::void_among;
use firstcome_shared::mysql::{Conn, Db, DbError, Refusal, refusal};
use firstcome_shared::quoted::without_values;

use self::classify::{ClaimVerdict, classify};
use crate::consume::read::record::Record;

/// The result of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) issued: u64,
    /// Claims that were published or read before, and whose rows exist.
    pub(crate) again: u64,
    /// Claims that were given back or revoked. They get neither rows nor dead letters.
    pub(crate) revoked: u64,
    /// Dead letters, by reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// For messages with exported traces: why they became dead letters, by partition and offset.
    pub(crate) refused_traces: BTreeMap<(i32, i64), &'static str>,
    /// Partitions with unread messages between their positions and this batch.
    pub(crate) gaps: Vec<i32>,
}

/// Messages to write, and the positions to advance past them.
pub(crate) struct Batch {
    pub(crate) topic: String,
    pub(crate) ranges: Vec<ReadRange>,
    pub(crate) records: Vec<Arc<Record>>,
}

impl Written {
    fn add(&mut self, other: Self) {
        self.issued += other.issued;
        self.again += other.again;
        self.revoked += other.revoked;
        for (reason, count) in other.refused {
            *self.refused.entry(reason).or_default() += count;
        }
        self.refused_traces.extend(other.refused_traces);
    }
}

/// The reason of a dead letter whose drop is locked.
pub(crate) const ROW_LOCKED: &str = "row_locked";

/// Writes a batch. After `Ok`, each of its messages has a row or a dead letter. After an error,
/// either nothing was written, or everything was written and MySQL's response was lost. Writing the
/// batch again is correct in both cases.
pub(crate) async fn write(db: &Db, batch: Batch) -> Result<Written, DbError> {
    crash_point(Point::RowsBegun);
    let key = db.code_key().await?;
    let written = db
        .run("write a batch", async move |conn| {
            let Batch {
                topic,
                ranges,
                records,
            } = &batch;
            conn.transaction(async |conn| {
                let mut written = write_in(conn, records, &key).await?;
                written.gaps = advance(conn, topic, ranges).await?;
                Ok(written)
            })
            .await
        })
        .await?;
    crash_point(Point::RowsCommitted);
    Ok(written)
}

/// Like [`write`], but with a separate transaction for each drop, followed by the positions. A drop
/// whose rows another client of MySQL has locked does not delay other drops: its messages become
/// dead letters, and the reconciler issues them once it can.
pub(crate) async fn write_by_drop(db: &Db, batch: Batch) -> Result<Written, DbError> {
    let mut by_drop: BTreeMap<Option<DropId>, Vec<Arc<Record>>> = BTreeMap::new();
    for record in batch.records {
        by_drop
            .entry(record.claim.as_ref().ok().map(|claim| claim.drop_id))
            .or_default()
            .push(record);
    }
    let mut done = Written::default();
    let mut failed = None;
    for of_drop in by_drop.into_values() {
        let rows = Batch {
            topic: batch.topic.clone(),
            ranges: Vec::new(),
            records: of_drop.clone(),
        };
        let written = match write(db, rows).await {
            Err(error) if error.is_lock_wait() => keep_locked(db, of_drop, error.to_string()).await,
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
    done.gaps = db.advance_positions(&batch.topic, batch.ranges).await?;
    Ok(done)
}

async fn keep_locked(db: &Db, batch: Vec<Arc<Record>>, error: String) -> Result<Written, DbError> {
    let key = db.code_key().await?;
    db.run("keep what is locked", async move |conn| {
        let mut write = BatchWrite {
            key: &key,
            done: Written::default(),
            failed: Vec::new(),
        };
        for record in &batch {
            write.refuse(ROW_LOCKED, record, &error);
        }
        conn.transaction(async |conn| dead_letters::keep(conn, &write.failed).await)
            .await?;
        Ok(write.done)
    })
    .await
}

async fn write_in(conn: &mut Conn, batch: &[Arc<Record>], key: &CodeKey) -> QueryResult<Written> {
    let mut write = BatchWrite {
        key,
        done: Written::default(),
        failed: Vec::new(),
    };
    let mut claims = Vec::with_capacity(batch.len());
    for record in batch {
        match &record.claim {
            Ok(claim) => claims.push((record.as_ref(), claim)),
            Err(undecodable) => write.refuse(undecodable.reason, record, &undecodable.error),
        }
    }
    // In the common case, one statement inserts all rows.
    match write.insert(conn, &claims).await {
        Ok(()) => {}
        Err(error) if refusal(&error).is_some() => write.insert_accepted(conn, &claims).await?,
        Err(error) => return Err(error),
    }
    crash_point(Point::RowsInserted);
    if !write.failed.is_empty() {
        dead_letters::keep(conn, &write.failed).await?;
        crash_point(Point::BackupInserted);
    }
    Ok(write.done)
}

type Pair<'a> = (&'a Record, &'a Claim);

struct BatchWrite<'k> {
    key: &'k CodeKey,
    done: Written,
    failed: Vec<FailedClaim>,
}

impl BatchWrite<'_> {
    /// Inserts in the order of the primary key, so that two consumers that write the same rows
    /// wait for each other instead of deadlocking.
    async fn insert(&mut self, conn: &mut Conn, claims: &[Pair<'_>]) -> QueryResult<()> {
        let mut sorted: Vec<Claim> = claims.iter().map(|(_, claim)| (*claim).clone()).collect();
        sorted.sort_unstable_by_key(|claim| (claim.drop_id, claim.slot));
        let inserted = insert(conn, &sorted, self.key, IssuedBy::Consumer).await?;
        for (drop, slot, fault) in &inserted.faults {
            let is_it = |(_, claim): &&Pair<'_>| (claim.drop_id, claim.slot) == (*drop, *slot);
            if let Some((record, _)) = claims.iter().find(is_it) {
                self.refuse(fault.reason(), record, fault.explanation());
            }
        }
        self.done.issued += inserted.rows as u64;
        self.done.revoked += (claims.len() - inserted.rows - inserted.faults.len()) as u64;
        Ok(())
    }

    fn refuse(&mut self, reason: &'static str, record: &Record, error: &str) {
        *self.done.refused.entry(reason).or_default() += 1;
        if record.trace.is_some_and(|trace| trace.sampled) {
            self.done
                .refused_traces
                .insert((record.source.partition, record.source.offset), reason);
        }
        self.failed.push(record.failed(reason, error));
    }

    /// Classifies every claim and inserts the accepted ones with one statement. The refused
    /// statement left the transaction unchanged.
    async fn insert_accepted(&mut self, conn: &mut Conn, claims: &[Pair<'_>]) -> QueryResult<()> {
        let accepted = self.accept(conn, claims).await?;
        match self.insert(conn, &accepted).await {
            Ok(()) => {}
            // Another process has written in the meantime.
            Err(error) if refusal(&error).is_some() => {
                for pair in accepted {
                    self.write_one(conn, pair).await?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Returns the claims to insert as rows. Counts the others, and turns refused ones into dead
    /// letters.
    async fn accept<'a>(
        &mut self,
        conn: &mut Conn,
        claims: &[Pair<'a>],
    ) -> QueryResult<Vec<Pair<'a>>> {
        let claims = &self.leave_out_void(conn, claims).await?[..];
        let existing = Existing::read(conn, claims).await?;
        let bare: Vec<&Claim> = claims.iter().map(|(_, claim)| *claim).collect();
        let mut accepted = Vec::with_capacity(claims.len());
        for (pair, verdict) in claims
            .iter()
            .zip(classify(&bare, &existing.rows, &existing.rules))
        {
            match verdict {
                ClaimVerdict::Issue => accepted.push(*pair),
                ClaimVerdict::AlreadyIssued => self.done.again += 1,
                ClaimVerdict::Refused { reason, error } => self.refuse(reason, pair.0, &error),
            }
        }
        Ok(accepted)
    }

    async fn leave_out_void<'a>(
        &mut self,
        conn: &mut Conn,
        claims: &[Pair<'a>],
    ) -> QueryResult<Vec<Pair<'a>>> {
        let bare: Vec<&Claim> = claims.iter().map(|(_, claim)| *claim).collect();
        let void = void_among(conn, &bare).await?;
        self.done.revoked += void.len() as u64;
        let is_valid = |(_, claim): &&Pair<'a>| !void.iter().any(|one| std::ptr::eq(*one, *claim));
        Ok(claims.iter().filter(is_valid).copied().collect())
    }

    async fn write_one(&mut self, conn: &mut Conn, pair: Pair<'_>) -> QueryResult<()> {
        let mut last_error = None;
        for _ in 0..ATTEMPTS {
            let Err(error) = self.insert(conn, &[pair]).await else {
                return Ok(());
            };
            let Some(refusal) = refusal(&error) else {
                return Err(error);
            };
            // Compare with the current rows and rules, one of which has changed.
            if refusal != Refusal::BadData && self.accept(conn, &[pair]).await?.is_empty() {
                return Ok(());
            }
            last_error = Some((refusal, without_values(&error)));
            if refusal == Refusal::BadData {
                break;
            }
        }
        if let Some((refusal, error)) = last_error {
            self.refuse(reason(refusal), pair.0, &error);
        }
        Ok(())
    }
}

/// Maximum number of attempts for a single claim.
const ATTEMPTS: u32 = 5;

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownDrop => "unknown_drop",
        Refusal::SlotOutOfRange => "slot_out_of_range",
        Refusal::Duplicate | Refusal::BadData => "bad_data",
    }
}

/// The existing rows on the same slots and of the same users, and the rules of their drops.
struct Existing {
    rows: Vec<IssuedRow>,
    rules: HashMap<DropId, DropRules>,
}

impl Existing {
    /// Maximum number of values in one query's list. A full batch needs one list.
    const CHUNK: usize = 1_000;

    async fn read(conn: &mut Conn, claims: &[Pair<'_>]) -> QueryResult<Self> {
        let mut slots: BTreeMap<DropId, Vec<Slot>> = BTreeMap::new();
        let mut people: BTreeMap<CouponId, Vec<&str>> = BTreeMap::new();
        for (_, claim) in claims {
            slots.entry(claim.drop_id).or_default().push(claim.slot);
            people
                .entry(claim.coupon_id)
                .or_default()
                .push(claim.user_id.as_str());
        }
        let mut rows = Vec::new();
        for (drop, slots) in &slots {
            for slots in slots.chunks(Self::CHUNK) {
                rows.extend(on_slots(conn, *drop, slots).await?);
            }
        }
        for (coupon, people) in &people {
            for people in people.chunks(Self::CHUNK) {
                rows.extend(of_people(conn, *coupon, people).await?);
            }
        }
        let drops: Vec<DropId> = slots.into_keys().collect();
        let mut rules = HashMap::with_capacity(drops.len());
        for drops in drops.chunks(Self::CHUNK) {
            rules.extend(rules_of_drops(conn, drops).await?);
        }
        Ok(Self { rows, rules })
    }
}

#[cfg(test)]
mod tests;
