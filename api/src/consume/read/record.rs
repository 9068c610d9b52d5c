//! A message of the topic, decoded (by `source`), and as the dead-letter table keeps it.

use chrono::{Datelike as _, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::{Fragments, Undecodable};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{FailedClaim, MessageOrigin};
use firstcome_shared::trace::TraceContext;

/// Years that MySQL's `DATETIME` takes for certain. MySQL would refuse a message outside them in
/// the dead-letter table too, and the consumer would never get past it.
pub(super) const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// Longest explanation that is kept, in characters: an error of the JSON parser may quote the whole
/// message.
pub(super) const LONGEST_ERROR: usize = 500;

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) source: MessageOrigin,
    /// The assignment of its partition during which it was read (`Group::owns`).
    pub(crate) assignment: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) claim: Result<Claim, Box<Undecodable>>,
    /// The span that sent it, where it has a trace.
    pub(crate) trace: Option<TraceContext>,
}

impl Record {
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
            payload: self.payload.clone(),
            reason,
            error: error.chars().take(LONGEST_ERROR).collect(),
            source: self.source.clone(),
            trace: self.trace,
        }
    }
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
