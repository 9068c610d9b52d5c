//! The explored protocols: the correct one under the faults that it must survive, and the wrong
//! ones.

use super::{Faults, Protocol, Wrong};

const NONE: Faults = Faults {
    crashes: 0,
    repeats: 0,
    lost: 0,
    restarts: 0,
    gone_back: 0,
    flushes: 0,
    restored: 0,
    moved: 0,
};

/// The correct protocol. In each of the last four cases, one fault leaves the only copy of an
/// admission in Redis, and another destroys it. No promise may be lost silently.
#[allow(clippy::too_many_lines, reason = "one table of cases")]
pub fn right() -> Vec<(&'static str, Protocol)> {
    let cases = [
        (
            "everything but Redis fails, twice",
            1,
            Faults {
                crashes: 2,
                repeats: 2,
                lost: 1,
                restarts: 1,
                ..NONE
            },
        ),
        (
            "two reconcilers, everything but Redis fails",
            2,
            Faults {
                crashes: 1,
                repeats: 1,
                lost: 1,
                restarts: 1,
                ..NONE
            },
        ),
        (
            "two reconcilers, Redis goes back in time",
            2,
            Faults {
                gone_back: 1,
                repeats: 1,
                restarts: 1,
                ..NONE
            },
        ),
        (
            "two reconcilers, Redis is emptied and restarts",
            2,
            Faults {
                flushes: 1,
                restarts: 1,
                ..NONE
            },
        ),
        (
            "two reconcilers, Redis is emptied twice",
            2,
            Faults { flushes: 2, ..NONE },
        ),
        (
            "offsets are moved, MySQL is restored, Redis is emptied",
            1,
            Faults {
                moved: 1,
                restored: 1,
                flushes: 1,
                ..NONE
            },
        ),
        (
            "Redis is emptied and goes back in time",
            1,
            Faults {
                flushes: 1,
                gone_back: 1,
                ..NONE
            },
        ),
        (
            "Kafka is down, Redis goes back in time",
            1,
            Faults {
                lost: 1,
                gone_back: 1,
                ..NONE
            },
        ),
        (
            "Kafka is down, Redis is emptied",
            1,
            Faults {
                lost: 1,
                flushes: 1,
                ..NONE
            },
        ),
        (
            "an API dies before publishing, Redis goes back in time",
            1,
            Faults {
                crashes: 1,
                gone_back: 1,
                ..NONE
            },
        ),
        (
            "something dies, Kafka is down, Redis goes back",
            1,
            Faults {
                crashes: 1,
                lost: 1,
                gone_back: 1,
                ..NONE
            },
        ),
    ];
    cases
        .map(|(name, reconcilers, faults)| {
            (
                name,
                Protocol {
                    faults,
                    reconcilers,
                    wrong: None,
                },
            )
        })
        .into()
}

/// Protocols that each lack one rule, with the faults that reveal it.
pub fn wrong() -> Vec<(Wrong, Protocol)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let gone_back = Faults {
        gone_back: 1,
        ..NONE
    };
    let cases = [
        (Wrong::GateKept, gone_back),
        (Wrong::NoWait, emptied),
        (Wrong::EraReadLate, emptied),
        (
            Wrong::ConnectionComesBack,
            Faults {
                restarts: 1,
                ..gone_back
            },
        ),
        (
            Wrong::PositionFirst,
            Faults {
                crashes: 1,
                ..gone_back
            },
        ),
        (
            Wrong::OverGap,
            Faults {
                restored: 1,
                ..NONE
            },
        ),
        (
            Wrong::OffsetInKafka,
            Faults {
                restored: 1,
                ..emptied
            },
        ),
        (
            Wrong::OffsetInKafka,
            Faults {
                moved: 1,
                ..emptied
            },
        ),
        (Wrong::LoadUnchecked, emptied),
        (Wrong::SettleFirst, emptied),
        (Wrong::BackupLate, Faults { lost: 1, ..emptied }),
        (
            Wrong::ToldUnheld,
            Faults {
                lost: 1,
                ..gone_back
            },
        ),
        (
            Wrong::RetryToldUnheld,
            Faults {
                crashes: 1,
                ..gone_back
            },
        ),
    ];
    cases
        .map(|(wrong, faults)| {
            (
                wrong,
                Protocol {
                    faults,
                    reconcilers: 1,
                    wrong: Some(wrong),
                },
            )
        })
        .into()
}
