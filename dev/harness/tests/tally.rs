//! The tally of the load generator on answers that contradict each other.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Instant;

use firstcome_load::answer::AnswerKind::{Accepted, AlreadyClaimed};
use firstcome_load::answer::{AnswerKind, CrowdAnswer, PromisedSlot};
use firstcome_load::tally::{ConnectionTally, CrowdProgress, Tally};

/// Sums the promises of users: the kind of the answer, and the slot.
fn tally(promises: &[(u32, AnswerKind, u32)]) -> Tally {
    let mut part = ConnectionTally::new();
    for (user, kind, slot) in promises {
        let promise = PromisedSlot {
            drop_id: 1,
            slot: *slot,
        };
        let answer = CrowdAnswer {
            kind: *kind,
            promise: Some(promise),
        };
        part.note(*user, &answer, Instant::now());
    }
    let name = |user| format!("p{user}");
    Tally::sum(&CrowdProgress::default(), 9, 1.0, vec![part], name)
}

#[test]
fn tally_lists_contradictions_but_no_repeated_promise() {
    for (promises, expected) in [
        ([(1, AlreadyClaimed, 5), (1, Accepted, 5)], ""),
        ([(1, Accepted, 5), (2, Accepted, 6)], ""),
        (
            [(1, Accepted, 5), (1, AlreadyClaimed, 6)],
            "p1 was promised slots [5, 6]",
        ),
        (
            [(1, Accepted, 5), (1, Accepted, 5)],
            "p1 was accepted 2 times",
        ),
    ] {
        assert_eq!(tally(&promises).contradictions.concat(), expected);
    }
    let shared = tally(&[(1, Accepted, 5), (2, AlreadyClaimed, 5)]);
    assert_eq!(shared.contradictions.len(), 1);
    assert_eq!((shared.winners.count, shared.others.count), (1, 1));
}
