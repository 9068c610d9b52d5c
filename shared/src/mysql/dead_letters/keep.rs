//! Writing dead letters.

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use sha2::{Digest as _, Sha256};

use crate::event::Fragments;
use crate::mysql::Conn;
use crate::mysql::erased::as_stored;
use crate::mysql::schema::failed_claims;
use crate::trace::TraceContext;

/// The origin of a message. Its hash ensures that a message read twice gets one row, and
/// distinguishes it from a message at the same offset of a recreated topic.
#[derive(Debug, Default, Clone)]
pub struct MessageOrigin {
    pub topic: String,
    pub partition: i32,
    pub offset: i64,
    /// The message's own time, in milliseconds, if it has one.
    pub timestamp_ms: Option<i64>,
    /// The index of the claim in its message.
    pub part: usize,
}

/// A claim that the consumer could not turn into a row.
#[derive(Debug, Clone)]
pub struct FailedClaim {
    /// The fields that could be read.
    pub known: Fragments,
    /// The first bytes of the message, at most a few kilobytes.
    pub payload: Vec<u8>,
    /// The reason: `undecodable`, `wrong_version`, `slot_out_of_range`, `slot_taken`,
    /// `already_has_one`, `unknown_drop`, `sealed_drop`, `outside_window`, `bad_data`,
    /// `row_locked`, `unreadable`, `forged`.
    pub reason: &'static str,
    pub error: String,
    pub source: MessageOrigin,
    /// The span that sent the message, if it has a trace.
    pub trace: Option<TraceContext>,
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
        hash.update(self.source.part.to_be_bytes());
        hash.finalize().to_vec()
    }
}

/// Dead letters written per statement: a message may have several kilobytes.
const AT_ONCE: usize = 200;

/// Stores failed claims. If a claim is already stored, increments its attempts. If it belongs to an
/// erased user, changes nothing.
pub async fn keep(conn: &mut Conn, failed: &[FailedClaim]) -> QueryResult<()> {
    for some in failed.chunks(AT_ONCE) {
        let some = without_erased(conn, some).await?;
        if some.is_empty() {
            continue;
        }
        let row = |claim: &FailedClaim| {
            (
                failed_claims::coupon_id.eq(claim.known.coupon_id),
                failed_claims::drop_id.eq(claim.known.drop_id),
                failed_claims::slot.eq(claim.known.slot),
                failed_claims::user_id.eq(claim.known.user_id.as_ref().map(ToString::to_string)),
                failed_claims::claimed_at.eq(claim.known.claimed_at.map(|at| at.naive_utc())),
                failed_claims::payload.eq(claim.payload.clone()),
                failed_claims::reason.eq(claim.reason),
                failed_claims::error.eq(claim.error.clone()),
                failed_claims::source_partition.eq(claim.source.partition),
                failed_claims::source_offset.eq(claim.source.offset),
                failed_claims::source_hash.eq(claim.source_hash()),
                failed_claims::traceparent.eq(claim.trace.map(|trace| trace.to_string())),
            )
        };
        diesel::insert_into(failed_claims::table)
            .values(some.into_iter().map(row).collect::<Vec<_>>())
            .on_conflict(diesel::dsl::DuplicatedKeys)
            .do_update()
            .set(failed_claims::attempts.eq(failed_claims::attempts + 1))
            .execute(conn)
            .await?;
    }
    Ok(())
}

/// The reason of messages that no Kafka client can read.
pub const UNREADABLE: &str = "unreadable";
/// The fields of a dead letter that remain after an erasure.
type Remains = (
    Option<i32>,
    Option<i64>,
    Option<i64>,
    Option<i64>,
    Option<NaiveDateTime>,
);

/// Drops the claims that already have a dead letter of an erased user. An erasure removes the
/// message's hash, but keeps its position and its other fields.
async fn without_erased<'c>(
    conn: &mut Conn,
    failed: &'c [FailedClaim],
) -> QueryResult<Vec<&'c FailedClaim>> {
    let named = || failed.iter().filter(|claim| claim.known.user_id.is_some());
    if named().next().is_none() {
        return Ok(failed.iter().collect());
    }
    let coupons: Vec<i64> = named().filter_map(|claim| claim.known.coupon_id).collect();
    let of_coupon = failed_claims::coupon_id
        .eq_any(coupons)
        .or(failed_claims::coupon_id.is_null());
    let offsets: Vec<i64> = named().map(|claim| claim.source.offset).collect();
    let erased: Vec<Remains> = failed_claims::table
        .filter(
            of_coupon
                .and(failed_claims::user_id.like("erased-%"))
                .and(failed_claims::resolved_at.is_not_null())
                .and(failed_claims::payload.is_null())
                .and(failed_claims::source_offset.eq_any(offsets)),
        )
        .select((
            failed_claims::source_partition,
            failed_claims::source_offset,
            failed_claims::drop_id,
            failed_claims::slot,
            failed_claims::claimed_at,
        ))
        .load(conn)
        .await?;
    let is_erased = |claim: &FailedClaim| {
        let MessageOrigin {
            partition, offset, ..
        } = claim.source;
        let remains = (
            Some(partition),
            Some(offset),
            claim.known.drop_id,
            claim.known.slot,
            claim.known.claimed_at.map(as_stored),
        );
        claim.known.user_id.is_some() && erased.contains(&remains)
    };
    Ok(failed.iter().filter(|claim| !is_erased(claim)).collect())
}

/// The reason of a claim that an operator has corrected and confirmed.
pub const CORRECTED: &str = "corrected";
