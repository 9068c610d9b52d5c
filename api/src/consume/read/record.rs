//! A message of the topic, decoded.

use chrono::{Datelike as _, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::event::{ClaimEvent, Fragments, Undecodable};
use firstcome_shared::mysql::claim::Claim;
use firstcome_shared::mysql::dead_letters::{FailedClaim, Source as Origin};

/// Years that MySQL's `DATETIME` takes for certain. MySQL would refuse a message outside them in
/// the dead-letter table too, and the consumer would never get past it.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// Longest explanation that is kept, in characters: an error of the JSON parser may quote the whole
/// message.
const LONGEST_ERROR: usize = 500;

#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) source: Origin,
    /// The assignment of its partition during which it was read (`Group::owns`).
    pub(crate) assignment: u64,
    pub(crate) payload: Vec<u8>,
    pub(crate) claim: Result<Claim, Box<Undecodable>>,
}

impl Record {
    pub(crate) fn new(source: Origin, assignment: u64, key: Option<&[u8]>, payload: Option<&[u8]>) -> Self {
        let payload = payload.unwrap_or_default();
        Self { source, assignment, claim: decode(key, payload), payload: payload.to_vec() }
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
        }
    }
}

fn decode(key: Option<&[u8]>, payload: &[u8]) -> Result<Claim, Box<Undecodable>> {
    let event = ClaimEvent::decode(payload).map_err(Box::new)?;
    let named = event.key();
    let claim = Claim {
        coupon_id: event.coupon_id,
        drop_id: event.drop_id,
        slot: event.slot,
        user_id: event.user_id,
        claimed_at: Some(event.claimed_at),
    };
    let refuse =
        |error: String| Err(Box::new(Undecodable { reason: "undecodable", error, fragments: fragments(&claim) }));
    if !YEARS.contains(&event.claimed_at.year()) {
        return refuse(format!("claimed_at is outside the years {} to {}", YEARS.start(), YEARS.end()));
    }
    // Earlier producers gave the coupon alone as the key.
    if let Some(key) = key.filter(|key| *key != named.as_bytes() && *key != claim.coupon_id.to_string().as_bytes()) {
        let key = String::from_utf8_lossy(key);
        return refuse(format!("the key is {key:?}, the value names {named:?}"));
    }
    Ok(claim)
}

fn fragments(claim: &Claim) -> Fragments {
    let (CouponId(coupon), DropId(drop)) = (claim.coupon_id, claim.drop_id);
    Fragments {
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        slot: Some(i64::from(claim.slot)),
        user_id: Some(claim.user_id.clone()),
        claimed_at: claim.claimed_at.map(|at| at.with_timezone(&Utc)),
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str =
        r#"{"v":1,"coupon_id":1,"drop_id":2,"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}"#;

    pub(crate) fn record(partition: i32, offset: i64, assignment: u64, payload: &str) -> Record {
        let source = Origin { topic: "t".into(), partition, offset, timestamp_ms: Some(0) };
        Record::new(source, assignment, None, Some(payload.as_bytes()))
    }

    #[test]
    fn a_claim_is_read_with_its_key_or_without_one() {
        for key in [None, Some(&b"1:37"[..]), Some(&b"1"[..])] {
            assert_eq!(decode(key, GOOD.as_bytes()).unwrap().slot, 37, "{key:?}");
        }
    }

    #[test]
    fn a_key_that_names_another_coupon_or_slot_is_refused_and_the_claim_kept() {
        for key in ["2", "", "01", "x", "1:38", "2:37", "1:", "1:037"] {
            let refused = decode(Some(key.as_bytes()), GOOD.as_bytes()).unwrap_err();
            assert_eq!(refused.reason, "undecodable");
            assert_eq!(refused.fragments.slot, Some(37));
        }
    }

    #[test]
    fn a_message_without_a_value_is_an_empty_one() {
        let source = Origin { topic: "t".into(), partition: 0, offset: 0, timestamp_ms: None };
        let record = Record::new(source, 0, Some(b"1"), None);
        assert_eq!(record.claim.unwrap_err().error, "the message is empty");
        assert!(record.payload.is_empty());
    }

    #[test]
    fn an_instant_that_mysql_cannot_hold_is_refused_and_not_kept_as_one() {
        for instant in ["0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9999Z", "9999-12-31T23:59:59-12:00"] {
            let record = record(0, 0, 0, &GOOD.replace("2026-12-01T06:00:00.123Z", instant));
            let refused = record.claim.as_ref().unwrap_err();
            assert_eq!(refused.reason, "undecodable", "{instant}");
            assert_eq!(record.failed(refused.reason, &refused.error).claimed_at, None, "{instant}");
        }
    }

    #[test]
    fn an_error_that_quotes_the_message_is_cut() {
        let record = record(0, 0, 0, &GOOD.replace("37,", &format!("\"{}\",", "ü".repeat(100_000))));
        let refused = record.claim.as_ref().unwrap_err();
        assert!(refused.error.len() > 100_000);
        assert_eq!(record.failed(refused.reason, &refused.error).error.chars().count(), LONGEST_ERROR);
    }

    proptest! {
        #[test]
        fn any_bytes_are_kept_as_they_are(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
            let source = Origin { topic: "t".into(), partition: 0, offset: 0, timestamp_ms: None };
            let record = Record::new(source, 0, None, Some(&payload));
            let refused = record.claim.as_ref().unwrap_err();
            prop_assert_eq!(record.failed(refused.reason, &refused.error).payload, payload);
        }
    }
}
