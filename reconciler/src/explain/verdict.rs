//! Derives a user's state from what the stores know. Pure functions only.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::http::views::{ClaimState, StoryEvent};

use crate::queries::runs::FindingRow;
use crate::report::{Kind, Outcome, Stored};

/// What an entry of a store proves. Of several entries, the one whose variant is declared first
/// decides the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Evidence {
    Row,
    Revocation,
    BrokenPromise,
    /// Redis has the user on a slot.
    Admission,
    DeadLetter,
    Waiting,
    /// A revocation after which the user may claim again.
    EarlierRevocation,
}

/// What one entry of a store says about the user's state.
#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) evidence: Evidence,
    /// The drop, or `None` if the entry names none.
    pub(super) drop: Option<DropId>,
    pub(super) slot: Option<i64>,
    pub(super) sentence: String,
}

/// The known facts about a user.
#[derive(Debug, Default)]
pub(super) struct UserFacts {
    pub(super) happenings: Vec<StoryEvent>,
    pub(super) no_longer_known: Vec<String>,
    /// What each entry says about the present.
    pub(super) standings: Vec<Standing>,
    /// The last finding, by drop, about a claim of the user without a row.
    without_row: HashMap<Option<DropId>, FindingRow>,
    /// Whether facts may be missing: Redis could not be read, or does not have a drop whose window
    /// has begun.
    pub(super) is_blind: bool,
}

impl UserFacts {
    pub(super) fn happened(&mut self, at: Option<DateTime<Utc>>, source: &str, what: String) {
        let source = source.to_owned();
        self.happenings.push(StoryEvent { at, source, what });
    }

    /// Adds a finding. Those added later are newer.
    pub(super) fn found(&mut self, finding: &FindingRow) {
        if let Stored::Known(Kind::Unissued | Kind::FailedClaim) = finding.kind {
            self.without_row.insert(finding.drop_id, finding.clone());
        }
    }

    pub(super) fn stands(
        &mut self,
        evidence: Evidence,
        drop: Option<DropId>,
        slot: Option<i64>,
        sentence: String,
    ) {
        self.standings.push(Standing {
            evidence,
            drop,
            slot,
            sentence,
        });
    }
}

/// The scope of a question about a user.
#[derive(Debug, Clone, Default)]
pub(super) struct Question {
    /// The requested drop, if any.
    pub(super) drop: Option<DropId>,
    /// The coupon's drops, in order of opening.
    pub(super) drops: Vec<DropId>,
    /// Whether the coupon allows one per user in total. A row or a revocation in any drop then
    /// counts for the answer.
    pub(super) whole_coupon: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) holds: ClaimState,
    pub(super) conclusion: String,
    pub(super) drop: Option<DropId>,
    pub(super) slot: Option<i64>,
}

/// Derives the verdict. If users may have one coupon in each drop, a row in an earlier drop does
/// not determine the state in a later one. The verdict is then about the requested drop or, by
/// default, the last drop in which the user is known.
pub(super) fn verdict(known: &UserFacts, question: &Question) -> Verdict {
    let whole_coupon = question.whole_coupon;
    let drops = known.standings.iter().filter_map(|one| one.drop);
    let latest = drops.max_by_key(|drop| question.drops.iter().position(|one| one == drop));
    let about = question.drop.or(latest.filter(|_| !whole_coupon));
    // In reverse order, so that the newest of several equal ones decides.
    let asked = || {
        known
            .standings
            .iter()
            .rev()
            .filter(|one| match one.evidence {
                Evidence::Row | Evidence::Revocation | Evidence::EarlierRevocation
                    if whole_coupon =>
                {
                    true
                }
                _ => about.is_none() || one.drop.is_none() || one.drop == about,
            })
    };
    let Some(one) = asked().min_by_key(|one| one.evidence) else {
        return unknown(known, question);
    };
    let mut conclusion = one.sentence.clone();
    let holds = match one.evidence {
        Evidence::Row => ClaimState::Issued,
        Evidence::Revocation | Evidence::EarlierRevocation => ClaimState::Revoked,
        Evidence::BrokenPromise => {
            if let Some(waits) = asked().find(|one| one.evidence == Evidence::Waiting) {
                conclusion = format!("{conclusion}; {}", waits.sentence);
            }
            ClaimState::Broken
        }
        Evidence::Admission => {
            conclusion = format!("{conclusion}{}", without_row(known, one.drop, "unissued"));
            ClaimState::Accepted
        }
        Evidence::DeadLetter => {
            conclusion = format!(
                "{conclusion}{}",
                without_row(known, one.drop, "failed_claim")
            );
            ClaimState::Failed
        }
        Evidence::Waiting => ClaimState::Waiting,
    };
    Verdict {
        holds,
        conclusion,
        drop: one.drop,
        slot: one.slot,
    }
}

/// Says what becomes of a claim without a row.
fn without_row(known: &UserFacts, drop: Option<DropId>, section: &str) -> String {
    let last = known.without_row.get(&drop);
    match last.filter(|it| it.result == Stored::Known(Outcome::Failed) || it.needs_person) {
        None => ": the next pass writes its row, or says why it cannot".to_owned(),
        Some(last) => format!(
            "; the last pass could not write its row: {}; see docs/OPERATIONS.md#{section}",
            last.detail
        ),
    }
}

/// Returns the verdict if nothing is known of the user in the drops in question.
fn unknown(known: &UserFacts, question: &Question) -> Verdict {
    let (holds, conclusion) = match question.drop {
        _ if known.is_blind => {
            let why = "no row is known, but not everything could be asked; ask again when it can";
            (ClaimState::Unknown, why.to_owned())
        }
        Some(drop) => (
            ClaimState::None,
            format!("nothing of theirs is known in drop {drop}"),
        ),
        None => (
            ClaimState::None,
            "they hold nothing of this coupon".to_owned(),
        ),
    };
    Verdict {
        holds,
        conclusion,
        drop: None,
        slot: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Finding;

    fn known(standings: &[(Evidence, i64)]) -> UserFacts {
        let standing = |&(evidence, drop): &(Evidence, i64)| Standing {
            evidence,
            drop: Some(DropId(drop)),
            slot: Some(7),
            sentence: format!("{evidence:?} {drop}"),
        };
        UserFacts {
            standings: standings.iter().map(standing).collect(),
            ..UserFacts::default()
        }
    }

    #[test]
    fn unreachable_store_is_never_treated_as_empty() {
        use Evidence::{Admission, BrokenPromise, Waiting};
        for (standings, holds) in [
            (&[][..], ClaimState::None),
            (&[(Admission, 1)], ClaimState::Accepted),
            (&[(Waiting, 1), (BrokenPromise, 1)], ClaimState::Broken),
            (&[(Waiting, 1)], ClaimState::Waiting),
        ] {
            let mut known = known(standings);
            let found = |known: &UserFacts| verdict(known, &Question::default()).holds;
            assert_eq!(found(&known), holds, "{standings:?}");
            known.is_blind = true;
            let blind = if standings.is_empty() {
                ClaimState::Unknown
            } else {
                holds
            };
            assert_eq!(found(&known), blind, "{standings:?}");
        }
    }

    #[test]
    fn explanation_promises_no_row_after_a_repair_that_failed() {
        for evidence in [Evidence::Admission, Evidence::DeadLetter] {
            for (kind, drop, has_failed) in [
                (Kind::Unissued, 1, true),
                (Kind::FailedClaim, 1, true),
                (Kind::Unissued, 2, false),
                (Kind::BrokenPromise, 1, false),
            ] {
                let mut known = known(&[(evidence, 1)]);
                let failed = Finding {
                    drop_id: Some(DropId(drop)),
                    result: Outcome::Failed,
                    ..Finding::report(kind, "no limit of this drop")
                };
                known.found(&failed.into());
                let said = verdict(&known, &Question::default()).conclusion;
                let why = "could not write its row: no limit of this drop";
                assert_eq!(said.contains(why), has_failed, "{said}");
                let promise = "the next pass writes its row";
                assert_eq!(said.contains(promise), !has_failed, "{said}");
            }
        }
    }

    #[test]
    fn broken_promise_says_where_its_user_waits() {
        let known = known(&[(Evidence::BrokenPromise, 1), (Evidence::Waiting, 1)]);
        let found = verdict(&known, &Question::default());
        assert_eq!(found.conclusion, "BrokenPromise 1; Waiting 1");
    }

    #[test]
    fn row_of_an_earlier_drop_overrides_a_later_claim_only_if_once_per_coupon() {
        use Evidence::{Admission, Row};
        let both = [(Row, 9), (Admission, 9), (Admission, 2)];
        let earlier = [(Row, 9)];
        for (standings, drop, whole_coupon, expected) in [
            (&both[..], None, false, (ClaimState::Accepted, Some(2))),
            (&both, Some(9), false, (ClaimState::Issued, Some(9))),
            (&both, None, true, (ClaimState::Issued, Some(9))),
            (&earlier, None, false, (ClaimState::Issued, Some(9))),
            (&earlier, Some(2), false, (ClaimState::None, None)),
        ] {
            let question = Question {
                // An id does not say which drop opened first.
                drops: vec![DropId(9), DropId(2)],
                drop: drop.map(DropId),
                whole_coupon,
            };
            let found = verdict(&known(standings), &question);
            let found = (found.holds, found.drop.map(|drop| drop.0));
            assert_eq!(found, expected, "{standings:?} {drop:?}");
        }
    }
}
