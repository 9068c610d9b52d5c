//! The dead-letter table `failed_claims`: claims that did not become a row, kept until the
//! reconciler or a person has resolved them. It is the fallback for claims that Kafka did not take,
//! too (reason [`UNPUBLISHED`]).

use chrono::{DateTime, NaiveDateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use sha2::{Digest as _, Sha256};

use super::schema::failed_claims;
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId, UserId};
use crate::event::ClaimEvent;

/// Where a message came from. Its hash keeps a message that is read twice to one row, and tells it
/// from another message on the same offset of a topic that was made anew.
#[derive(Debug, Clone)]
pub struct Source {
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
    /// The message's own time, in milliseconds, where it has one.
    pub timestamp_ms: Option<i64>,
}

/// A claim that the consumer could not turn into a row.
#[derive(Debug, Clone)]
pub struct FailedClaim {
    /// The coupon, where it could be read.
    pub coupon_id: Option<i64>,
    /// The drop, where it could be read.
    pub drop_id: Option<i64>,
    /// The slot, however wrong.
    pub slot: Option<i64>,
    /// The person, where the id has the form of one.
    pub user_id: Option<UserId>,
    /// When they were admitted, where it could be read.
    pub claimed_at: Option<DateTime<Utc>>,
    pub payload: Vec<u8>,
    /// Why: `undecodable`, `wrong_version`, `slot_out_of_range`, `slot_taken`, `already_has_one`,
    /// `unknown_drop`, `bad_data`.
    pub reason: &'static str,
    pub error: String,
    pub source: Source,
}

impl FailedClaim {
    fn source_hash(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.source.topic.as_bytes());
        hash.update([0]);
        hash.update(self.source.partition.to_be_bytes());
        hash.update(self.source.offset.to_be_bytes());
        hash.update(self.source.timestamp_ms.unwrap_or(-1).to_be_bytes());
        hash.update(&self.payload);
        hash.finalize().to_vec()
    }
}

/// Keeps failed claims; one that is kept already counts another attempt.
pub async fn keep(conn: &mut Conn, failed: &[FailedClaim]) -> QueryResult<()> {
    for claim in failed {
        diesel::insert_into(failed_claims::table)
            .values((
                failed_claims::coupon_id.eq(claim.coupon_id),
                failed_claims::drop_id.eq(claim.drop_id),
                failed_claims::slot.eq(claim.slot),
                failed_claims::user_id.eq(claim.user_id.as_ref().map(UserId::as_str)),
                failed_claims::claimed_at.eq(claim.claimed_at.map(|at| at.naive_utc())),
                failed_claims::payload.eq(&claim.payload),
                failed_claims::reason.eq(claim.reason),
                failed_claims::error.eq(&claim.error),
                failed_claims::source_partition.eq(claim.source.partition),
                failed_claims::source_offset.eq(claim.source.offset),
                failed_claims::source_hash.eq(claim.source_hash()),
            ))
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(failed_claims::attempts.eq(failed_claims::attempts + 1))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// The word for an admission that Kafka has not acknowledged in time.
pub const UNPUBLISHED: &str = "unpublished";

/// Keeps admissions that Kafka has not acknowledged, in one statement; one that is kept already
/// counts another attempt.
///
/// # Errors
/// Of the connection; none is kept then.
pub async fn keep_unpublished(conn: &mut Conn, claims: &[ClaimEvent]) -> QueryResult<()> {
    let rows = claims.iter().map(|claim| {
        let payload = claim.encode().into_bytes();
        let source_hash = Sha256::new().chain_update(UNPUBLISHED).chain_update([0]).chain_update(&payload).finalize();
        (
            failed_claims::coupon_id.eq(claim.coupon_id.0),
            failed_claims::drop_id.eq(claim.drop_id.0),
            failed_claims::slot.eq(i64::from(claim.slot)),
            failed_claims::user_id.eq(claim.user_id.as_str()),
            failed_claims::claimed_at.eq(claim.claimed_at.naive_utc()),
            failed_claims::payload.eq(payload),
            failed_claims::reason.eq(UNPUBLISHED),
            failed_claims::error.eq("Kafka had not acknowledged it when the answer was due"),
            failed_claims::source_hash.eq(source_hash.to_vec()),
        )
    });
    let rows: Vec<_> = rows.collect();
    diesel::insert_into(failed_claims::table)
        .values(rows)
        .on_conflict(diesel::dsl::DuplicatedKeys)
        .do_update()
        .set(failed_claims::attempts.eq(failed_claims::attempts + 1))
        .execute(conn)
        .await
        .map(|_| ())
}

/// A row of the table, as the reconciler reads it.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = failed_claims)]
pub struct DeadLetterRow {
    pub id: i64,
    /// The coupon, where known.
    pub coupon_id: Option<i64>,
    /// The drop, where known.
    pub drop_id: Option<i64>,
    /// The slot, however wrong.
    pub slot: Option<i64>,
    /// The person, in full, where known.
    pub user_id: Option<String>,
    /// When they were admitted (UTC), where known.
    pub claimed_at: Option<NaiveDateTime>,
    pub reason: String,
    pub error: Option<String>,
    /// When it came here (UTC).
    pub failed_at: NaiveDateTime,
    /// When it was dealt with (UTC).
    pub resolved_at: Option<NaiveDateTime>,
    pub resolution: Option<String>,
    pub resolution_detail: Option<String>,
    pub source_partition: Option<i32>,
    pub source_offset: Option<i64>,
}

impl Db {
    /// Every unresolved dead letter, oldest first.
    pub async fn unresolved_dead_letters(&self) -> Result<Vec<DeadLetterRow>, DbError> {
        self.run("read unresolved dead letters", async move |conn| {
            failed_claims::table
                .filter(failed_claims::resolved_at.is_null())
                .order(failed_claims::id)
                .select(DeadLetterRow::as_select())
                .load(conn)
                .await
        })
        .await
    }

    /// A person's dead letters of one coupon, resolved ones too, oldest first.
    pub async fn dead_letters_of_person(&self, coupon: CouponId, user: &UserId) -> Result<Vec<DeadLetterRow>, DbError> {
        let name = user.as_str().to_owned();
        self.run("read a person's dead letters", async move |conn| {
            failed_claims::table
                .filter(failed_claims::user_id.eq(name).and(failed_claims::coupon_id.eq(coupon.0)))
                .order(failed_claims::id)
                .select(DeadLetterRow::as_select())
                .load(conn)
                .await
        })
        .await
    }

    /// People named by dead letters on a slot of a drop; a hundred dead letters at most.
    pub async fn people_of_dead_letters_on(&self, drop: DropId, slot: i64) -> Result<Vec<UserId>, DbError> {
        self.run("dead letters on a slot", async move |conn| {
            let names: Vec<Option<String>> = failed_claims::table
                .filter(failed_claims::drop_id.eq(drop.0).and(failed_claims::slot.eq(slot)))
                .limit(100)
                .select(failed_claims::user_id)
                .load(conn)
                .await?;
            Ok(names.into_iter().flatten().filter_map(|name| name.parse().ok()).collect())
        })
        .await
    }

    /// Marks a dead letter as resolved by a run; the first resolution stands.
    pub async fn resolve_dead_letter(
        &self,
        id: i64,
        how: &'static str,
        detail: String,
        run_id: &str,
    ) -> Result<(), DbError> {
        let run_id = run_id.to_owned();
        self.run("resolve dead letter", async move |conn| {
            diesel::update(failed_claims::table.find(id).filter(failed_claims::resolved_at.is_null()))
                .set((
                    failed_claims::resolved_at.eq(Utc::now().naive_utc()),
                    failed_claims::resolution.eq(how),
                    failed_claims::resolution_detail.eq(detail),
                    failed_claims::resolved_by_run.eq(run_id),
                ))
                .execute(conn)
                .await
                .map(|_| ())
        })
        .await
    }
}
