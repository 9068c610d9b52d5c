//! The protocols of the gate that are explored: the correct one, and the wrong ones.

use super::{Faults, GateProtocol, Wrong};

const NONE: Faults = Faults {
    restarts: 0,
    promotions: 0,
    flushes: 0,
    deaths: 0,
};

/// Returns the correct protocol, under the faults that it must survive.
pub fn right() -> Vec<(&'static str, GateProtocol)> {
    let gate = GateProtocol {
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
            GateProtocol {
                faults: Faults {
                    restarts: 1,
                    ..emptied
                },
                ..gate.clone()
            },
        ),
        (
            "two daemons, a server is demoted and promoted again",
            GateProtocol {
                faults: Faults {
                    promotions: 2,
                    ..NONE
                },
                ..gate.clone()
            },
        ),
        (
            "a server is demoted and promoted again, and emptied",
            GateProtocol {
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
            GateProtocol {
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
            GateProtocol {
                faults: Faults {
                    deaths: 1,
                    ..emptied
                },
                stuck: true,
                ..gate.clone()
            },
        ),
        (
            "a pass does not notice another server, and only works in vain",
            GateProtocol {
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

/// Protocols that each lack one rule, with the faults that reveal it.
pub fn wrong() -> Vec<(Wrong, GateProtocol)> {
    let emptied = Faults { flushes: 1, ..NONE };
    let promoted = Faults {
        promotions: 1,
        ..NONE
    };
    let cases = [
        (Wrong::NoWait, 1, emptied),
        (Wrong::OneClock, 1, Faults { flushes: 2, ..NONE }),
        (Wrong::IdentityUnchecked, 1, promoted),
        (Wrong::RoleUnchecked, 1, promoted),
        (Wrong::EraNotCompared, 2, emptied),
        (Wrong::SetVerifiedPlain, 2, emptied),
        (Wrong::EraKept, 2, Faults { flushes: 2, ..NONE }),
        (Wrong::NewUnchecked, 1, emptied),
    ];
    let gate = |(wrong, daemons, faults)| {
        let new_coupon = wrong == Wrong::NewUnchecked;
        (
            wrong,
            GateProtocol {
                faults,
                daemons,
                new_coupon,
                stuck: false,
                wrong: Some(wrong),
            },
        )
    };
    cases.map(gate).into()
}
