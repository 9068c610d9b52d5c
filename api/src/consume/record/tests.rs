//! Decoding of messages, and dead letters.

use proptest::prelude::*;

use super::*;

const GOOD: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[{"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"}]}"#;

const BATCH: &str = r#"{"v":2,"coupon_id":1,"drop_id":2,"claims":[
    {"slot":37,"user_id":"u-37","claimed_at":"2026-12-01T06:00:00.123Z"},
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
    Record::from_claims(&source, payload, Claim::decode(payload))
}

/// Decodes a message that becomes a single record.
fn of(payload: &str) -> Record {
    records(0, 7, payload.as_bytes()).remove(0)
}

fn error(record: &Record) -> &Undecodable {
    record.claim.as_ref().unwrap_err()
}

#[test]
fn each_claim_has_its_own_dead_letter_and_an_unreadable_message_has_one() {
    let read = records(0, 7, BATCH.as_bytes());
    let letter = read[1].letter(DeadLetterReason::SlotTaken, "");
    let kept = String::from_utf8(letter.payload).unwrap();
    assert!(kept.contains("u-40") && !kept.contains("u-37"), "{kept}");
    assert_eq!((letter.source.part, letter.claim.unwrap().slot), (1, 40));
    let read = records(0, 7, BATCH.replace("40,", "0,").as_bytes());
    let [record] = &read[..] else {
        panic!("{read:?}")
    };
    let letter = record.letter(DeadLetterReason::Undecodable, "");
    assert_eq!(letter.claim, None, "no pass issues a claim that it names");
}

#[test]
fn empty_message_gets_a_dead_letter_without_a_payload() {
    let read = of("");
    assert_eq!(error(&read).error, "the message is empty");
    assert!(
        read.letter(DeadLetterReason::Undecodable, "")
            .payload
            .is_empty()
    );
}

#[test]
fn stored_error_and_stored_message_are_truncated() {
    let read = of(&GOOD.replace("37,", &format!("\"{}\",", "ü".repeat(20_000))));
    let letter = read.letter(DeadLetterReason::Undecodable, &error(&read).error);
    assert_eq!(letter.error.chars().count(), LONGEST_ERROR);
    assert_eq!(letter.payload.len(), usize::from(KEPT_OF_MESSAGE));
}

proptest! {
    #[test]
    fn dead_letter_keeps_the_bytes_of_a_short_unreadable_message(payload in proptest::collection::vec(any::<u8>(), 0..200)) {
        let read = records(0, 0, &payload).remove(0);
        prop_assert!(read.claim.is_err());
        prop_assert_eq!(read.letter(DeadLetterReason::Undecodable, "").payload, payload);
    }
}
