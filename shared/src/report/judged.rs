//! What a look judged: an alert of a kind that it judged and did not find is over. What it did not
//! judge stays as it was.

use std::collections::{BTreeMap, BTreeSet};

use super::{AlertKind, Run};
use crate::domain::{CouponId, DropId};

/// A set of kinds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Kinds {
    #[default]
    None,
    All,
    Only(BTreeSet<AlertKind>),
    AllBut(BTreeSet<AlertKind>),
}

/// The kinds that a look judged about one subject.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// The look would have found them.
    pub kinds: Kinds,
    /// No look will find them any more, although nothing has repaired them: keys have expired, or a
    /// day is over. Of these, `kinds` counts first.
    pub given_up: Kinds,
    /// No look was made: the findings are those of an earlier one, and show nothing new.
    pub is_repeated: bool,
}

/// What a look says about a kind that it did not find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Absence {
    /// It is not so.
    Gone,
    /// It cannot be known any more.
    GivenUp,
    /// The look does not say.
    Open,
}

/// What a run judged outside the reports of its drops.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RunJudged {
    /// About no coupon.
    pub whole: Judged,
    /// About coupons.
    pub coupons: BTreeMap<CouponId, CouponJudged>,
    /// About coupons without their own entry.
    pub others: CouponJudged,
}

/// What a run judged about a coupon.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CouponJudged {
    /// As a whole.
    pub whole: Judged,
    /// About its drops without a report.
    pub other_drops: Judged,
}

impl Kinds {
    pub fn only(kinds: impl IntoIterator<Item = AlertKind>) -> Self {
        Self::Only(kinds.into_iter().collect())
    }

    pub fn all_but(kinds: impl IntoIterator<Item = AlertKind>) -> Self {
        Self::AllBut(kinds.into_iter().collect())
    }

    pub fn has(&self, kind: AlertKind) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Only(kinds) => kinds.contains(&kind),
            Self::AllBut(kinds) => !kinds.contains(&kind),
        }
    }
}

impl Judged {
    /// A look that judged these kinds, and gives up none.
    pub fn of(kinds: Kinds) -> Self {
        Self {
            kinds,
            ..Self::default()
        }
    }

    /// Returns what is said about a kind that was not found.
    pub fn says(&self, kind: AlertKind) -> Absence {
        if self.kinds.has(kind) {
            Absence::Gone
        } else if self.given_up.has(kind) {
            Absence::GivenUp
        } else {
            Absence::Open
        }
    }
}

impl Run {
    /// Returns what the run judged about the installation, a coupon as a whole, or a drop.
    pub fn judged_about(&self, coupon: Option<CouponId>, drop: Option<DropId>) -> &Judged {
        let Some(coupon) = coupon else {
            return &self.judged.whole;
        };
        let coupons = &self.judged.coupons;
        let of_coupon = coupons.get(&coupon).unwrap_or(&self.judged.others);
        let Some(drop) = drop else {
            return &of_coupon.whole;
        };
        let mut reports = self.drops.iter().filter(|report| report.drop_id == drop);
        let report = reports.next().map(|report| &report.judged);
        report.unwrap_or(&of_coupon.other_drops)
    }
}
