//! Decoding of messages, and dead letters.

use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

const BATCH: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[
    {"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"},
    {"slot":0,"user_id":"u-38","claimed_at":"2026-12-01T06:00:00.123Z"},
    {"slot":39,"user_id":"u-39","claimed_at":"0001-01-01T00:00:00Z"},
    {"slot":40,"user_id":"u-40","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

/// Decodes a message.
pub(crate) fn records(partition: i32, offset: i64, payload: &[u8]) -> Vec<Record> {
    let source = MessageOrigin {
        topic: "t".into(),
        partition,
        offset,
        timestamp_ms: Some(0),
        part: 0,
    };
    Record::from_claims(&source, payload, ClaimEvent::decode(payload), None)
}

/// Decodes a message with one claim.
fn of(payload: &str) -> Record {
    records(0, 7, payload.as_bytes()).remove(0)
}

fn error(record: &Record) -> &Undecodable {
    record.claim.as_ref().unwrap_err()
}

#[test]
fn each_claim_of_a_message_is_decoded_and_has_its_own_dead_letter() {
    let read = records(0, 7, BATCH.as_bytes());
    let slots: Vec<_> = read.iter().map(|it| it.claim().map(|it| it.slot)).collect();
    assert_eq!(slots, [Some(37), None, None, Some(40)]);
    let bad = [&read[1], &read[2]].map(|it| error(it).reason);
    assert_eq!(bad, ["slot_out_of_range", "undecodable"]);
    let letter = read[0].letter("slot_taken", "");
    let kept = String::from_utf8(letter.payload).unwrap();
    assert!(kept.contains("u-37") && !kept.contains("u-40"), "{kept}");
    assert_eq!(read[3].letter("slot_taken", "").source.part, 3);
}

#[test]
fn dead_letter_without_a_readable_claim_time_names_no_user() {
    let letter = |payload: &str| of(payload).letter("undecodable", "");
    for instant in [
        "soon",
        "",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:59.9999Z",
        "9999-12-31T23:59:59-12:00",
    ] {
        let payload = GOOD.replace("2026-12-01T06:00:00.123Z", instant);
        assert_eq!(error(&of(&payload)).reason, "undecodable");
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
    assert_eq!(error(&read).error, "the message is empty");
    assert!(read.letter("undecodable", "").payload.is_empty());
}

#[test]
fn stored_error_that_quotes_the_message_is_truncated() {
    let read = of(&GOOD.replace("37,", &format!("\"{}\",", "ü".repeat(20_000))));
    let letter = read.letter("undecodable", &error(&read).error);
    assert_eq!(letter.error.chars().count(), LONGEST_ERROR);
    assert_eq!(letter.payload.len(), KEPT_BYTES);
}

proptest! {
    #[test]
    fn dead_letter_keeps_message_bytes_unchanged(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let read = records(0, 0, &payload).remove(0);
        prop_assert!(read.claim.is_err());
        prop_assert_eq!(read.letter("undecodable", "").payload, payload);
    }
}
