//! The protocols that are explored: the right one under the faults it is to withstand, and each wrong one.

use crate::{Faults, Protocol, Wrong};

const NONE: Faults = Faults { crashes: 0, repeats: 0, lost: 0, restarts: 0, gone_back: 0, flushes: 0 };

/// The right protocol. Where Redis forgets, nothing else loses a claim in the same history: see [`silent_losses`].
pub fn right() -> Vec<(&'static str, Protocol)> {
    let cases = [
        ("everything but Redis fails, twice", 1, Faults { crashes: 2, repeats: 2, lost: 1, restarts: 1, ..NONE }),
        (
            "two reconcilers, everything but Redis fails",
            2,
            Faults { crashes: 1, repeats: 1, lost: 1, restarts: 1, ..NONE },
        ),
        ("two reconcilers, Redis goes back in time", 2, Faults { gone_back: 1, repeats: 1, restarts: 1, ..NONE }),
        ("two reconcilers, Redis is emptied and restarts", 2, Faults { flushes: 1, restarts: 1, ..NONE }),
        ("two reconcilers, Redis is emptied twice", 2, Faults { flushes: 2, ..NONE }),
        ("Redis is emptied and goes back in time", 1, Faults { flushes: 1, gone_back: 1, ..NONE }),
    ];
    cases.map(|(name, reconcilers, faults)| (name, Protocol { faults, reconcilers, wrong: None })).into()
}

/// Two faults at once that lose a promise without a trace: its only copy was in Redis, because its message was not on the topic
/// yet and never got there, and Redis forgot it before a reconciler saw it.
pub fn silent_losses() -> Vec<(&'static str, Protocol)> {
    let cases = [
        ("message lost, Redis goes back", Faults { lost: 1, gone_back: 1, ..NONE }),
        ("message lost, Redis emptied", Faults { lost: 1, flushes: 1, ..NONE }),
        ("API dies before publishing, retry answered, Redis goes back", Faults { crashes: 1, gone_back: 1, ..NONE }),
    ];
    cases.map(|(name, faults)| (name, Protocol { faults, reconcilers: 1, wrong: None })).into()
}

/// Each rule left out, with the faults under which that shows.
pub fn wrong() -> Vec<(Wrong, Protocol)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let gone_back = Faults { gone_back: 1, ..NONE };
    let cases = [
        (Wrong::LicenceKept, gone_back),
        (Wrong::NoWait, emptied),
        (Wrong::GenerationReadLate, emptied),
        (Wrong::CommitFirst, Faults { crashes: 1, ..gone_back }),
        (Wrong::LoadUnchecked, emptied),
        (Wrong::SettleFirst, emptied),
    ];
    cases.map(|(wrong, faults)| (wrong, Protocol { faults, reconcilers: 1, wrong: Some(wrong) })).into()
}
