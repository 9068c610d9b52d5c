//! A message of the topic, decoded by `source`, and its row in the dead-letter table.

use chrono::{Datelike as _, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::{ClaimEvent, Fragments, Undecodable};
use firstcome_shared::kafka::{MessagePrint, UnreadableAt, UnreadableRange};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{FailedClaim, MessageOrigin, UNREADABLE};
use firstcome_shared::trace::TraceContext;

/// Accepted years of claims, within the range of MySQL's `DATETIME`. A year outside that range
/// could not be stored in the dead-letter table either, and would block the partition.
pub(super) const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// Maximum length of a stored error, in characters. The JSON parser may quote the whole message.
pub(super) const LONGEST_ERROR: usize = 500;

/// Maximum size of a message in a dead letter, in bytes.
pub(super) const KEPT_BYTES: usize = 4_096;

/// Maximum size of a message that is parsed, in bytes. Claims are shorter.
pub(super) const LONGEST_MESSAGE: usize = 65_536;

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) source: MessageOrigin,
    /// The last offset that this record completes. For a claim that is not the last one of its
    /// message, this is the offset before the message.
    pub(crate) last_offset: i64,
    /// Fingerprint of the message at `last_offset`, or `None` if that is another message or this
    /// one is unreadable.
    pub(crate) print: Option<MessagePrint>,
    /// The assignment of its partition during which it was read (see `GroupContext::owns`).
    pub(crate) assignment: u64,
    /// The first bytes of the message, because a batch of messages may decompress to more than
    /// fits in memory. Empty for a claim of a message with several claims, whose dead letter shows
    /// only that claim.
    pub(crate) payload: Vec<u8>,
    pub(crate) claim: Result<Claim, Box<Undecodable>>,
    /// The span that sent it, if it has a trace.
    pub(crate) trace: Option<TraceContext>,
}

impl Record {
    /// Creates a record for a range of messages that Kafka's client cannot read.
    pub(crate) fn unreadable(topic: &str, assignment: u64, range: &UnreadableRange) -> Self {
        let UnreadableAt {
            partition, offset, ..
        } = range.first;
        let source = MessageOrigin {
            topic: topic.to_owned(),
            partition,
            offset,
            timestamp_ms: None,
            part: None,
        };
        let error = format!("{range}; passes issue the promises in them from Redis");
        let claim = Err(Box::new(Undecodable {
            reason: UNREADABLE,
            error,
            fragments: Fragments::default(),
        }));
        Self {
            source,
            last_offset: range.next - 1,
            print: None,
            assignment,
            payload: Vec::new(),
            claim,
            trace: None,
        }
    }

    pub(super) fn of_trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        if let Ok(claim) = &mut self.claim {
            claim.trace = trace;
        }
        self
    }

    /// Builds the row of this message in the dead-letter table.
    pub(crate) fn failed(&self, reason: &'static str, error: &str) -> FailedClaim {
        let known = match &self.claim {
            Ok(claim) => fragments(claim),
            // Without its time, a claim cannot be checked against the drop's window. Its dead
            // letter then names no user, so that no pass issues it.
            Err(undecodable) if !is_timed(&undecodable.fragments) => Fragments::default(),
            Err(undecodable) => undecodable.fragments.clone(),
        };
        FailedClaim {
            coupon_id: known.coupon_id,
            drop_id: known.drop_id,
            slot: known.slot,
            user_id: known.user_id,
            claimed_at: known.claimed_at.filter(|at| YEARS.contains(&at.year())),
            payload: match &self.claim {
                Ok(claim) if self.payload.is_empty() => alone(claim),
                _ => self.payload.clone(),
            },
            reason,
            error: error.chars().take(LONGEST_ERROR).collect(),
            source: self.source.clone(),
            trace: self.trace,
        }
    }
}

fn is_timed(fragments: &Fragments) -> bool {
    fragments
        .claimed_at
        .is_some_and(|at| YEARS.contains(&at.year()))
}

/// Encodes the message with only this claim.
fn alone(claim: &Claim) -> Vec<u8> {
    let Claim {
        coupon_id,
        drop_id,
        slot,
        user_id,
        claimed_at,
        ..
    } = claim.clone();
    let event = claimed_at.map(|claimed_at| ClaimEvent {
        coupon_id,
        drop_id,
        slot,
        user_id,
        claimed_at,
    });
    event
        .map(|event| event.encode().into_bytes())
        .unwrap_or_default()
}

pub(super) fn fragments(claim: &Claim) -> Fragments {
    let CouponId(coupon) = claim.coupon_id;
    let DropId(drop) = claim.drop_id;
    Fragments {
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        slot: Some(i64::from(claim.slot)),
        user_id: Some(claim.user_id.clone()),
        claimed_at: claim.claimed_at.map(|at| at.with_timezone(&Utc)),
    }
}
