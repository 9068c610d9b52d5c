//! Writes a batch in one transaction: rows, and dead letters for claims that can't become rows.

mod classify;
pub(crate) mod pacing;

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
use firstcome_shared::mysql::slot_limits::SlotLimits;
use firstcome_shared::mysql::void::void_among;
use firstcome_shared::mysql::{Conn, Db, DbError, Refusal, refusal};

use self::classify::{ClaimVerdict, classify};
use crate::consume::read::record::Record;

/// The result of a batch.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Written {
    pub(crate) issued: u64,
    /// Messages read again: their rows existed.
    pub(crate) again: u64,
    /// Claims that were given back or revoked: neither rows nor dead letters.
    pub(crate) revoked: u64,
    /// Dead letters, by reason.
    pub(crate) refused: BTreeMap<&'static str, u64>,
    /// Why messages of traces that are exported became dead letters, by partition and offset.
    pub(crate) refused_traces: BTreeMap<(i32, i64), &'static str>,
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

/// Why a message whose drop is locked became a dead letter.
pub(crate) const ROW_LOCKED: &str = "row_locked";

/// Writes a batch. After `Ok` each of its messages has a row or a dead letter. After an error
/// nothing is written, or everything is and MySQL's answer was lost; writing the batch again is
/// right in both cases.
pub(crate) async fn write(db: &Db, batch: Vec<Arc<Record>>) -> Result<Written, DbError> {
    crash_point(Point::RowsBegun);
    let key = db.code_key().await?;
    let written = db
        .run("write a batch", async move |conn| {
            let claims: Vec<&Claim> = batch.iter().filter_map(|record| record.claim.as_ref().ok()).collect();
            let limits = SlotLimits::read(conn, &claims).await?;
            conn.transaction(async |conn| write_in(conn, &batch, &limits, &key).await).await
        })
        .await?;
    crash_point(Point::RowsCommitted);
    Ok(written)
}

/// [`write`], each drop in a transaction of its own. A drop of which another client of MySQL has
/// rows locked keeps no other drop back: its messages become dead letters, and the reconciler
/// issues them once it can.
pub(crate) async fn write_by_drop(db: &Db, batch: Vec<Arc<Record>>) -> Result<Written, DbError> {
    let mut by_drop: BTreeMap<Option<DropId>, Vec<Arc<Record>>> = BTreeMap::new();
    for record in batch {
        by_drop.entry(record.claim.as_ref().ok().map(|claim| claim.drop_id)).or_default().push(record);
    }
    let (mut done, mut failed) = (Written::default(), None);
    for of_drop in by_drop.into_values() {
        let written = match write(db, of_drop.clone()).await {
            Err(error) if error.is_lock_wait() => keep_locked(db, of_drop, error.to_string()).await,
            written => written,
        };
        match written {
            Ok(written) => done.add(written),
            // The others first: the whole batch is written again.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(done), Err)
}

async fn keep_locked(db: &Db, batch: Vec<Arc<Record>>, error: String) -> Result<Written, DbError> {
    let key = db.code_key().await?;
    db.run("keep what is locked", async move |conn| {
        let mut write = BatchWrite { key: &key, done: Written::default(), failed: Vec::new() };
        for record in &batch {
            write.refuse(record, ROW_LOCKED, &error);
        }
        conn.transaction(async |conn| dead_letters::keep(conn, &write.failed).await).await?;
        Ok(write.done)
    })
    .await
}

async fn write_in(conn: &mut Conn, batch: &[Arc<Record>], limits: &SlotLimits, key: &CodeKey) -> QueryResult<Written> {
    let mut write = BatchWrite { key, done: Written::default(), failed: Vec::new() };
    let mut claims = Vec::with_capacity(batch.len());
    for record in batch {
        match &record.claim {
            Ok(claim) => claims.push((record.as_ref(), claim)),
            Err(undecodable) => write.refuse(record, undecodable.reason, &undecodable.error),
        }
    }
    // The common case: one statement inserts them all.
    match write.insert(conn, &claims, limits).await {
        Ok(issued) => write.count(claims.len(), issued),
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
    /// In the order of the primary key: two consumers that write the same rows then wait for each
    /// other and don't deadlock.
    async fn insert(&self, conn: &mut Conn, claims: &[Pair<'_>], limits: &SlotLimits) -> QueryResult<u64> {
        let mut claims: Vec<Claim> = claims.iter().map(|(_, claim)| (*claim).clone()).collect();
        claims.sort_unstable_by_key(|claim| (claim.drop_id, claim.slot));
        insert(conn, &claims, limits, self.key, IssuedBy::Consumer).await.map(|rows| rows as u64)
    }

    /// Of so many claims so many became rows; the others are revoked.
    fn count(&mut self, claims: usize, issued: u64) {
        self.done.issued += issued;
        self.done.revoked += claims as u64 - issued;
    }

    fn refuse(&mut self, record: &Record, reason: &'static str, error: &str) {
        *self.done.refused.entry(reason).or_default() += 1;
        if record.trace.is_some_and(|trace| trace.sampled) {
            self.done.refused_traces.insert((record.source.partition, record.source.offset), reason);
        }
        self.failed.push(record.failed(reason, error));
    }

    /// Classifies every claim and inserts the accepted ones by one statement. The refused statement
    /// has left the transaction as it was.
    async fn insert_accepted(&mut self, conn: &mut Conn, claims: &[Pair<'_>]) -> QueryResult<()> {
        let accepted = self.accept(conn, claims).await?;
        // Without the limits that were read: they may be outdated, and the reason for the refusal.
        // The schema reads its own.
        match self.insert(conn, &accepted, &SlotLimits::default()).await {
            Ok(issued) => self.count(accepted.len(), issued),
            // Another process wrote in between.
            Err(error) if refusal(&error).is_some() => {
                for pair in accepted {
                    self.write_one(conn, pair).await?;
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The claims that are to become rows. The others are counted, and refused ones become dead
    /// letters.
    async fn accept<'a>(&mut self, conn: &mut Conn, claims: &[Pair<'a>]) -> QueryResult<Vec<Pair<'a>>> {
        let claims = &self.leave_out_void(conn, claims).await?[..];
        let existing = Existing::read(conn, claims).await?;
        let bare: Vec<&Claim> = claims.iter().map(|(_, claim)| *claim).collect();
        let mut accepted = Vec::with_capacity(claims.len());
        for (pair, verdict) in claims.iter().zip(classify(&bare, &existing.rows, &existing.rules)) {
            match verdict {
                ClaimVerdict::Issue => accepted.push(*pair),
                ClaimVerdict::AlreadyIssued => self.done.again += 1,
                ClaimVerdict::Refused { reason, error } => self.refuse(pair.0, reason, &error),
            }
        }
        Ok(accepted)
    }

    async fn leave_out_void<'a>(&mut self, conn: &mut Conn, claims: &[Pair<'a>]) -> QueryResult<Vec<Pair<'a>>> {
        let bare: Vec<&Claim> = claims.iter().map(|(_, claim)| *claim).collect();
        let void = void_among(conn, &bare).await?;
        self.done.revoked += void.len() as u64;
        let is_valid = |(_, claim): &&Pair<'a>| !void.iter().any(|one| std::ptr::eq(*one, *claim));
        Ok(claims.iter().filter(is_valid).copied().collect())
    }

    async fn write_one(&mut self, conn: &mut Conn, pair: Pair<'_>) -> QueryResult<()> {
        for _ in 0..ATTEMPTS {
            let error = match self.insert(conn, &[pair], &SlotLimits::default()).await {
                Ok(issued) => {
                    self.count(1, issued);
                    return Ok(());
                }
                Err(error) => error,
            };
            match refusal(&error) {
                // The existing rows show which key it was.
                Some(Refusal::Duplicate | Refusal::Revoked) => {
                    if self.accept(conn, &[pair]).await?.is_empty() {
                        return Ok(());
                    }
                }
                Some(refusal) => {
                    self.refuse(pair.0, reason(refusal), &error.to_string());
                    return Ok(());
                }
                None => return Err(error),
            }
        }
        self.refuse(pair.0, "bad_data", "refused as a duplicate of something that could not be found");
        Ok(())
    }
}

/// How often a single claim is tried.
const ATTEMPTS: u32 = 5;

fn reason(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownDrop => "unknown_drop",
        Refusal::SlotOutOfRange => "slot_out_of_range",
        Refusal::Duplicate | Refusal::Revoked | Refusal::BadData => "bad_data",
    }
}

/// What MySQL has on the same slots and people, and the rules of their drops.
struct Existing {
    rows: Vec<IssuedRow>,
    rules: HashMap<DropId, DropRules>,
}

impl Existing {
    /// Most values in one query's list.
    const CHUNK: usize = 500;

    async fn read(conn: &mut Conn, claims: &[Pair<'_>]) -> QueryResult<Self> {
        let mut slots: BTreeMap<DropId, Vec<Slot>> = BTreeMap::new();
        let mut people: BTreeMap<CouponId, Vec<&str>> = BTreeMap::new();
        for (_, claim) in claims {
            slots.entry(claim.drop_id).or_default().push(claim.slot);
            people.entry(claim.coupon_id).or_default().push(claim.user_id.as_str());
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
mod tests {
    use std::time::Duration;

    use chrono::{DateTime, Utc};
    use firstcome_shared::domain::OncePer;
    use firstcome_shared::event::ClaimEvent;
    use firstcome_shared::mysql::catalogue::NewCoupon;
    use firstcome_shared::mysql::ops_actions::Operator;
    use firstcome_shared::mysql::{DbSettings, migrations};
    use firstcome_shared::schedule::Schedule;
    use firstcome_stack::{MysqlServer, StackOptions};
    use tokio::sync::OnceCell;

    use super::*;
    use crate::consume::read::source::tests::record;

    async fn written(db: &Db, batch: &[Arc<Record>]) -> Written {
        loop {
            // Mostly a deadlock. The loop retries too.
            if let Ok(written) = write(db, batch.to_vec()).await {
                return written;
            }
        }
    }

    /// With a database of its own on the server that these tests share.
    async fn shop(database: &str, quantity: Slot) -> (&'static MysqlServer, Db, CouponId, DropId) {
        static MYSQL: OnceCell<MysqlServer> = OnceCell::const_new();
        let start = async || MysqlServer::start(StackOptions::without_fsync().mysql).await.unwrap();
        let mysql = MYSQL.get_or_init(start).await;
        mysql.query(&format!("CREATE DATABASE {database}")).await.unwrap();
        let url = mysql.database_url(database).into();
        let settings = DbSettings { url, pool_size: 8, limit: Duration::from_secs(30) };
        migrations::migrate(&settings).await.unwrap();
        let db = Db::new(&settings).unwrap();
        let schedule = Schedule::Once { opens_at: Utc::now(), closes_at: None };
        let (name, once_per) = ("Winter".into(), OncePer::Coupon);
        let new = NewCoupon { name, quantity, once_per, waiting_list: 0, schedule, allow: None };
        let (coupon, drops) = db.create_coupon(new, Utc::now(), Operator::default()).await.unwrap();
        (mysql, db, coupon.id, drops[0].id)
    }

    /// Rows are written as text, so a name that was put into a store by hand must do no harm.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_name_of_any_characters_is_stored_as_it_is_and_one_that_does_not_fit_is_refused() {
        let (_, db, coupon_id, drop_id) = shop("names", 100).await;
        let claimed_at = DateTime::from_timestamp_nanos(1_796_104_800_123_456_789);
        let key = db.code_key().await.unwrap();
        let insert_one = async |slot: Slot, name: &str| {
            let key = key.clone();
            let user_id = firstcome_shared::domain::UserId::from_store(name.to_owned());
            let claim = Claim { coupon_id, drop_id, slot, user_id, claimed_at: Some(claimed_at), trace: None };
            db.run("insert", async move |conn| {
                insert(conn, &[claim], &SlotLimits::default(), &key, IssuedBy::Consumer).await
            })
            .await
        };
        let names = ["o'clock", "'); DROP TABLE issued_coupons; -- ", "a\\", "\"`%_\\'", "two words", "\u{1}\n", ""];
        for (slot, name) in (1..).zip(names) {
            assert_eq!(insert_one(slot, name).await.unwrap(), 1, "{name:?}");
        }
        let slots: Vec<Slot> = (1..=7).collect();
        let mut rows = db.run("rows", async move |conn| on_slots(conn, drop_id, &slots).await).await.unwrap();
        rows.sort_by_key(|row| row.slot);
        assert_eq!(rows.iter().map(|row| row.user_id.as_str()).collect::<Vec<_>>(), names);
        assert_eq!(rows[0].claimed_at.and_utc().timestamp_millis(), claimed_at.timestamp_millis());
        for (slot, name) in [(8, "josé"), (9, &*"x".repeat(65)), (101, "u-1")] {
            let DbError::Query { source, .. } = insert_one(slot, name).await.unwrap_err() else { panic!("{name}") };
            assert!(refusal(&source).is_some(), "{name}: {source}");
        }
    }

    /// As when a partition moves while its old owner still writes: what was read is outdated at
    /// once.
    #[tokio::test(flavor = "multi_thread")]
    async fn batches_written_by_many_at_once_make_each_claim_one_row_or_one_refusal() {
        let (mysql, db, coupon_id, drop_id) = shop("batches", 300).await;

        // Each writer overlaps with half of the slots before it; some have other people, some
        // people other slots.
        let batches: Vec<Vec<Arc<Record>>> = (0..6_u32)
            .map(|writer| {
                let claims = (1..=100_u32).map(|i| {
                    let slot = writer * 40 + i;
                    let user = if i % 7 == writer { slot + 1_000 } else { slot + i % 3 };
                    let user_id = format!("u-{user}").parse().unwrap();
                    let event = ClaimEvent { coupon_id, drop_id, slot, user_id, claimed_at: DateTime::UNIX_EPOCH };
                    Arc::new(record(i32::try_from(writer).unwrap(), i64::from(i), 0, &event.encode()))
                });
                claims.collect()
            })
            .collect();
        let twice = batches.iter().chain(&batches);
        let results = futures_util::future::join_all(twice.map(|batch| written(&db, batch))).await;

        let count = async |from: &str| -> u64 {
            let sql = format!("SELECT COUNT(*) FROM batches.{from}");
            mysql.query(&sql).await.unwrap()[0][0].parse().unwrap()
        };
        let rows = count("issued_coupons").await;
        assert_eq!(results.iter().map(|w| w.issued).sum::<u64>(), rows);
        for record in batches.iter().flatten() {
            let claim = record.claim.as_ref().unwrap();
            let (slot, user, at) = (claim.slot, &claim.user_id, &record.source);
            let row = count(&format!("issued_coupons WHERE slot = {slot} AND user_id = '{user}'")).await;
            let (partition, offset) = (at.partition, at.offset);
            let kept = format!("failed_claims WHERE source_partition = {partition} AND source_offset = {offset}");
            assert_eq!(row + count(&kept).await, 1, "{slot} {partition} {offset}");
        }
    }
}
