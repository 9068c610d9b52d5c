//! Which repairs of a pass wait for an operator, and why. Pure.

use std::fmt;

use firstcome_shared::mysql::held_back::Confirmation;
use firstcome_shared::report::Doubt;

/// What decides for all repairs of a target in a pass whether they need a confirmation.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// A plan of this part of the file was confirmed before, or a look with ten users in both
    /// stores was clean.
    pub is_trusted: bool,
    /// The number of repairs in the pass.
    pub number: u64,
    /// The number of repairs that a pass may make without a confirmation.
    pub limit: u64,
}

/// Why a repair waits for an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeldBecause {
    Untrusted,
    /// An operator confirmed, but had been shown other repairs.
    OthersShown,
    Many {
        number: u64,
        limit: u64,
    },
    /// The repair itself is doubtful.
    Doubted,
}

/// Returns why a repair with this doubt needs a confirmation; `None` if it needs none.
pub fn why_held(plan: Plan, doubt: Option<Doubt>) -> Option<HeldBecause> {
    let Plan {
        is_trusted,
        number,
        limit,
    } = plan;
    if !is_trusted {
        Some(HeldBecause::Untrusted)
    } else if number > limit {
        Some(HeldBecause::Many { number, limit })
    } else {
        doubt.map(|_| HeldBecause::Doubted)
    }
}

impl HeldBecause {
    /// Returns why the repair is still held back after its confirmation, if any, was checked.
    #[must_use]
    pub fn after(self, confirmation: Confirmation) -> Self {
        match (self, confirmation) {
            (Self::Untrusted, _) => Self::Untrusted,
            (_, Confirmation::OthersShown) => Self::OthersShown,
            (why, Confirmation::Given | Confirmation::NotAsked | Confirmation::NeverShown) => why,
        }
    }

    /// Returns the doubt, if the reason concerns all repairs of the target.
    pub fn doubt(self) -> Option<Doubt> {
        match self {
            Self::Untrusted => Some(Doubt::Untrusted),
            Self::Many { .. } => Some(Doubt::Many),
            Self::OthersShown | Self::Doubted => None,
        }
    }
}

impl fmt::Display for HeldBecause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Untrusted => write!(f, "held back: {}", Doubt::Untrusted.says()),
            Self::OthersShown => {
                f.write_str("held back: others were shown; see these in a dry run, then confirm")
            }
            Self::Many { number, limit } => write!(
                f,
                "held back: this pass has {number} repairs, and the limit is {limit}"
            ),
            Self::Doubted => f.write_str("held back until it is confirmed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Confirmation, Doubt, HeldBecause, Plan, why_held};

    const MANY: HeldBecause = HeldBecause::Many {
        number: 9,
        limit: 8,
    };

    #[test]
    fn lack_of_trust_outranks_all_reasons_and_too_many_repairs_outrank_a_doubt() {
        let (untrusted, doubted) = (HeldBecause::Untrusted, HeldBecause::Doubted);
        let (none, some) = (None, Some(Doubt::MayDouble));
        let others = HeldBecause::OthersShown;
        for (is_trusted, number, doubt, expected, after_others) in [
            (true, 8, none, None, None),
            (true, 8, some, Some(doubted), Some(others)),
            (true, 9, none, Some(MANY), Some(others)),
            (true, 9, some, Some(MANY), Some(others)),
            (false, 1, none, Some(untrusted), Some(untrusted)),
            (false, 9, some, Some(untrusted), Some(untrusted)),
        ] {
            let plan = Plan {
                is_trusted,
                number,
                limit: 8,
            };
            let held = why_held(plan, doubt);
            assert_eq!(held, expected, "{plan:?} {doubt:?}");
            for unasked in [Confirmation::NotAsked, Confirmation::NeverShown] {
                assert_eq!(held.map(|it| it.after(unasked)), expected);
            }
            let after = held.map(|it| it.after(Confirmation::OthersShown));
            assert_eq!(after, after_others, "{plan:?} {doubt:?}");
        }
    }
}
