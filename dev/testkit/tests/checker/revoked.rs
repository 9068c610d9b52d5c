//! Histories in which claims are returned or revoked.

use firstcome_testkit::histories::{RecordedAnswer, RecordedEvent, Rule, Verdict, Violation};

use super::events::{
    DROP, accepted, already, asks, assert_found, failed, found, good, insert, judged, last, ok,
    row, unknown,
};

fn revoking(op: u64, person: &str, again: bool) -> RecordedEvent {
    RecordedEvent::Revoking {
        op,
        coupon: 1,
        drop: Some(DROP),
        person: person.into(),
        again,
    }
}

fn revoked(op: u64) -> RecordedEvent {
    ok(op, RecordedAnswer::Revoked { drop: DROP })
}

/// Returns a history in which u-1 returns their slot and the waiting user gets it.
fn given_back(ends: RecordedEvent) -> Vec<RecordedEvent> {
    let mut events = good();
    insert(&mut events, [revoking(200, "u-1", false), ends]);
    insert(&mut events, asks(201, "u-waits", already(1)));
    last(&mut events)[0] = row(1, "u-waits");
    events
}

/// Returns a history in which u-1 returns their slot but still has the row at the end.
fn still_held(ends: RecordedEvent) -> Vec<RecordedEvent> {
    let mut events = good();
    insert(&mut events, [revoking(200, "u-1", false), ends]);
    events
}

#[test]
fn a_returned_slot_goes_to_the_next_user_and_is_not_restored() {
    assert_eq!(found(given_back(revoked(200))), []);
    let may_have_taken_effect = unknown(200);
    assert_eq!(found(given_back(may_have_taken_effect.clone())), []);
    assert_eq!(found(still_held(may_have_taken_effect)), []);
    assert_found(&found(given_back(failed(200))), Rule::Lost, 1);
    assert_found(&found(still_held(revoked(200))), Rule::RevokedHeld, 1);
    let mut promised = given_back(revoked(200));
    insert(&mut promised, asks(202, "u-1", already(1)));
    assert_found(&found(promised), Rule::RevokedPromised, 1);
    let mut unused = given_back(revoked(200));
    last(&mut unused).remove(0);
    assert_found(&found(unused), Rule::TooFew, 0);
}

/// u-1's coupon is revoked with permission to claim again; u-1 then gets slot 7, which was
/// permanently revoked from u-7.
fn claims_again(ends: RecordedEvent) -> Vec<RecordedEvent> {
    let mut events = good();
    insert(&mut events, [revoking(200, "u-7", false), revoked(200)]);
    insert(&mut events, [revoking(201, "u-1", true), ends]);
    insert(&mut events, asks(202, "u-waits", already(1)));
    insert(&mut events, asks(203, "u-1", accepted(7)));
    last(&mut events)[0] = row(1, "u-waits");
    last(&mut events)[6] = row(7, "u-1");
    events
}

#[test]
fn a_user_who_may_claim_again_keeps_the_new_promise() {
    assert_eq!(found(claims_again(revoked(201))), []);
    assert_eq!(found(claims_again(unknown(201))), []);
    let spoiled = |ends: RecordedEvent| {
        let mut events = claims_again(ends);
        last(&mut events)[6] = row(7, "u-late");
        judged(events)
    };
    let lost = |verdict: &Verdict| match verdict {
        Verdict::Violated(found) => found.iter().any(|violation| {
            matches!(
                violation,
                Violation {
                    rule: Rule::Lost,
                    ..
                }
            )
        }),
        _ => false,
    };
    let verdict = spoiled(revoked(201));
    assert!(lost(&verdict), "the second promise is lost: {verdict:?}");
    let verdict = spoiled(unknown(201));
    assert!(
        !lost(&verdict),
        "the revocation may take effect late: {verdict:?}"
    );
}
