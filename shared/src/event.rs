//! Messages of admissions on the topic: UTF-8 JSON with the claims that one call admitted to a
//! drop. The key is `coupon:lowest slot`. `docs/asyncapi.json` describes them.

use std::borrow::Cow;

use chrono::{DateTime, Datelike as _, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::schedule::instants::is_leap_second;

/// The version of the format.
const VERSION: u64 = 2;

/// Accepted years of claims, within the range of MySQL's `DATETIME`. A year outside that range
/// could not be stored in the dead-letter table either, and would block the partition.
const YEARS: std::ops::RangeInclusive<i32> = 1970..=9_998;

/// Number of consecutive slots that share a partition.
const PARTITION_BLOCK: u32 = 64;

/// An admission to store as a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClaimEvent {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    /// The slot that Redis gave, from 1 to the drop's quantity.
    pub slot: Slot,
    pub user_id: UserId,
    /// The time of the admission by Redis's clock, to the millisecond.
    pub claimed_at: DateTime<Utc>,
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
    slot: i64,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    #[serde(borrow)]
    claimed_at: Cow<'a, str>,
}

/// The readable fields of an invalid message, which help to find the user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fragments {
    /// The coupon, if the message names one.
    pub coupon_id: Option<i64>,
    /// The drop, if the message names one.
    pub drop_id: Option<i64>,
    /// The slot, even if invalid.
    pub slot: Option<i64>,
    /// The user, if the id is valid.
    pub user_id: Option<UserId>,
    /// The time of the claim, if readable.
    pub claimed_at: Option<DateTime<Utc>>,
}

impl From<&ClaimEvent> for Fragments {
    fn from(event: &ClaimEvent) -> Self {
        Self {
            coupon_id: Some(event.coupon_id.0),
            drop_id: Some(event.drop_id.0),
            slot: Some(i64::from(event.slot)),
            user_id: Some(event.user_id.clone()),
            claimed_at: Some(event.claimed_at),
        }
    }
}

/// Why a message is not a claim.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{error}")]
pub struct Undecodable {
    /// The reason of its dead letter: `undecodable`, `wrong_version` or `slot_out_of_range`.
    pub reason: &'static str,
    /// Explains the fault to operators.
    pub error: String,
    /// The fields that could be read.
    pub fragments: Fragments,
}

impl ClaimEvent {
    /// Returns the key of a message in which this claim has the lowest slot. Messages need no
    /// order, because each slot is given once.
    pub fn key(&self) -> String {
        format!("{}:{}", self.coupon_id, self.slot)
    }

    /// Returns the partition, out of `partitions`, for this claim. Neighbouring slots share a
    /// partition: they are admitted at the same time, so their messages fit in one request. A
    /// single busy coupon still uses all partitions.
    pub fn partition(&self, partitions: u32) -> u32 {
        let block = self.slot.saturating_sub(1) / PARTITION_BLOCK;
        // Fibonacci hashing, so that coupons start at different partitions.
        let coupon = self
            .coupon_id
            .0
            .cast_unsigned()
            .wrapping_mul(0x9E37_79B9_7F4A_7C15)
            >> 32;
        u32::try_from((coupon + u64::from(block)) % u64::from(partitions.max(1))).unwrap_or(0)
    }

    /// Encodes a message with only this claim.
    pub fn encode(&self) -> String {
        Self::encode_batch(&[self])
    }

    /// Encodes a message. All claims must belong to one drop.
    pub fn encode_batch(claims: &[&Self]) -> String {
        let Some(first) = claims.first() else {
            return String::new();
        };
        let coupon_id = first.coupon_id.0;
        let drop_id = first.drop_id.0;
        let claims = claims.iter().map(|claim| claim.wire()).collect();
        serde_json::to_string(&MessageWire {
            v: VERSION,
            coupon_id,
            drop_id,
            claims,
        })
        .unwrap_or_default()
    }

    fn wire(&self) -> ClaimWire<'_> {
        ClaimWire {
            slot: i64::from(self.slot),
            user_id: self.user_id.as_str().into(),
            claimed_at: self
                .claimed_at
                .to_rfc3339_opts(SecondsFormat::Millis, true)
                .into(),
        }
    }

    /// Parses the claims of a message. One with a slot, user or time that is not allowed does not
    /// affect the others. A message of another form is a single error: nobody but Firstcome signs
    /// messages, so it comes from another version.
    pub fn decode(payload: &[u8]) -> Vec<Result<Self, Undecodable>> {
        let refuse = |reason, error| {
            let fragments = Fragments::default();
            vec![Err(Undecodable {
                reason,
                error,
                fragments,
            })]
        };
        let wire: MessageWire<'_> = match serde_json::from_slice(payload) {
            Ok(wire) => wire,
            Err(_) if payload.is_empty() => {
                return refuse("undecodable", "the message is empty".to_owned());
            }
            Err(error) => return refuse("undecodable", error.to_string()),
        };
        match &wire {
            MessageWire { v, .. } if *v != VERSION => refuse(
                "wrong_version",
                format!("the version is {v}, not {VERSION}"),
            ),
            MessageWire { claims, .. } if claims.is_empty() => {
                refuse("undecodable", "a message without claims".to_owned())
            }
            MessageWire { claims, .. } => claims.iter().map(|claim| claim.read(&wire)).collect(),
        }
    }
}

impl ClaimWire<'_> {
    fn read(&self, head: &MessageWire<'_>) -> Result<ClaimEvent, Undecodable> {
        self.claim(head).map_err(|(reason, error)| Undecodable {
            reason,
            error,
            fragments: Fragments {
                coupon_id: Some(head.coupon_id),
                drop_id: Some(head.drop_id),
                slot: Some(self.slot),
                user_id: self.user_id.parse().ok(),
                claimed_at: instant(&self.claimed_at),
            },
        })
    }

    fn claim(&self, head: &MessageWire<'_>) -> Result<ClaimEvent, (&'static str, String)> {
        let undecodable = |error: String| ("undecodable", error);
        let user_id: UserId = self
            .user_id
            .parse()
            .map_err(|error| undecodable(format!("user_id: {error}")))?;
        let claimed_at = instant(&self.claimed_at);
        let claimed_at = claimed_at.ok_or_else(|| undecodable(NOT_STORED.to_owned()))?;
        let slot = Slot::try_from(self.slot).ok().filter(|slot| *slot >= 1);
        let far = || format!("slot {} is below 1 or far too high", self.slot);
        Ok(ClaimEvent {
            coupon_id: CouponId(head.coupon_id),
            drop_id: DropId(head.drop_id),
            slot: slot.ok_or_else(|| ("slot_out_of_range", far()))?,
            user_id,
            claimed_at,
        })
    }
}

fn instant(text: &str) -> Option<DateTime<Utc>> {
    let at = DateTime::parse_from_rfc3339(text).ok()?.with_timezone(&Utc);
    Some(at).filter(can_be_stored)
}

const NOT_STORED: &str = "claimed_at: no time, a leap second, or outside the years 1970 to 9998";

fn can_be_stored(at: &DateTime<Utc>) -> bool {
    !is_leap_second(at) && YEARS.contains(&at.year())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

    fn good() -> ClaimEvent {
        let [Ok(event)] = &ClaimEvent::decode(GOOD.as_bytes())[..] else {
            panic!("{GOOD}")
        };
        event.clone()
    }

    fn refused(payload: &str) -> Undecodable {
        match &ClaimEvent::decode(payload.as_bytes())[..] {
            [Err(refused)] => refused.clone(),
            other => panic!("{payload}: {other:?}"),
        }
    }

    #[test]
    fn message_round_trips_byte_for_byte() {
        let event = good();
        assert_eq!((event.slot, event.key().as_str()), (37, "1:37"));
        assert_eq!(event.encode(), GOOD);
    }

    #[test]
    fn documented_example_decodes_to_the_claims_that_encode_it() {
        let document: Value =
            serde_json::from_str(include_str!("../../docs/asyncapi.json")).unwrap();
        let example = &document["components"]["messages"]["claims"]["examples"][0]["payload"];
        let claims: Vec<ClaimEvent> = ClaimEvent::decode(example.to_string().as_bytes())
            .into_iter()
            .map(Result::unwrap)
            .collect();
        assert_eq!(claims[0], good());
        let encoded = ClaimEvent::encode_batch(&claims.iter().collect::<Vec<_>>());
        assert_eq!(&serde_json::from_str::<Value>(&encoded).unwrap(), example);
    }

    #[test]
    fn invalid_message_is_refused_with_a_reason_and_its_readable_fields() {
        let cases: [(&str, &str); 12] = [
            ("", "undecodable"),
            ("not json", "undecodable"),
            ("[]", "undecodable"),
            ("{\"v\":2}", "undecodable"),
            (&GOOD.replace("claims", "claim"), "undecodable"),
            (&GOOD.replace("\"v\":2", "\"v\":1"), "wrong_version"),
            (&GOOD.replace("\"v\":2", "\"v\":3"), "wrong_version"),
            (
                "{\"v\":2,\"coupon_id\":1,\"drop_id\":2,\"claims\":[]}",
                "undecodable",
            ),
            (&GOOD.replace(":37,", ":0,"), "slot_out_of_range"),
            (&GOOD.replace(":37,", ":-1,"), "slot_out_of_range"),
            (&GOOD.replace("u-37", "u 37"), "undecodable"),
            (&GOOD.replace("00:00.123", "00:60.123"), "undecodable"),
        ];
        for (payload, reason) in cases {
            assert_eq!(refused(payload).reason, reason, "{payload}");
        }
        let known = refused(&GOOD.replace(":37,", ":0,")).fragments;
        assert_eq!(
            (known.drop_id, known.user_id.unwrap().as_str()),
            (Some(2), "u-37")
        );
    }

    #[test]
    fn invalid_claim_does_not_affect_the_rest_of_its_message() {
        let claims: Vec<ClaimEvent> = (1..=4).map(|slot| ClaimEvent { slot, ..good() }).collect();
        let batch = ClaimEvent::encode_batch(&claims.iter().collect::<Vec<_>>());
        assert_eq!(
            ClaimEvent::decode(batch.as_bytes()),
            claims.iter().cloned().map(Ok).collect::<Vec<_>>()
        );
        let second = "\"slot\":2,\"user_id\":\"u-37\"";
        for (wrong, reason) in [
            (second.replace(":2,", ":0,"), "slot_out_of_range"),
            (second.replace("u-37", "u 37"), "undecodable"),
        ] {
            let wrong = batch.replace(second, &wrong);
            let read = ClaimEvent::decode(wrong.as_bytes());
            assert_eq!(read.iter().filter(|one| one.is_ok()).count(), 3, "{wrong}");
            let refused = read[1].as_ref().unwrap_err();
            assert_eq!(
                (refused.reason, refused.fragments.drop_id),
                (reason, Some(2)),
                "{wrong}"
            );
        }
    }

    #[test]
    fn coupon_uses_every_partition_and_neighbouring_slots_share_one() {
        let event = good();
        for coupon_id in [1, 2, i64::MAX, -1].map(CouponId) {
            let of = |slot| {
                ClaimEvent {
                    coupon_id,
                    slot,
                    ..event.clone()
                }
                .partition(12)
            };
            let mut used: Vec<u32> = (0..12)
                .map(|block| of(1 + block * PARTITION_BLOCK))
                .collect();
            used.sort_unstable();
            assert_eq!(used, (0..12).collect::<Vec<_>>());
            assert_eq!(of(1), of(PARTITION_BLOCK));
            assert!(
                [of(0), of(u32::MAX)]
                    .iter()
                    .all(|partition| *partition < 12)
            );
        }
        assert_eq!(event.partition(0), 0);
    }

    #[test]
    fn invalid_utf8_is_refused() {
        assert!(
            matches!(&ClaimEvent::decode(&[0xff, 0xfe])[..], [Err(refused)] if refused.reason == "undecodable")
        );
    }
}
