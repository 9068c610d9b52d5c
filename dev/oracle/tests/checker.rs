//! Runs the checker on good and spoiled histories: a table of events, final rows and violations.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use firstcome_oracle::{
    CodeAnswer, History, RecordedAnswer, RecordedEvent, RecordedRow, RecordedScope, Rule,
    ShownClaim, Verdict, check,
};

const DROP: u64 = 9;

fn outcome(op: u64, words: &[&str]) -> RecordedEvent {
    let drop = DROP;
    let reason = "…".to_owned();
    let slot = words.get(1).map_or(0, |slot| slot.parse().unwrap_or(0));
    let answer = match words[0] {
        "failed" => return RecordedEvent::Failed { op, reason },
        "unknown" => return RecordedEvent::Unknown { op, reason },
        "accepted" => RecordedAnswer::Accepted { drop, slot },
        "already" => RecordedAnswer::AlreadyClaimed { drop, slot },
        "waits" => RecordedAnswer::Waiting { position: 1 },
        "sold_out" => RecordedAnswer::SoldOut,
        "revoked" => RecordedAnswer::Revoked { drop },
        "not_allowed" => RecordedAnswer::NotAllowed,
        "changed" => RecordedAnswer::ListChanged,
        "sees" => RecordedAnswer::Shown {
            slot: words.get(1).map(|_| slot),
            drop: None,
            claim: None,
        },
        "shows" => {
            let claim = match words[1] {
                "accepted" => ShownClaim::Accepted,
                "issued" => ShownClaim::Issued,
                "revoked" => ShownClaim::Revoked,
                "none" => ShownClaim::None,
                word => panic!("{word}"),
            };
            RecordedAnswer::Shown {
                slot: words.get(2).map(|slot| slot.parse().unwrap()),
                drop: words.get(2).map(|_| drop),
                claim: Some(claim),
            }
        }
        word => panic!("{word}"),
    };
    RecordedEvent::Ok { op, answer }
}

fn begun(op: u64, person: &str, act: &str) -> RecordedEvent {
    let (coupon, drop, person) = (1, Some(DROP), person.to_owned());
    let again = act == "loses";
    let on = act == "joins";
    match act {
        "claims" => RecordedEvent::Invoked {
            op,
            coupon,
            drop,
            person,
        },
        "looks" => RecordedEvent::LookingUp { op, coupon, person },
        "returns" | "loses" => RecordedEvent::Revoking {
            op,
            coupon,
            drop,
            person,
            again,
        },
        "joins" | "leaves" => RecordedEvent::Listing {
            op,
            coupon,
            person,
            on,
        },
        word => panic!("{word}"),
    }
}

fn rows(words: &[&str]) -> Vec<RecordedRow> {
    let row = |word: &&str| {
        let (slot, person) = word.split_once(':').unwrap();
        let slot = slot.parse().unwrap();
        let person = person.to_owned();
        RecordedRow { slot, person }
    };
    words.iter().map(row).collect()
}

/// Parses events, separated by semicolons. `a claims accepted 1` is a whole operation;
/// `7 > a claims` and `7 < accepted 1` are its begin and its end. `loses` is a revocation after
/// which the user may claim again. `drop changes 7 5` begins the change 7 to the quantity 5, and
/// `drop changed 7` or `drop refused 7` ends it. `drop closed` ends the drop's window.
fn events(text: &str) -> Vec<RecordedEvent> {
    let mut all = Vec::new();
    let lines = text
        .split(';')
        .map(str::trim)
        .filter(|line| !line.is_empty());
    for (op, line) in (1_000..).zip(lines) {
        let words: Vec<&str> = line.split(' ').collect();
        let drop = DROP;
        match words[..] {
            ["drop", "closed"] => all.push(RecordedEvent::Closed { drop }),
            ["drop", quantity] => all.push(RecordedEvent::Drop {
                drop,
                coupon: 1,
                quantity: quantity.parse().unwrap(),
                once_per: RecordedScope::Drop,
            }),
            ["drop", "changes", number, quantity] => all.push(RecordedEvent::Changing {
                op: number.parse().unwrap(),
                coupon: 1,
                quantity: quantity.parse().unwrap(),
            }),
            ["drop", word @ ("changed" | "refused"), number] => all.push(RecordedEvent::Changed {
                op: number.parse().unwrap(),
                made: word == "changed",
            }),
            ["list", ref people @ ..] => all.push(RecordedEvent::AllowList {
                coupon: 1,
                people: people.iter().map(|&person| person.into()).collect(),
            }),
            ["read", ref read @ ..] => all.push(RecordedEvent::Read {
                drop,
                rows: rows(read),
            }),
            ["final", ref last @ ..] => all.push(RecordedEvent::Final {
                drop,
                rows: rows(last),
            }),
            ["broken", person, slot] => all.push(RecordedEvent::Broken {
                drop,
                person: person.into(),
                slot: slot.parse().ok(),
            }),
            [number, ">", person, act] => all.push(begun(number.parse().unwrap(), person, act)),
            [number, "<", ref ends @ ..] => all.push(outcome(number.parse().unwrap(), ends)),
            [person, act, ref ends @ ..] => {
                all.push(begun(op, person, act));
                all.push(outcome(op, ends));
            }
            _ => panic!("{line}"),
        }
    }
    all
}

fn judged(text: &str) -> Verdict {
    check(&History::of(events(text)).unwrap()).verdict
}

/// Four slots, all taken. One user waits, and another was refused.
const GOOD: &str = "drop 4; a claims accepted 1; b claims accepted 2; c claims accepted 3; d claims accepted 4; \
    a claims already 1; w claims waits; l claims sold_out; read 1:a 2:b";

/// Three slots. a has one and is removed from the list, b is removed, x is added and gets a slot,
/// and c is on the list and has not claimed yet.
const LISTED: &str = "drop 3; list a b c; a claims accepted 1; x claims not_allowed; b leaves changed; \
    b claims not_allowed; x joins changed; x claims accepted 2; a leaves changed; a claims already 1";

/// A history, more events, the final rows, and the expected violations, each with its slot (0: no
/// particular slot). A history without violations must pass.
type Case = (
    &'static str,
    &'static str,
    &'static str,
    &'static [(Rule, i64)],
);

#[rustfmt::skip]
const CASES: &[Case] = &[
    (GOOD, "", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "", "1:a 2:b 3:c", &[(Rule::Lost, 4), (Rule::TooFew, 0)]),
    (GOOD, "", "1:a 3:c 4:d", &[(Rule::Lost, 2), (Rule::Vanished, 2)]),
    (GOOD, "", "1:a 2:a 3:c 4:d", &[(Rule::UserDoubled, 2)]),
    (GOOD, "", "1:a 1:b 3:c 4:d", &[(Rule::SlotDoubled, 1)]),
    (GOOD, "", "1:a 2:b 3:c 5:d", &[(Rule::NoSuchSlot, 5)]),
    (GOOD, "", "1:a 2:b 3:c -1:d", &[(Rule::NoSuchSlot, -1)]),
    (GOOD, "", "1:a 2:b 3:c 4:d 5:w", &[(Rule::TooMany, 0)]),
    (GOOD, "", "1:a 2:b 3:c 4:nobody", &[(Rule::NeverAsked, 4)]),
    (GOOD, "", "1:a 2:b 3:c 4:l", &[(Rule::NeverAdmitted, 4)]),
    (GOOD, "", "1:a 2:b 3:d 4:c", &[(Rule::OtherSlot, 3), (Rule::OtherSlot, 4)]),
    (GOOD, "read 1:z", "1:a 2:b 3:c 4:d", &[(Rule::NeverAsked, 1)]),
    (GOOD, "c claims already 4", "1:a 2:b 3:c 4:d", &[(Rule::Contradiction, 4), (Rule::PromisedTwice, 4)]),
    (GOOD, "c claims accepted 3", "1:a 2:b 3:c 4:d", &[(Rule::AcceptedTwice, 3)]),
    (GOOD, "c loses revoked; c claims accepted 3", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "c claims sold_out", "1:a 2:b 3:c 4:d", &[(Rule::Denied, 3)]),
    (GOOD, "c claims failed", "1:a 2:b 3:c 4:d", &[(Rule::Denied, 3)]),
    // A look-up shows the promise that was answered before it began, unless it may be revoked or
    // is listed.
    (GOOD, "c looks sees 3; w looks sees; z looks sees", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "c looks sees", "1:a 2:b 3:c 4:d", &[(Rule::Denied, 3)]),
    (GOOD, "c looks sees 4", "1:a 2:b 3:c 4:d", &[(Rule::Denied, 3)]),
    ("drop 1; 1 > c claims; 2 > c looks; 1 < accepted 1; 2 < sees", "", "1:c", &[]),
    (GOOD, "c looks sees; broken c 3", "1:a 2:b 3:w 4:d", &[]),
    (GOOD, "1 > c returns; c looks sees; 1 < revoked; w claims already 3", "1:a 2:b 3:w 4:d", &[]),
    (GOOD, "c loses revoked; c claims accepted 3; c looks sees", "1:a 2:b 3:c 4:d", &[(Rule::Denied, 3)]),
    // A slot that a look-up shows is a promise, unless it is listed or may be revoked.
    (GOOD, "c looks shows accepted 3; w looks shows none", "1:a 2:b 3:c 4:d", &[]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows accepted 2", "", "1:a", &[(Rule::Lost, 2)]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows issued 2", "", "1:a 3:b", &[(Rule::OtherSlot, 2)]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows issued 1", "", "1:a 2:b", &[(Rule::PromisedTwice, 1)]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows accepted 2", "b claims sold_out", "1:a 2:b", &[(Rule::Denied, 2)]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows accepted 2", "b looks shows none", "1:a 2:b", &[(Rule::Denied, 2)]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows accepted 2", "broken b 2", "1:a", &[]),
    ("drop 3; a claims accepted 1; b claims unknown; b looks shows accepted 2", "b returns unknown", "1:a", &[]),
    // After a revocation, no look-up shows a slot, and once one has shown the revocation, no claim
    // gets a slot.
    (GOOD, "a returns revoked; a looks shows revoked; w claims already 1", "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "a returns revoked; a looks shows accepted 1; w claims already 1", "1:w 2:b 3:c 4:d", &[(Rule::RevokedShown, 1)]),
    (GOOD, "1 > a looks; a returns revoked; 1 < shows issued 1; w claims already 1", "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "1 > a returns; a looks shows revoked; a claims already 1; 1 < revoked; w claims already 1",
        "1:w 2:b 3:c 4:d", &[(Rule::RevokedPromised, 1)]),
    (GOOD, "1 > a returns; a looks shows revoked; a looks shows issued 1; 1 < revoked; w claims already 1",
        "1:w 2:b 3:c 4:d", &[(Rule::RevokedShown, 1)]),
    (GOOD, "1 > a returns; 2 > a claims; a looks shows revoked; 2 < already 1; 1 < revoked; w claims already 1",
        "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "a returns unknown; a looks shows revoked", "1:a 2:b 3:c 4:d", &[(Rule::RevokedHeld, 1)]),
    (GOOD, "1 > a loses; a looks shows revoked; a claims already 1; 1 < revoked; w claims already 1", "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "a loses revoked; a looks shows issued 1; w claims already 1", "1:w 2:b 3:c 4:d", &[(Rule::RevokedShown, 1)]),
    (GOOD, "a loses revoked; a claims accepted 1; a looks shows issued 1", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "1 > w claims; w loses revoked; w looks shows accepted 4; 1 < already 4; d returns revoked", "1:a 2:b 3:c 4:w", &[]),
    (GOOD, "z looks shows revoked", "1:a 2:b 3:c 4:d", &[(Rule::NeverRevoked, 0)]),
    (GOOD, "w returns failed; w looks shows revoked", "1:a 2:b 3:c 4:d", &[(Rule::NeverRevoked, 0)]),
    (GOOD, "1 > w looks; 2 > w returns; 1 < shows revoked", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "z claims not_allowed", "1:a 2:b 3:c 4:d", &[(Rule::TurnedAway, 0)]),
    // A raised quantity applies only after it is recorded.
    (GOOD, "drop changes 7 5; drop 5; read 5:w", "1:a 2:b 3:c 4:d 5:w", &[]),
    (GOOD, "drop changes 7 5; read 5:w; drop 5", "1:a 2:b 3:c 4:d 5:w", &[(Rule::NoSuchSlot, 5)]),
    // A quantity changes only on an operator's request, and stays once the change is confirmed.
    (GOOD, "drop 5; drop 4", "1:a 2:b 3:c 4:d", &[(Rule::UnaskedQuantity, 0)]),
    (GOOD, "drop 5; drop changes 7 5; drop changed 7", "1:a 2:b 3:c 4:d", &[(Rule::UnaskedQuantity, 0)]),
    (GOOD, "drop changes 7 5; drop refused 7; drop 5", "1:a 2:b 3:c 4:d 5:w", &[(Rule::UnaskedQuantity, 0)]),
    (GOOD, "drop changes 7 5; drop refused 7", "1:a 2:b 3:c 4:d", &[]),
    ("drop 1; a claims accepted 1; drop closed; drop changes 7 3; drop changed 7", "", "1:a", &[]),
    (GOOD, "drop changes 7 5; drop changed 7", "1:a 2:b 3:c 4:d", &[(Rule::ForgottenQuantity, 0)]),
    (GOOD, "drop changes 7 5; drop 5", "1:a 2:b 3:c 4:d 5:w", &[]),
    (GOOD, "drop changes 7 5; drop changed 7; drop changes 8 4", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "drop changes 7 5; drop changed 7; drop changes 8 4; drop changed 8", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "drop changes 7 5; drop changes 8 4; drop changed 7; drop changed 8", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "drop changes 7 4; drop changed 7; drop changes 8 5; drop changed 8", "1:a 2:b 3:c 4:d", &[(Rule::ForgottenQuantity, 0)]),
    // A promise is not lost if it is listed as broken with its own slot.
    (GOOD, "", "1:a 2:b 3:w 4:d", &[(Rule::Lost, 3)]),
    (GOOD, "broken c 4", "1:a 2:b 3:w 4:d", &[(Rule::Lost, 3)]),
    (GOOD, "broken c 3", "1:a 2:b 3:w 4:d", &[]),
    // Slots that are left while users wait, or after enough users claimed.
    ("drop 4; a claims accepted 1", "", "1:a", &[]),
    ("drop 4; a claims accepted 1", "w claims waits", "1:a", &[(Rule::TooFew, 0)]),
    // A returned slot goes to the next user.
    (GOOD, "a returns revoked; w claims already 1", "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "a returns unknown; w claims already 1", "1:w 2:b 3:c 4:d", &[]),
    (GOOD, "a returns unknown", "1:a 2:b 3:c 4:d", &[]),
    (GOOD, "a returns failed; w claims already 1", "1:w 2:b 3:c 4:d", &[(Rule::Lost, 1)]),
    (GOOD, "a returns revoked", "1:a 2:b 3:c 4:d", &[(Rule::RevokedHeld, 1)]),
    (GOOD, "a returns revoked; w claims already 1; a claims already 1", "1:w 2:b 3:c 4:d", &[(Rule::RevokedPromised, 1)]),
    (GOOD, "a returns revoked; w claims already 1", "2:b 3:c 4:d", &[(Rule::Lost, 1), (Rule::TooFew, 0)]),
    // A user who may claim again keeps a new promise, here of the slot that another user returned.
    (GOOD, "c returns revoked; a loses revoked; w claims already 1; a claims accepted 3", "1:w 2:b 3:a 4:d", &[]),
    (GOOD, "c returns revoked; a loses unknown; w claims already 1; a claims accepted 3", "1:w 2:b 3:a 4:d", &[]),
    (GOOD, "c returns revoked; a loses revoked; w claims already 1; a claims accepted 3", "1:w 2:b 4:d", &[(Rule::Lost, 3)]),
    (GOOD, "c returns revoked; a loses unknown; w claims already 1; a claims accepted 3; l claims waits",
        "1:w 2:b 3:l 4:d", &[]),
    // Users off the list during every request get no promise.
    (LISTED, "", "1:a 2:x", &[]),
    (LISTED, "b claims accepted 3", "1:a 2:x 3:b", &[(Rule::GivenUnlisted, 0), (Rule::HeldUnlisted, 3)]),
    (LISTED, "y claims accepted 3", "1:a 2:x 3:y", &[(Rule::GivenUnlisted, 0), (Rule::HeldUnlisted, 3)]),
    (LISTED, "b joins failed; b claims accepted 3", "1:a 2:x 3:b", &[(Rule::GivenUnlisted, 0)]),
    (LISTED, "b joins changed; b claims accepted 3", "1:a 2:x 3:b", &[]),
    (LISTED, "b joins unknown; b claims accepted 3", "1:a 2:x 3:b", &[]),
    (LISTED, "y joins changed; y leaves changed; y claims accepted 3", "1:a 2:x 3:y", &[(Rule::HeldUnlisted, 3)]),
    (LISTED, "y joins unknown; y leaves changed; y claims accepted 3", "1:a 2:x 3:y", &[]),
    (LISTED, "b claims waits", "1:a 2:x", &[(Rule::GivenUnlisted, 0)]),
    // Both answers are valid if the list changes during the request.
    (LISTED, "1 > b claims; 2 > b joins; 2 < changed; 1 < accepted 3", "1:a 2:x 3:b", &[]),
    (LISTED, "1 > c claims; 2 > c leaves; 1 < accepted 3; 2 < changed", "1:a 2:x 3:c", &[]),
    (LISTED, "2 > c leaves; c claims not_allowed; 2 < changed", "1:a 2:x", &[]),
    // Users on the list during the whole request do not get `not_allowed`.
    (LISTED, "c claims not_allowed", "1:a 2:x", &[(Rule::TurnedAway, 0)]),
    (LISTED, "c leaves failed; c claims not_allowed", "1:a 2:x", &[(Rule::TurnedAway, 0)]),
    (LISTED, "c leaves changed; c joins changed; c claims not_allowed", "1:a 2:x", &[(Rule::TurnedAway, 0)]),
    (LISTED, "c claims not_allowed; c leaves changed", "1:a 2:x", &[(Rule::TurnedAway, 0)]),
    (LISTED, "c leaves changed; c claims not_allowed", "1:a 2:x", &[]),
    (LISTED, "c leaves unknown; c claims not_allowed", "1:a 2:x", &[]),
    (LISTED, "2 > c leaves; c joins changed; c claims not_allowed", "1:a 2:x", &[]),
    // Removal from the list revokes nothing.
    (LISTED, "", "2:x", &[(Rule::Lost, 1)]),
    (LISTED, "a claims not_allowed", "1:a 2:x", &[(Rule::Denied, 1)]),
    (LISTED, "a claims sold_out", "1:a 2:x", &[(Rule::Denied, 1)]),
    (LISTED, "a claims waits", "1:a 2:x", &[(Rule::Denied, 1)]),
    (LISTED, "a claims not_allowed; broken a 1", "1:a 2:x", &[]),
    (LISTED, "a loses revoked; a claims not_allowed", "2:x", &[]),
];

#[test]
fn each_spoiled_history_has_its_violations_and_a_good_one_has_none() {
    for (at, (base, more, last, rules)) in CASES.iter().enumerate() {
        let text = format!("{base}; {more}; final {last}");
        let verdict = judged(&text);
        let Verdict::Violated(found) = &verdict else {
            assert_eq!((&verdict, rules.len()), (&Verdict::Pass, 0), "{at}: {text}");
            continue;
        };
        let is_found = |(rule, slot): &(Rule, i64)| {
            found
                .iter()
                .any(|one| one.rule == *rule && one.slot == *slot)
        };
        let all = !rules.is_empty() && rules.iter().all(is_found);
        assert!(all, "{at}: {text}: {found:?}");
    }
}

/// Parses a history of two days: `1` and `2` announce a day of two slots, `closed` ends the first
/// one. `a claims 1/2` gets slot 2 of day 1, and `a sees 1/2` looks it up. `7 > a` begins a claim,
/// and `7 < 1/2` is its answer. The last two parts are the rows of the days.
fn two_days(once_per: RecordedScope, text: &str) -> Verdict {
    let place = |word: &str| {
        let (drop, slot) = word.split_once('/')?;
        Some((drop.parse::<u64>().unwrap(), slot.parse::<i64>().unwrap()))
    };
    let answer = |word: &str| match place(word) {
        Some((drop, slot)) => RecordedAnswer::AlreadyClaimed { drop, slot },
        None if word == "waits" => RecordedAnswer::Waiting { position: 1 },
        None => RecordedAnswer::SoldOut,
    };
    let (coupon, mut finals) = (1, 1..);
    let mut all = Vec::new();
    for (op, part) in (1_000..).zip(text.split(';').map(str::trim)) {
        let claim = |op, person: &str| RecordedEvent::Invoked {
            op,
            coupon,
            drop: None,
            person: person.to_owned(),
        };
        match part.split(' ').collect::<Vec<_>>()[..] {
            [day @ ("1" | "2")] => all.push(RecordedEvent::Drop {
                drop: day.parse().unwrap(),
                coupon,
                quantity: 2,
                once_per,
            }),
            ["closed"] => all.push(RecordedEvent::Closed { drop: 1 }),
            [op, ">", person] => all.push(claim(op.parse().unwrap(), person)),
            [op, "<", word] => all.push(RecordedEvent::Ok {
                op: op.parse().unwrap(),
                answer: answer(word),
            }),
            [person, "claims", word] => {
                let answer = answer(word);
                all.extend([claim(op, person), RecordedEvent::Ok { op, answer }]);
            }
            [person, "sees", word] => {
                let shown = place(word);
                let person = person.to_owned();
                let answer = RecordedAnswer::Shown {
                    slot: shown.map(|it| it.1),
                    drop: shown.map(|it| it.0),
                    claim: Some(shown.map_or(ShownClaim::None, |_| ShownClaim::Issued)),
                };
                all.push(RecordedEvent::LookingUp { op, coupon, person });
                all.push(RecordedEvent::Ok { op, answer });
            }
            ["rows", ref last @ ..] => all.push(RecordedEvent::Final {
                drop: finals.next().unwrap(),
                rows: rows(last),
            }),
            _ => panic!("{part}"),
        }
    }
    check(&History::of(all).unwrap()).verdict
}

#[test]
fn days_of_a_coupon_are_judged_each_and_together() {
    use RecordedScope::{Coupon, Drop};
    let begin = "1; a claims 1/1; w claims waits; 2; closed; b claims 2/1";
    for (once_per, text, expected) in [
        (Coupon, "rows 1:a; rows 1:b", &[Rule::TooFew][..]),
        (Coupon, "rows 1:a 2:w; rows 1:b", &[]),
        (Coupon, "w claims 2/2; rows 1:a; rows 1:b 2:w", &[]),
        (
            Drop,
            "w claims 2/2; rows 1:a; rows 1:b 2:w",
            &[Rule::TooFew],
        ),
        // A user of an earlier day has one in the next only if each day may give one.
        (Drop, "a claims 2/2; rows 1:a 2:w; rows 1:b 2:a", &[]),
        (
            Coupon,
            "a claims 2/2; rows 1:a 2:w; rows 1:b 2:a",
            &[Rule::UserDoubled, Rule::Contradiction],
        ),
        (
            Drop,
            "d claims 2/2; a claims no; rows 1:a 2:w; rows 1:b 2:d",
            &[],
        ),
        (
            Coupon,
            "d claims 2/2; a claims no; rows 1:a 2:w; rows 1:b 2:d",
            &[Rule::Denied],
        ),
        // With one per coupon, a look-up shows every day.
        (Drop, "a sees none; rows 1:a 2:w; rows 1:b", &[]),
        (
            Coupon,
            "a sees none; rows 1:a 2:w; rows 1:b",
            &[Rule::Denied],
        ),
        (Coupon, "a sees 1/1; rows 1:a 2:w; rows 1:b", &[]),
        (
            Coupon,
            "a sees 2/1; rows 1:a 2:w; rows 1:b",
            &[Rule::Denied],
        ),
        (Drop, "b sees none; rows 1:a 2:w; rows 1:b", &[Rule::Denied]),
        // Who wanted only the other day gets no row.
        (Drop, "rows 1:a 2:w; rows 1:b 2:w", &[Rule::NeverAsked]),
        (Drop, "7 > c; rows 1:a 2:w; rows 1:b 2:c", &[]),
        (Drop, "7 > c; rows 1:a 2:c; rows 1:b", &[Rule::NeverAsked]),
        // After the window, only users who wait make a drop full.
        (
            Drop,
            "c claims no; w claims no; rows 1:a 2:w; rows 1:b",
            &[Rule::TooFew],
        ),
    ] {
        let verdict = two_days(once_per, &format!("{begin}; {text}"));
        let found = match &verdict {
            Verdict::Violated(found) => found.iter().map(|one| one.rule).collect(),
            _ => Vec::new(),
        };
        let fits = (verdict == Verdict::Pass) == expected.is_empty();
        let all = expected.iter().all(|rule| found.contains(rule));
        assert!(fits && all, "{once_per:?} {text}: {verdict:?}");
    }
    let late = "1; a claims 1/1; c claims no; 2; closed; b claims 2/1; rows 1:a; rows 1:b";
    assert_eq!(two_days(Drop, late), Verdict::Pass, "nobody waits");
    // A request that is in progress while one day follows the other may concern both.
    let both = "1; a claims 1/1; 7 > a; 2; 7 < no; closed; b claims 2/1; rows 1:a; rows 1:b";
    assert_eq!(two_days(Drop, both), Verdict::Pass);
}

#[test]
fn a_history_without_promises_or_final_rows_never_passes() {
    for text in ["", GOOD, "drop 4; a claims unknown; final 1:a"] {
        let verdict = judged(text);
        assert!(
            matches!(verdict, Verdict::Unknown(_)),
            "{text}: {verdict:?}"
        );
    }
    let violated = judged(&format!("{GOOD}; read 5:d"));
    assert!(matches!(violated, Verdict::Violated(_)), "{violated:?}");
}

#[test]
fn a_malformed_history_is_unreadable() {
    for text in [
        "drop 1; 1 < accepted 1",
        "drop 1; 1 > a claims; 1 < accepted 1; 1 < accepted 1",
        "drop 1; 1 > a claims; 1 > a claims",
        "a claims accepted 1",
        "drop 1; 1 > a claims; list a",
        "drop 1; list a; list a",
        "drop 1; 1 > a joins",
    ] {
        assert!(History::of(events(text)).is_err(), "{text}");
    }
}

/// Parses requests about one code, such as `0-9 use a done`: two times, what the order `a` wants,
/// and the answer. A request is unknown if it has none.
fn code_events(text: &str) -> Vec<RecordedEvent> {
    let mut timed = Vec::new();
    for (op, line) in (1..).zip(text.split(',')) {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (begun, ended) = words[0].split_once('-').unwrap();
        let at = |time: &str| time.parse::<u32>().unwrap();
        let asked = RecordedEvent::CodeAsked {
            op,
            code: "CODE".to_owned(),
            reference: words[2].to_owned(),
            undo: words[1] == "undo",
        };
        timed.push((2 * at(begun), asked));
        let outcome = match words[3] {
            "done" => CodeAnswer::Done,
            "used" => CodeAnswer::Used,
            "undone" => CodeAnswer::Undone,
            "revoked" => CodeAnswer::Revoked,
            "none" => CodeAnswer::NoSuchCode,
            _ => continue,
        };
        timed.push((
            2 * at(ended) + 1,
            RecordedEvent::CodeAnswered { op, outcome },
        ));
    }
    timed.sort_by_key(|(time, _)| *time);
    timed.into_iter().map(|(_, event)| event).collect()
}

fn is_possible(events: Vec<RecordedEvent>) -> bool {
    let Verdict::Violated(found) = check(&History::of(events).unwrap()).verdict else {
        return true;
    };
    found.iter().all(|one| one.rule != Rule::CodeContradiction)
}

#[test]
fn answers_about_a_code_are_possible_only_if_some_order_explains_them() {
    #[rustfmt::skip]
    let cases = [
        ("0-1 use a done, 2-3 use a done", true),
        ("0-1 use a done, 2-3 use b done", false),
        ("0-1 use a done, 2-3 use b used, 4-5 undo a done, 6-7 use b done", true),
        ("0-1 use a done, 0-1 use b done", false),
        ("0-9 use a done, 0-9 use b done, 2-3 undo a done", true),
        ("0-1 undo a done, 2-3 use a done", false),
        ("0-1 undo a done, 2-3 use a undone, 4-5 use b done", true),
        ("0-1 undo a done, 0-3 use a done", true),
        ("0-1 use b done, 2-3 undo a used, 4-5 undo b done, 6-7 use a done", false),
        ("0-1 use a unknown, 2-3 use b done", true),
        ("0-1 use a unknown, 2-3 use b used, 4-5 use b done", false),
        ("0-1 use a unknown, 2-3 use b done, 4-5 undo b done, 6-7 use b used", false),
        ("0-1 use a unknown, 2-3 use b done, 4-5 undo b done, 6-7 use c used", true),
        ("0-1 use a done, 2-3 use a revoked", false),
        ("0-1 use a done, 2-3 undo a done, 4-5 use b revoked", true),
        ("0-1 use a none, 2-3 use b done", true),
    ];
    for (text, expected) in cases {
        assert_eq!(is_possible(code_events(text)), expected, "{text}");
    }
}

#[test]
fn uses_are_judged_even_among_thirty_requests_without_an_answer() {
    let lost = (0..30).map(|at| {
        let shop = ["a", "b", "c", "d", "e", "f"][at % 6];
        let kind = if at % 5 == 0 { "undo" } else { "use" };
        format!("{at}-99 {kind} {shop} unknown")
    });
    let lost = lost.collect::<Vec<_>>().join(", ");
    for (last, expected) in [
        ("100-101 use x done, 102-103 undo x done", true),
        ("100-101 use x done, 102-103 use y done", false),
    ] {
        let events = code_events(&format!("{lost}, {last}"));
        assert_eq!(is_possible(events), expected, "{last}");
    }
}

#[test]
fn stored_uses_of_a_code_are_possible_only_if_some_order_explains_them() {
    for (text, user, expected) in [
        ("0-1 use a done", Some("a"), true),
        ("0-1 use a done", None, false),
        ("0-1 use a unknown", None, true),
        ("0-1 use a unknown", Some("a"), true),
        ("0-1 use a unknown", Some("b"), false),
        ("0-1 use a none, 2-3 use b done", Some("b"), false),
        ("0-1 use a done, 2-3 undo a done", Some("a"), false),
    ] {
        let mut events = code_events(text);
        events.push(RecordedEvent::CodeFinal {
            code: "CODE".to_owned(),
            in_use: user.map(str::to_owned),
            undone: Vec::new(),
        });
        assert_eq!(is_possible(events), expected, "{text} {user:?}");
    }
}
