//! The protocols that are explored.

use super::{Faults, Revoking, Wrong};

/// Returns the correct protocol, under the faults that it must survive.
pub fn right() -> Vec<(&'static str, Revoking)> {
    let crash = Faults {
        crashes: 1,
        repeats: 1,
        ..Faults::default()
    };
    let lost = Faults {
        flushes: 1,
        repeats: 1,
        ..Faults::default()
    };
    let back = Faults {
        gone_back: 1,
        crashes: 1,
        ..Faults::default()
    };
    let case = |may_claim_again, revokers, passes, faults| Revoking {
        may_claim_again,
        revokers,
        passes,
        faults,
        wrong: None,
    };
    vec![
        ("two APIs, two passes, a crash", case(false, 2, 2, crash)),
        ("two APIs, a crash, claimed again", case(true, 2, 1, crash)),
        ("Redis is emptied", case(false, 1, 2, lost)),
        ("Redis is emptied, claimed again", case(true, 1, 1, lost)),
        ("Redis goes back, a crash", case(false, 1, 1, back)),
        (
            "Redis goes back, a crash, claimed again",
            case(true, 1, 1, back),
        ),
    ]
}

/// Protocols that each lack one rule.
pub fn wrong() -> Vec<(Wrong, Revoking)> {
    let crash = Faults {
        crashes: 1,
        repeats: 1,
        ..Faults::default()
    };
    let back = Faults {
        gone_back: 1,
        ..crash
    };
    let emptied = Faults {
        flushes: 1,
        ..Faults::default()
    };
    let case = |(wrong, may_claim_again, (revokers, passes), faults)| {
        (
            wrong,
            Revoking {
                may_claim_again,
                revokers,
                passes,
                faults,
                wrong: Some(wrong),
            },
        )
    };
    [
        (Wrong::RedisFirst, false, (2, 1), crash),
        (Wrong::InsertUnchecked, false, (2, 1), crash),
        (Wrong::PutBackUnchecked, false, (1, 2), emptied),
        (Wrong::NotRestored, false, (2, 1), back),
        (Wrong::NotCompared, false, (2, 1), crash),
        (Wrong::LiftedEarly, true, (2, 1), crash),
        (Wrong::ReleaseUnfenced, true, (2, 1), crash),
        (Wrong::NoBan, true, (2, 1), crash),
    ]
    .map(case)
    .into()
}
