//! Decoding of messages, and dead letters.

use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

const BATCH: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[
    {"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"},
    {"slot":0,"user_id":"u-38","claimed_at":"2026-12-01T06:00:00.123Z"},
    {"slot":39,"user_id":"u-39","claimed_at":"0001-01-01T00:00:00Z"},
    {"slot":40,"user_id":"u-40","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

/// Decodes a message that follows the one before it.
pub(crate) fn message(partition: i32, offset: i64, payload: &[u8]) -> Message {
    let source = MessageOrigin {
        topic: "t".into(),
        partition,
        offset,
        timestamp_ms: Some(0),
        part: None,
    };
    let claims = || ClaimEvent::decode(payload);
    Message::decode(source, offset, payload, payload.len(), claims)
}

fn of(payload: &str) -> Message {
    message(0, 7, payload.as_bytes())
}

#[test]
fn each_claim_of_a_message_is_decoded_and_has_its_own_dead_letter() {
    let read = of(BATCH);
    assert_eq!(read.offsets, 7..8);
    let slots: Vec<_> = (0..4)
        .map(|part| read.claim(part).map(|claim| claim.slot))
        .collect();
    assert_eq!(slots, [Some(37), None, None, Some(40)]);
    let bad = read
        .claims
        .iter()
        .filter_map(|claim| Some(claim.as_ref().err()?.reason));
    assert_eq!(
        bad.collect::<Vec<_>>(),
        ["slot_out_of_range", "undecodable"]
    );
    let letter = read.letter(0, "slot_taken", "");
    let kept = String::from_utf8(letter.payload).unwrap();
    assert!(kept.contains("u-37") && !kept.contains("u-40"), "{kept}");
    assert_eq!(letter.source.part, Some(0));
    assert_eq!(of(GOOD).letter(0, "slot_taken", "").source.part, None);
}

#[test]
fn dead_letter_without_a_readable_claim_time_names_no_user() {
    let letter = |payload: &str| of(payload).letter(0, "undecodable", "");
    for instant in [
        "soon",
        "",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-12:00",
    ] {
        let payload = GOOD.replace("2026-12-01T06:00:00.123Z", instant);
        assert_eq!(
            of(&payload).claims[0].as_ref().unwrap_err().reason,
            "undecodable"
        );
        let letter = letter(&payload);
        assert!(letter.known.user_id.is_none(), "{instant}");
        assert_eq!(
            (letter.known.slot, letter.known.claimed_at),
            (None, None),
            "{instant}"
        );
    }
    assert!(letter(&GOOD.replace("37,", "0,")).known.user_id.is_some());
}

#[test]
fn message_without_a_value_is_read_as_empty() {
    let read = of("");
    assert_eq!(
        read.claims[0].as_ref().unwrap_err().error,
        "the message is empty"
    );
    assert!(read.letter(0, "undecodable", "").payload.is_empty());
}

#[test]
fn stored_error_that_quotes_the_message_is_truncated() {
    let read = of(&GOOD.replace("37,", &format!("\"{}\",", "ü".repeat(20_000))));
    let letter = read.letter(
        0,
        "undecodable",
        &read.claims[0].as_ref().unwrap_err().error,
    );
    assert_eq!(letter.error.chars().count(), LONGEST_ERROR);
    assert_eq!(letter.payload.len(), KEPT_BYTES);
}

#[test]
fn message_that_is_too_long_for_a_claim_is_not_parsed() {
    let long = format!("\"x\":\"{}\",\"v\"", "x".repeat(LONGEST_MESSAGE));
    let long = GOOD.replace("\"v\"", &long);
    let read = of(&long);
    let bytes = long.len();
    let expected = format!("the message has {bytes} bytes, and claims have 65536 at most");
    assert_eq!(read.claims[0].as_ref().unwrap_err().error, expected);
    assert_eq!(read.letter(0, "undecodable", "").payload.len(), KEPT_BYTES);
}

proptest! {
    #[test]
    fn dead_letter_keeps_message_bytes_unchanged(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let read = message(0, 0, &payload);
        prop_assert!(read.claims[0].is_err());
        prop_assert_eq!(read.letter(0, "undecodable", "").payload, payload);
    }
}
