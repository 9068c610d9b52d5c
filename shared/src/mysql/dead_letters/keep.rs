//! Writing dead letters.

use std::collections::HashMap;

use chrono::Utc;
use diesel::QueryResult;
use sha2::{Digest as _, Sha256};

use crate::claim::Claim;
use crate::model::DeadLetterReason;
use crate::mysql::sql::values;
use crate::mysql::{Conn, Value, insert_all};

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

    fn values(&self, source_hash: &[u8], attempts: u32) -> Vec<Value> {
        let claim = self.claim.as_ref();
        values![
            claim.map(|claim| claim.coupon_id.0),
            claim.map(|claim| claim.drop_id.0),
            claim.map(|claim| i64::from(claim.slot)),
            claim.map(|claim| claim.user_id.to_string()),
            claim.and_then(|claim| claim.claimed_at),
            &*self.payload,
            self.reason.as_str(),
            &self.error,
            self.source.partition,
            self.source.offset,
            source_hash,
            attempts,
        ]
    }
}

const COLUMNS: &str = "failed_claims (coupon_id, drop_id, slot, user_id, claimed_at, payload, \
    reason, error, source_partition, source_offset, source_hash, attempts)";

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
    let rows = letters
        .into_iter()
        .map(|(one, attempts)| one.values(&one.source_hash(), attempts));
    insert_all(conn, COLUMNS, rows.collect(), COUNT).await
}

/// MySQL assigns from left to right, so `source_offset` must come last.
const COUNT: &str = " ON DUPLICATE KEY UPDATE attempts = attempts + VALUES(attempts), \
    resolution = IF(VALUES(source_offset) > source_offset, NULL, resolution), \
    resolution_detail = IF(VALUES(source_offset) > source_offset, NULL, resolution_detail), \
    resolved_at = IF(VALUES(source_offset) > source_offset, NULL, resolved_at), \
    source_offset = GREATEST(source_offset, VALUES(source_offset))";
