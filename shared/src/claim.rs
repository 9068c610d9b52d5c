//! An admitted claim, and messages of claims on the topic: UTF-8 JSON with claims on one drop that
//! one call of admission answered with a slot, new and repeated ones. The key is
//! `coupon:lowest slot`. Their format is in docs/decisions/0032-batches-and-signatures.md.

use std::borrow::Cow;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};
use strum::IntoStaticStr;

use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::model::DeadLetterReason;
use crate::schedule::instants::is_leap_second;

/// The version of the format.
const VERSION: u64 = 2;

/// Accepted years of claims, within the range of MySQL's `DATETIME`. A year outside that range
/// could not be stored in the dead-letter table either, and would block the partition.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// An admitted claim: one type for the script's reply, the message and the row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claim {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    /// The slot that Redis gave, from 1 to the drop's quantity.
    pub slot: Slot,
    pub user_id: UserId,
    /// The time of the admission by Redis's clock, to the millisecond. If it is unknown, the message
    /// and the row get the current time.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Who wrote the row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, IntoStaticStr)]
#[strum(serialize_all = "lowercase")]
pub enum IssuedBy {
    Consumer,
    /// The API, while Kafka does not acknowledge claims.
    Api,
    Reconciler,
}

/// A message. Its claims share the coupon and the drop.
#[derive(Serialize, Deserialize)]
struct MessageWire<'a> {
    v: u64,
    coupon_id: i64,
    drop_id: i64,
    #[serde(borrow)]
    claims: Vec<ClaimWire<'a>>,
}

#[derive(Serialize, Deserialize)]
struct ClaimWire<'a> {
    slot: Slot,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    claimed_at: Cow<'a, str>,
}

/// Why a message cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Undecodable {
    /// The reason of its dead letter.
    pub reason: DeadLetterReason,
    /// Explains the fault to operators.
    pub error: String,
}

impl Undecodable {
    fn new(error: impl Into<String>) -> Self {
        Self {
            reason: DeadLetterReason::Undecodable,
            error: error.into(),
        }
    }
}

impl Claim {
    /// Returns the key of a message in which this claim has the lowest slot. Messages need no
    /// order, because a slot is given again only after its earlier claim was revoked or the drop
    /// was rebuilt.
    pub fn key(&self) -> String {
        format!("{}:{}", self.coupon_id, self.slot)
    }

    /// Encodes a message with only this claim.
    pub fn encode(&self) -> String {
        Self::encode_batch(&[self], Utc::now()).unwrap_or_default()
    }

    /// Encodes a message. All claims must belong to one drop. Returns `None` if there are none.
    pub fn encode_batch(claims: &[&Self], now: DateTime<Utc>) -> Option<String> {
        let first = claims.first()?;
        let message = serde_json::to_string(&MessageWire {
            v: VERSION,
            coupon_id: first.coupon_id.0,
            drop_id: first.drop_id.0,
            claims: claims.iter().map(|claim| claim.wire(now)).collect(),
        });
        message.ok()
    }

    fn wire(&self, now: DateTime<Utc>) -> ClaimWire<'_> {
        let claimed_at = self.claimed_at.unwrap_or(now);
        ClaimWire {
            slot: self.slot,
            user_id: self.user_id.as_str().into(),
            claimed_at: claimed_at
                .to_rfc3339_opts(SecondsFormat::Millis, true)
                .into(),
        }
    }

    /// Parses all claims of a message, or none: only Firstcome signs messages, so a message with a
    /// claim that cannot be read comes from another version.
    pub fn decode(payload: &[u8]) -> Result<Vec<Self>, Undecodable> {
        if payload.is_empty() {
            return Err(Undecodable::new("the message is empty"));
        }
        let wire: MessageWire<'_> =
            serde_json::from_slice(payload).map_err(|error| Undecodable::new(error.to_string()))?;
        if wire.v != VERSION {
            return Err(Undecodable {
                reason: DeadLetterReason::WrongVersion,
                error: format!("the version is {}, not {VERSION}", wire.v),
            });
        }
        if wire.claims.is_empty() {
            return Err(Undecodable::new("a message without claims"));
        }
        wire.claims.iter().map(|claim| claim.read(&wire)).collect()
    }
}

impl ClaimWire<'_> {
    fn read(&self, head: &MessageWire<'_>) -> Result<Claim, Undecodable> {
        if self.slot == 0 {
            return Err(Undecodable::new("slots begin with 1"));
        }
        let user_id = self
            .user_id
            .parse()
            .map_err(|error| Undecodable::new(format!("user_id: {error}")))?;
        let claimed_at = instant(&self.claimed_at).ok_or_else(|| Undecodable::new(NOT_STORED))?;
        Ok(Claim {
            coupon_id: CouponId(head.coupon_id),
            drop_id: DropId(head.drop_id),
            slot: self.slot,
            user_id,
            claimed_at: Some(claimed_at),
        })
    }
}

/// Returns `None` for text that is not a timestamp, and for a time that MySQL cannot store.
fn instant(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
    (!is_leap_second(&at) && YEARS.contains(&at.year())).then_some(at)
}

const NOT_STORED: &str = "claimed_at: no time, a leap second, or outside the years 1970 to 9998";

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

    fn good() -> Claim {
        Claim::decode(GOOD.as_bytes()).unwrap().remove(0)
    }

    fn refused(payload: &str) -> Undecodable {
        Claim::decode(payload.as_bytes()).expect_err(payload)
    }

    #[test]
    fn message_round_trips_byte_for_byte() {
        let event = good();
        assert_eq!((event.slot, event.key().as_str()), (37, "1:37"));
        assert_eq!(event.encode(), GOOD);
    }

    #[test]
    fn documented_example_decodes_to_the_claims_that_encode_it() {
        let document = include_str!("../../docs/decisions/0032-batches-and-signatures.md");
        let (_, example) = document.split_once("```json\n").unwrap();
        let (example, _) = example.split_once("```").unwrap();
        let claims = Claim::decode(example.as_bytes()).unwrap();
        assert_eq!(claims[0], good());
        let claims: Vec<_> = claims.iter().collect();
        let encoded = Claim::encode_batch(&claims, Utc::now()).unwrap();
        let [encoded, example] =
            [&encoded, example].map(|json| serde_json::from_str::<Value>(json).unwrap());
        assert_eq!(encoded, example);
    }

    #[test]
    fn invalid_message_is_refused_with_a_reason() {
        let with = |from: &str, to: &str| GOOD.replace(from, to);
        let of_no_claim = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[]}"#;
        for payload in [
            "",
            "not json",
            "[]",
            r#"{"v":2}"#,
            of_no_claim,
            &with("claims", "claim"),
            &with(":37,", ":0,"),
            &with(":37,", ":-1,"),
            &with("u-37", "u 37"),
            &with("00:00.123", "00:60.123"),
            &with("2026-", "0001-"),
            &with("2026-12-01", "9999-12-31"),
            &with("2026-12-01T06:00:00.123Z", "soon"),
        ] {
            let reason = refused(payload).reason;
            assert_eq!(reason, DeadLetterReason::Undecodable, "{payload}");
        }
        for version in ["\"v\":1", "\"v\":3"] {
            let payload = with("\"v\":2", version);
            let reason = refused(&payload).reason;
            assert_eq!(reason, DeadLetterReason::WrongVersion, "{payload}");
        }
        assert!(Claim::decode(&[0xff, 0xfe]).is_err());
    }
}
