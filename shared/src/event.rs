//! The message of an admission on the topic: key `coupon:slot` in decimal, value UTF-8 JSON.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::schedule::instants::is_leap_second;

/// The version this build writes and reads.
pub const VERSION: u64 = 1;

/// So many slots in order share a partition.
const PARTITION_BLOCK: u32 = 64;

/// One admission, on its way to become a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimEvent {
    pub coupon_id: CouponId,
    /// The drop the slot belongs to.
    pub drop_id: DropId,
    /// The slot Redis gave out, 1..quantity.
    pub slot: Slot,
    pub user_id: UserId,
    /// When Redis admitted them, by Redis's clock, to the millisecond.
    pub claimed_at: DateTime<Utc>,
}

#[derive(Serialize, Deserialize)]
struct Wire<'a> {
    v: u64,
    coupon_id: i64,
    drop_id: i64,
    slot: i64,
    #[serde(borrow)]
    user_id: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    claimed_at: std::borrow::Cow<'a, str>,
}

/// What could be read of a message that is not a claim, so that a person can see whose it was.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragments {
    /// The coupon, where the message names one.
    pub coupon_id: Option<i64>,
    /// The drop, where the message names one.
    pub drop_id: Option<i64>,
    /// The slot, however wrong.
    pub slot: Option<i64>,
    /// The person, where the id has the form of one.
    pub user_id: Option<UserId>,
    /// The claim's instant, where it can be read.
    pub claimed_at: Option<DateTime<Utc>>,
}

/// Why a message is not a claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Undecodable {
    /// `undecodable`, `wrong_version` or `slot_out_of_range`: the reason of its dead letter.
    pub reason: &'static str,
    /// What is wrong, for a person.
    pub error: String,
    /// What could be read all the same.
    pub fragments: Fragments,
}

impl ClaimEvent {
    /// The message's key. Order is not needed, since a slot is given out once.
    pub fn key(&self) -> String {
        format!("{}:{}", self.coupon_id, self.slot)
    }

    /// The partition of `partitions` for this key. Neighbouring slots share one: they are admitted
    /// at the same time, so their messages go in one request. One hot coupon is spread over all
    /// partitions all the same.
    pub fn partition(&self, partitions: u32) -> u32 {
        let block = self.slot.saturating_sub(1) / PARTITION_BLOCK;
        // Fibonacci hashing: coupons begin at partitions of their own.
        let coupon = self.coupon_id.0.cast_unsigned().wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
        u32::try_from((coupon + u64::from(block)) % u64::from(partitions.max(1))).unwrap_or(0)
    }

    pub fn encode(&self) -> String {
        let wire = Wire {
            v: VERSION,
            coupon_id: self.coupon_id.0,
            drop_id: self.drop_id.0,
            slot: i64::from(self.slot),
            user_id: self.user_id.as_str().into(),
            claimed_at: self.claimed_at.to_rfc3339_opts(SecondsFormat::Millis, true).into(),
        };
        serde_json::to_string(&wire).unwrap_or_default()
    }

    pub fn decode(payload: &[u8]) -> Result<Self, Undecodable> {
        let wire: Wire = serde_json::from_slice(payload).map_err(|error| Undecodable {
            reason: "undecodable",
            error: if payload.is_empty() { "the message is empty".into() } else { error.to_string() },
            fragments: fragments(payload),
        })?;
        let refuse = |reason, error: String| Err(Undecodable { reason, error, fragments: fragments(payload) });
        if wire.v != VERSION {
            return refuse("wrong_version", format!("version {} is not {VERSION}", wire.v));
        }
        let user_id: UserId = match wire.user_id.parse() {
            Ok(user_id) => user_id,
            Err(error) => return refuse("undecodable", format!("user_id: {error}")),
        };
        let claimed_at = match DateTime::parse_from_rfc3339(&wire.claimed_at) {
            Ok(at) if !is_leap_second(&at.with_timezone(&Utc)) => at.with_timezone(&Utc),
            Ok(_) => return refuse("undecodable", "claimed_at: a leap second".to_owned()),
            Err(error) => return refuse("undecodable", format!("claimed_at: {error}")),
        };
        let slot = match Slot::try_from(wire.slot) {
            Ok(slot) if slot >= 1 => slot,
            _ => return refuse("slot_out_of_range", format!("slot {} is below 1 or far too high", wire.slot)),
        };
        Ok(Self { coupon_id: CouponId(wire.coupon_id), drop_id: DropId(wire.drop_id), slot, user_id, claimed_at })
    }
}

fn fragments(payload: &[u8]) -> Fragments {
    let Ok(serde_json::Value::Object(fields)) = serde_json::from_slice(payload) else { return Fragments::default() };
    let number = |name: &str| fields.get(name).and_then(serde_json::Value::as_i64);
    let text = |name: &str| fields.get(name).and_then(serde_json::Value::as_str);
    Fragments {
        coupon_id: number("coupon_id"),
        drop_id: number("drop_id"),
        slot: number("slot"),
        user_id: text("user_id").and_then(|t| t.parse().ok()),
        claimed_at: text("claimed_at")
            .and_then(|t| DateTime::parse_from_rfc3339(t).ok())
            .map(|at| at.with_timezone(&Utc))
            .filter(|at| !is_leap_second(at)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        r#"{"v":1,"coupon_id":1,"drop_id":2,"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}"#;

    #[test]
    fn the_contract_s_example_is_read_and_written_to_the_letter() {
        let event = ClaimEvent::decode(GOOD.as_bytes()).unwrap();
        assert_eq!(event.slot, 37);
        assert_eq!(event.key(), "1:37");
        assert_eq!(event.encode(), GOOD);
    }

    #[test]
    fn what_is_not_a_claim_is_refused_with_a_reason_and_what_could_be_read() {
        let cases: [(&str, &str); 9] = [
            ("", "undecodable"),
            ("not json", "undecodable"),
            ("[]", "undecodable"),
            ("{\"v\":1}", "undecodable"),
            (&GOOD.replace("\"v\":1", "\"v\":2"), "wrong_version"),
            (&GOOD.replace(":37,", ":0,"), "slot_out_of_range"),
            (&GOOD.replace(":37,", ":-1,"), "slot_out_of_range"),
            (&GOOD.replace("u-37", "u 37"), "undecodable"),
            (&GOOD.replace("00:00.123", "00:60.123"), "undecodable"),
        ];
        for (payload, reason) in cases {
            let refused = ClaimEvent::decode(payload.as_bytes()).unwrap_err();
            assert_eq!(refused.reason, reason, "{payload}");
        }
        let refused = ClaimEvent::decode(GOOD.replace(":37,", ":0,").as_bytes()).unwrap_err();
        assert_eq!(refused.fragments.drop_id, Some(2));
        assert_eq!(refused.fragments.user_id.unwrap().as_str(), "u-37");
    }

    #[test]
    fn one_coupon_uses_every_partition_and_neighbours_share_one() {
        let event = ClaimEvent::decode(GOOD.as_bytes()).unwrap();
        for coupon_id in [1, 2, i64::MAX, -1].map(CouponId) {
            let of = |slot| ClaimEvent { coupon_id, slot, ..event.clone() }.partition(12);
            let mut used: Vec<u32> = (0..12).map(|block| of(1 + block * PARTITION_BLOCK)).collect();
            used.sort_unstable();
            assert_eq!(used, (0..12).collect::<Vec<_>>());
            assert_eq!(of(1), of(PARTITION_BLOCK));
            assert!([of(0), of(u32::MAX)].iter().all(|partition| *partition < 12));
        }
        assert_eq!(event.partition(0), 0);
    }

    #[test]
    fn bytes_that_are_no_text_are_refused() {
        assert_eq!(ClaimEvent::decode(&[0xff, 0xfe]).unwrap_err().reason, "undecodable");
    }
}
