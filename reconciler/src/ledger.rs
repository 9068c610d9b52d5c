//! Collects the findings of one drop. Each user is named up to a limit; the others are counted, and
//! their outcomes with them.

use std::collections::BTreeMap;

use firstcome_shared::domain::{CouponId, DropId, UserId};

use crate::report::{ActionKind, Finding, FindingCase, Kind, Outcome};

/// Maximum number of findings of a drop that are listed one by one. If a million rows are missing,
/// a list of all of them is not useful.
const NAMED_AT_MOST: usize = 1_000;

/// A finding without its place.
#[derive(Debug, Clone)]
pub struct Found {
    pub kind: Kind,
    pub action: ActionKind,
    pub result: Outcome,
    pub slot: Option<i64>,
    pub user: Option<UserId>,
    pub detail: String,
    pub dead_letter: Option<i64>,
    pub needs_person: bool,
    pub case: FindingCase,
}

impl Found {
    pub fn new(kind: Kind, action: ActionKind, result: Outcome, detail: impl Into<String>) -> Self {
        Self {
            kind,
            action,
            result,
            slot: None,
            user: None,
            detail: detail.into(),
            dead_letter: None,
            needs_person: false,
            case: FindingCase::Plain,
        }
    }

    #[must_use]
    pub fn of(mut self, slot: Option<i64>, user: Option<UserId>) -> Self {
        self.slot = slot;
        self.user = user;
        self
    }
}

/// The findings of a drop, or of no drop.
#[derive(Debug, Default)]
pub struct Ledger {
    named: Vec<Found>,
    more: BTreeMap<(Kind, ActionKind, &'static str), (Outcome, u64)>,
}

impl Ledger {
    pub fn add(&mut self, found: Found) {
        if self.named.len() < NAMED_AT_MOST {
            self.named.push(found);
            return;
        }
        let key = (found.kind, found.action, found.result.as_str());
        let more = self.more.entry(key).or_insert((found.result, 0));
        more.1 += found.case.number();
    }

    pub fn extend(&mut self, other: Self) {
        for found in other.named {
            self.add(found);
        }
        for (key, (outcome, number)) in other.more {
            self.more.entry(key).or_insert((outcome, 0)).1 += number;
        }
    }

    /// Returns the findings without those of one action.
    #[must_use]
    pub fn without(mut self, action: ActionKind) -> Self {
        self.named.retain(|found| found.action != action);
        self.more.retain(|(_, of, _), _| *of != action);
        self
    }

    /// Gives every projection that waits for its confirmation by a second look its outcome.
    pub fn settle(&mut self, action: ActionKind, from: Outcome, to: Outcome, detail: &str) {
        for found in &mut self.named {
            if found.action == action && found.result == from {
                found.result = to;
                if !detail.is_empty() {
                    found.detail = format!("{}; {detail}", found.detail);
                }
            }
        }
        let more = std::mem::take(&mut self.more);
        for ((kind, of, word), (outcome, number)) in more {
            let is_it = of == action && outcome == from;
            let (word, outcome) = if is_it {
                (to.as_str(), to)
            } else {
                (word, outcome)
            };
            self.more.entry((kind, of, word)).or_insert((outcome, 0)).1 += number;
        }
    }

    /// Returns the findings with their place.
    pub fn findings(self, coupon: Option<CouponId>, drop: Option<DropId>) -> Vec<Finding> {
        let more = self
            .more
            .into_iter()
            .map(|((kind, action, _), (result, number))| Found {
                case: FindingCase::MoreLeft(number),
                ..Found::new(
                    kind,
                    action,
                    result,
                    format!("{number} more like the ones listed"),
                )
            });
        let placed = |found: Found| Finding {
            coupon_id: coupon,
            drop_id: drop,
            slot: found.slot,
            user_id: found.user.as_ref().map(ToString::to_string),
            result: found.result,
            needs_person: found.needs_person,
            dead_letter: found.dead_letter,
            case: found.case,
            ..Finding::general(found.kind, found.action, found.detail)
        };
        self.named.into_iter().chain(more).map(placed).collect()
    }
}
