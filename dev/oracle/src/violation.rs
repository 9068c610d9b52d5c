//! The violations that a history can contain.

use std::fmt;

/// A rule that a system can break.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A user with a promise has no row in the drop, and the promise is not listed as broken.
    Lost,
    /// A user has another slot than the promised one.
    OtherSlot,
    /// A slot was promised to two users.
    PromisedTwice,
    /// A user was promised two slots although only one is allowed.
    Contradiction,
    /// Two claims of a user got the first promise of a slot, and nothing was taken back in between.
    AcceptedTwice,
    /// A row belongs to a user who never claimed.
    NeverAsked,
    /// A row belongs to a user whose claims were all refused.
    NeverAdmitted,
    SlotDoubled,
    UserDoubled,
    NoSuchSlot,
    TooMany,
    /// A drop has a quantity that it neither had at first nor may have got from an operator.
    UnaskedQuantity,
    /// At the end, a drop lacks the last change of its quantity that an operator's 200 confirmed.
    ForgottenQuantity,
    /// Slots are left although enough users claimed or a user waits.
    TooFew,
    /// A row that was read is missing at the end.
    Vanished,
    /// A user has a slot at the end after a revocation that does not allow another claim.
    RevokedHeld,
    /// A user was promised a slot after a revocation that does not allow another claim.
    RevokedPromised,
    /// A look-up shows the slot of a user after its revocation.
    RevokedShown,
    /// A look-up shows a revocation that nobody requested.
    NeverRevoked,
    /// A user got `not_allowed`, although the user was on the allow list or the coupon has none.
    TurnedAway,
    /// A valid promise was denied later.
    Denied,
    /// A user who is not on the allow list got a slot or a place to wait for one.
    GivenUnlisted,
    /// A row belongs to a user who was never on the allow list when they claimed.
    HeldUnlisted,
    /// No order of the requests about a code explains its answers and its stored uses.
    CodeContradiction,
}

/// A violation by the system. Its text names the user, the slot and the drop.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    pub rule: Rule,
    pub drop: u64,
    /// 0 if the violation concerns no particular slot.
    pub slot: i64,
    pub person: String,
    /// The line of the history that shows the violation. 0 if no single line does.
    pub line: usize,
    pub detail: String,
}

impl Violation {
    pub fn new(rule: Rule, drop: u64, slot: i64, person: &str) -> Self {
        Self {
            rule,
            drop,
            slot,
            person: person.to_owned(),
            line: 0,
            detail: String::new(),
        }
    }

    #[must_use]
    pub fn at(self, line: usize) -> Self {
        Self { line, ..self }
    }

    #[must_use]
    pub(super) fn because(self, detail: String) -> Self {
        Self { detail, ..self }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:?}: drop {}", self.rule, self.drop)?;
        if self.slot != 0 {
            write!(out, ", slot {}", self.slot)?;
        }
        if !self.person.is_empty() {
            write!(out, ", {}", self.person)?;
        }
        if self.line != 0 {
            write!(out, " (line {})", self.line)?;
        }
        if !self.detail.is_empty() {
            write!(out, ": {}", self.detail)?;
        }
        Ok(())
    }
}
