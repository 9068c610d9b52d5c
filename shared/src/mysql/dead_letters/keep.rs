//! Writing dead letters.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::dsl::{DuplicatedKeys, case_when};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use sha2::{Digest as _, Sha256};

use crate::claim::Claim;
use crate::columns::inserted;
use crate::domain::{CouponId, DropId};
use crate::model::DeadLetterReason;
use crate::mysql::{Conn, ROWS_AT_ONCE};
use crate::schema::failed_claims;

/// The origin of a claim in a message. It determines `source_hash`: a claim that is read twice gets
/// only one dead letter, a claim at the same offset of a recreated topic gets another, and forged
/// messages of a partition and day share one. So do all messages of a claim whose row is locked:
/// each API publishes the claims of users who ask for their codes.
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

/// Maximum number of bytes that a dead letter stores of an unreadable message, and that operators
/// see of any message.
pub const KEPT_OF_MESSAGE: u16 = 4_096;

/// A claim that the consumer could not turn into a row, or a message that it could not read.
#[derive(Debug, Clone)]
pub struct FailedClaim {
    /// `None` if the message cannot be read.
    pub claim: Option<Claim>,
    /// A message with this claim alone. If the message cannot be read, its first bytes, at most
    /// [`KEPT_OF_MESSAGE`].
    pub payload: Vec<u8>,
    pub reason: DeadLetterReason,
    pub error: String,
    pub source: MessageOrigin,
}

impl FailedClaim {
    /// Any client that may write to the topic can send any number of forged messages, so those of a
    /// partition and day share a dead letter, which counts them.
    fn source_hash(&self) -> Vec<u8> {
        let mut hash = Sha256::new();
        hash.update(self.source.topic.as_bytes());
        hash.update([0]);
        hash.update(self.source.partition.to_be_bytes());
        if self.reason == DeadLetterReason::Forged {
            hash.update(Utc::now().date_naive().to_string());
            return hash.finalize().to_vec();
        }
        if self.reason == DeadLetterReason::RowLocked {
            let mut hash = Sha256::new();
            hash.update(self.reason.as_str());
            hash.update(&self.payload);
            return hash.finalize().to_vec();
        }
        hash.update(self.source.offset.to_be_bytes());
        hash.update(self.source.timestamp_ms.unwrap_or(-1).to_be_bytes());
        hash.update(&self.payload);
        hash.update(self.source.part.to_be_bytes());
        hash.finalize().to_vec()
    }

    fn row(&self, source_hash: Vec<u8>, attempts: u32) -> NewLetter<'_> {
        let claim = self.claim.as_ref();
        NewLetter {
            coupon_id: claim.map(|claim| claim.coupon_id),
            drop_id: claim.map(|claim| claim.drop_id),
            slot: claim.map(|claim| claim.slot.into()),
            user_id: claim.map(|claim| claim.user_id.as_str()),
            claimed_at: claim.and_then(|claim| claim.claimed_at),
            payload: &self.payload,
            reason: self.reason.as_str(),
            error: &self.error,
            source_partition: self.source.partition,
            source_offset: self.source.offset,
            source_hash,
            attempts,
        }
    }
}

/// A dead letter as it is inserted.
#[allow(
    clippy::ref_option_ref,
    reason = "diesel's derive refers to each field"
)]
#[derive(Debug, Insertable)]
#[diesel(table_name = failed_claims, treat_none_as_default_value = false)]
struct NewLetter<'f> {
    coupon_id: Option<CouponId>,
    drop_id: Option<DropId>,
    slot: Option<i64>,
    user_id: Option<&'f str>,
    claimed_at: Option<DateTime<Utc>>,
    payload: &'f [u8],
    reason: &'f str,
    error: &'f str,
    source_partition: i32,
    source_offset: i64,
    source_hash: Vec<u8>,
    attempts: u32,
}

/// Stores failed claims. If a claim is already stored, increments its attempts. A resolved dead
/// letter that counts forged messages is reopened if more of them arrive.
pub async fn keep(conn: &mut Conn, failed: &[FailedClaim]) -> QueryResult<()> {
    // The last claim with each hash, in order, and how many claims have that hash.
    let mut letters: Vec<(&FailedClaim, u32)> = Vec::new();
    let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
    for one in failed {
        let place = *places.entry(one.source_hash()).or_insert(letters.len());
        match letters.get_mut(place) {
            Some(known) => *known = (one, known.1 + 1),
            None => letters.push((one, 1)),
        }
    }
    let is_newer = || inserted(failed_claims::source_offset).gt(failed_claims::source_offset);
    let mut rows: Vec<NewLetter<'_>> = letters
        .into_iter()
        .map(|(one, attempts)| one.row(one.source_hash(), attempts))
        .collect();
    while !rows.is_empty() {
        let rest = rows.split_off(rows.len().min(ROWS_AT_ONCE));
        diesel::insert_into(failed_claims::table)
            .values(rows)
            .on_conflict(DuplicatedKeys)
            .do_update()
            // MySQL assigns from left to right, so `source_offset` must come last.
            .set((
                failed_claims::attempts
                    .eq(failed_claims::attempts + inserted(failed_claims::attempts)),
                failed_claims::resolution
                    .eq(case_when(is_newer(), None::<String>).otherwise(failed_claims::resolution)),
                failed_claims::resolution_detail.eq(case_when(is_newer(), None::<String>)
                    .otherwise(failed_claims::resolution_detail)),
                failed_claims::resolved_at.eq(case_when(is_newer(), None::<DateTime<Utc>>)
                    .otherwise(failed_claims::resolved_at)),
                failed_claims::source_offset.eq(case_when(
                    is_newer(),
                    inserted(failed_claims::source_offset),
                )
                .otherwise(failed_claims::source_offset)),
            ))
            .execute(conn)
            .await?;
        rows = rest;
    }
    Ok(())
}
