//! A message of the topic, decoded (by `source`), and as the dead-letter table keeps it.

use chrono::{Datelike as _, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::{ClaimEvent, Fragments, Undecodable};
use firstcome_shared::kafka::{UnreadableAt, UnreadableRange};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{FailedClaim, MessageOrigin, UNREADABLE};
use firstcome_shared::trace::TraceContext;

/// Years that MySQL's `DATETIME` takes for certain. MySQL would refuse a message outside them in
/// the dead-letter table too, and the consumer would never get past it.
pub(super) const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// Longest explanation that is kept, in characters: an error of the JSON parser may quote the whole
/// message.
pub(super) const LONGEST_ERROR: usize = 500;

/// Most bytes of a message that a dead letter keeps.
pub(super) const KEPT_BYTES: usize = 4_096;

/// A message with more bytes is no claim, and is not parsed.
pub(super) const LONGEST_MESSAGE: usize = 65_536;

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) source: MessageOrigin,
    /// The last offset that is done with this record. For a claim of a message with several, which
    /// is not the last one, the offset before the message.
    pub(crate) last_offset: i64,
    /// The assignment of its partition during which it was read (`Group::owns`).
    pub(crate) assignment: u64,
    /// The first bytes of the message. A batch of messages may expand to more than memory has.
    /// Empty for a claim of a message with several: its dead letter shows that claim alone.
    pub(crate) payload: Vec<u8>,
    pub(crate) claim: Result<Claim, Box<Undecodable>>,
    /// The span that sent it, where it has a trace.
    pub(crate) trace: Option<TraceContext>,
}

impl Record {
    /// Stands for messages that Kafka's client cannot read.
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
            assignment,
            payload: Vec::new(),
            claim,
            trace: None,
        }
    }

    /// The same with its trace.
    pub(super) fn of_trace(mut self, trace: Option<TraceContext>) -> Self {
        self.trace = trace;
        if let Ok(claim) = &mut self.claim {
            claim.trace = trace;
        }
        self
    }

    /// This message for the dead-letter table.
    pub(crate) fn failed(&self, reason: &'static str, error: &str) -> FailedClaim {
        let known = match &self.claim {
            Ok(claim) => fragments(claim),
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

/// The message that would have had this claim alone.
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
    let (CouponId(coupon), DropId(drop)) = (claim.coupon_id, claim.drop_id);
    Fragments {
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        slot: Some(i64::from(claim.slot)),
        user_id: Some(claim.user_id.clone()),
        claimed_at: claim.claimed_at.map(|at| at.with_timezone(&Utc)),
    }
}
