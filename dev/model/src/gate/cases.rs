//! The explored protocols of the gate: the correct one, and the wrong ones.

use super::{Faults, Gate, Wrong};

const NONE: Faults = Faults {
    restarts: 0,
    promotions: 0,
    flushes: 0,
    deaths: 0,
};

/// The correct protocol under the faults that it must survive.
pub fn right() -> Vec<(&'static str, Gate)> {
    let gate = Gate {
        faults: NONE,
        daemons: 2,
        new_coupon: false,
        stuck: false,
        wrong: None,
    };
    let emptied = Faults { flushes: 1, ..NONE };
    vec![
        (
            "two daemons, Redis is emptied and restarts with less",
            Gate {
                faults: Faults {
                    restarts: 1,
                    ..emptied
                },
                ..gate.clone()
            },
        ),
        (
            "two daemons, a server is demoted and promoted again",
            Gate {
                faults: Faults {
                    promotions: 2,
                    ..NONE
                },
                ..gate.clone()
            },
        ),
        (
            "a server is demoted and promoted again, and emptied",
            Gate {
                faults: Faults {
                    promotions: 2,
                    ..emptied
                },
                daemons: 1,
                ..gate.clone()
            },
        ),
        (
            "a coupon is made, Redis is emptied or restarts",
            Gate {
                faults: Faults {
                    restarts: 1,
                    flushes: 1,
                    ..NONE
                },
                daemons: 1,
                new_coupon: true,
                ..gate.clone()
            },
        ),
        (
            "a coupon cannot be verified, a daemon dies",
            Gate {
                faults: Faults {
                    deaths: 1,
                    ..emptied
                },
                stuck: true,
                ..gate.clone()
            },
        ),
        (
            "two daemons begin lives without compare-and-set, which is only noise",
            Gate {
                faults: emptied,
                wrong: Some(Wrong::NoCompareAndSet),
                ..gate.clone()
            },
        ),
        (
            "a pass does not notice another life, and only works in vain",
            Gate {
                faults: Faults {
                    restarts: 1,
                    promotions: 2,
                    ..NONE
                },
                daemons: 1,
                wrong: Some(Wrong::LifeNotCompared),
                ..gate
            },
        ),
    ]
}

/// Each rule left out, with the faults that reveal it.
pub fn wrong() -> Vec<(Wrong, Gate)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let cases = [
        (Wrong::NoWait, 1, emptied),
        (Wrong::OneClock, 1, emptied),
        (Wrong::VerifiedNotCompared, 1, emptied),
        (
            Wrong::ServerNotCompared,
            1,
            Faults {
                promotions: 2,
                ..NONE
            },
        ),
        (Wrong::OpenUnfenced, 2, emptied),
        (
            Wrong::OpenInLaterLife,
            2,
            Faults {
                promotions: 2,
                ..NONE
            },
        ),
        (Wrong::GateAfterOwnCoupon, 1, Faults { deaths: 1, ..NONE }),
        (Wrong::NewLifeReadLate, 1, emptied),
    ];
    let gate = |(wrong, daemons, faults)| {
        let stuck = wrong == Wrong::GateAfterOwnCoupon;
        let new_coupon = wrong == Wrong::NewLifeReadLate;
        (
            wrong,
            Gate {
                faults,
                daemons,
                new_coupon,
                stuck,
                wrong: Some(wrong),
            },
        )
    };
    cases.map(gate).into()
}
