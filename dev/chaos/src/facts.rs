//! What the stores, the faults and the history say about a deviation. The excuses depend on it.

use std::collections::{HashMap, HashSet};
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use firstcome_oracle::history::{Ended, Operation, OperationKind};
use firstcome_oracle::{History, RecordedAnswer, Violation};

use crate::fault::Fault;

/// Longest time for which an API answers `sold_out` without Redis.
const LEASE_MS: u64 = 200;

/// Time until a pass has noticed older keys, once no fault delays it.
const BELIEVED: Duration = Duration::from_secs(5);

/// Drops and users in `broken_promises`.
pub(crate) type Owed = HashSet<(i64, String)>;

/// What the stores and the history say about the users in violations.
#[derive(Debug, Default)]
pub(crate) struct Facts {
    pub(crate) owed: Owed,
    /// Whether a dead letter lists unreadable offsets, or the broker has cut them off.
    pub(crate) unreadable: bool,
    /// Drops, each with a user who returned a claim of the coupon or was revoked. Requests that got
    /// no answer count, too.
    pub(crate) returned_by: HashSet<(u64, String)>,
    /// Drops, each with a slot that was promised to one of these users.
    pub(crate) returned: HashSet<(u64, i64)>,
    /// The times at which Redis's clock was set, in milliseconds of the history.
    pub(crate) clock_steps_ms: Vec<u64>,
    pub(crate) older_keys: Vec<OlderKeys>,
    /// The coupon of each drop.
    pub(crate) coupons: HashMap<u64, u64>,
    pub(crate) requests: Vec<TimedRequest>,
}

/// A finding of the last pass.
#[derive(Debug, Clone)]
pub(crate) struct LeftFinding {
    pub(crate) kind: String,
    pub(crate) drop: Option<i64>,
    pub(crate) user: Option<String>,
}

/// A dead letter that is not resolved at the end.
#[derive(Debug, Clone)]
pub(crate) struct OpenLetter {
    pub(crate) drop: Option<i64>,
    pub(crate) user: Option<String>,
}

/// A period in which older keys of a coupon may have been believed, in milliseconds of the history.
#[derive(Debug, Clone)]
pub(crate) struct OlderKeys {
    pub(crate) coupon: u64,
    pub(crate) during_ms: RangeInclusive<u64>,
}

/// A claim or its look-up, and the period in which it was in progress, in milliseconds of the
/// history. Without an answer, it has no end.
#[derive(Debug, Clone)]
pub(crate) struct TimedRequest {
    pub(crate) is_claim: bool,
    pub(crate) coupon: u64,
    pub(crate) person: String,
    pub(crate) line: usize,
    pub(crate) answered_line: Option<usize>,
    pub(crate) is_sold_out: bool,
    pub(crate) during_ms: RangeInclusive<u64>,
}

impl TimedRequest {
    fn new(op: &Operation, history: &History) -> Option<Self> {
        let answered_line = op.ended_line.filter(|_| op.ended != Ended::Unknown);
        let end = answered_line.and_then(|line| history.at_ms(line));
        Some(Self {
            is_claim: op.act == OperationKind::Claim,
            coupon: op.coupon,
            person: op.person.clone(),
            line: op.line,
            answered_line,
            is_sold_out: op.ended == Ended::Ok(RecordedAnswer::SoldOut),
            during_ms: history.at_ms(op.line)?..=end.unwrap_or(u64::MAX),
        })
    }
}

fn overlap(one: &RangeInclusive<u64>, other: &RangeInclusive<u64>) -> bool {
    one.start() <= other.end() && other.start() <= one.end()
}

impl Facts {
    /// Reads what the history says. The caller adds the other facts.
    pub(crate) fn new(history: &History) -> Self {
        let operations = || history.operations.iter();
        let revoked = operations().filter(|op| matches!(op.act, OperationKind::Revoke { .. }));
        let theirs = |op: &Operation| {
            let of = history.drops.iter().filter(|it| it.1.coupon == op.coupon);
            of.map(|it| (*it.0, op.person.clone())).collect::<Vec<_>>()
        };
        let returned_by: HashSet<_> = revoked.flat_map(theirs).collect();
        let returned = operations().filter_map(|op| {
            op.promise()
                .filter(|(drop, _)| returned_by.contains(&(*drop, op.person.clone())))
        });
        let is_asked =
            |op: &&Operation| matches!(op.act, OperationKind::Claim | OperationKind::LookUp);
        let requests = operations().filter(is_asked);
        let requests = requests.filter_map(|op| TimedRequest::new(op, history));
        Self {
            returned: returned.collect(),
            returned_by,
            coupons: history
                .drops
                .iter()
                .map(|it| (*it.0, it.1.coupon))
                .collect(),
            requests: requests.collect(),
            ..Self::default()
        }
    }

    fn answered_at(&self, line: usize) -> Option<&TimedRequest> {
        let mut requests = self.requests.iter();
        requests.find(|request| request.answered_line == Some(line))
    }

    /// Whether the answer is a `sold_out` to a claim that was in progress at a step of Redis's
    /// clock or within one lease after it.
    pub(crate) fn may_be_of_an_old_lease(&self, violation: &Violation) -> bool {
        let claim = self.answered_at(violation.line);
        let Some(claim) = claim.filter(|claim| claim.is_sold_out) else {
            return false;
        };
        let mut steps_ms = self.clock_steps_ms.iter();
        steps_ms.any(|step| overlap(&claim.during_ms, &(*step..=step + LEASE_MS)))
    }

    /// Whether older keys of this coupon may have been believed during this period.
    pub(crate) fn are_older_keys_believed(&self, coupon: u64, ms: &RangeInclusive<u64>) -> bool {
        let mut older = self.older_keys.iter().filter(|it| it.coupon == coupon);
        older.any(|it| overlap(&it.during_ms, ms))
    }

    /// Whether older keys may have decided the claim or look-up with this answer.
    pub(crate) fn is_answered_by_older_keys(&self, violation: &Violation) -> bool {
        let claim = self.answered_at(violation.line);
        claim.is_some_and(|it| self.are_older_keys_believed(it.coupon, &it.during_ms))
    }

    /// Whether older keys may have decided a claim of this user before the violation was seen.
    pub(crate) fn is_given_by_older_keys(&self, violation: &Violation) -> bool {
        let Some(coupon) = self.coupons.get(&violation.drop) else {
            return false;
        };
        let requests = self.requests.iter().filter(|it| it.is_claim);
        let claims = requests.filter(|it| {
            it.coupon == *coupon && it.person == violation.person && it.line < violation.line
        });
        let mut periods = claims.map(|it| &it.during_ms);
        periods.any(|ms| self.are_older_keys_believed(*coupon, ms))
    }

    /// Whether the user is in `broken_promises`.
    pub(crate) fn owes(&self, violation: &Violation) -> bool {
        let drop = i64::try_from(violation.drop).ok();
        is_owed(&self.owed, drop, Some(&violation.person))
    }

    /// Whether the user returned a claim or was revoked, or such a user was promised the slot.
    pub(crate) fn is_returned(&self, violation: &Violation) -> bool {
        let user = (violation.drop, violation.person.clone());
        self.returned_by.contains(&user)
            || self.returned.contains(&(violation.drop, violation.slot))
    }
}

/// Returns the time until which older keys may be believed that were restored in this period: until
/// a pass has compared them with MySQL. Some of the faults may delay that pass.
pub(crate) fn believed_until<'a>(
    restored: &Range<Instant>,
    faults: impl Iterator<Item = (&'a Fault, &'a Range<Instant>)>,
) -> Instant {
    let delaying = faults.filter(|(fault, _)| fault.may_delay_passes());
    let mut delaying: Vec<_> = delaying.map(|(_, during)| during).collect();
    delaying.sort_by_key(|during| during.start);
    let mut end = restored.end;
    for other in delaying {
        if other.end >= restored.start && other.start <= end + BELIEVED {
            end = end.max(other.end);
        }
    }
    end + BELIEVED
}

pub(crate) fn is_owed(owed: &Owed, drop: Option<i64>, user: Option<&str>) -> bool {
    drop.zip(user)
        .is_some_and(|(drop, user)| owed.contains(&(drop, user.to_owned())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fault::ProcessRole;

    #[test]
    fn only_faults_of_stores_and_reconcilers_extend_the_belief_in_older_keys() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let frozen = |role| Fault::Freeze {
            role,
            number: 0,
            ms: 1,
        };
        let believed = |fault: &Fault| {
            let during = at(2)..at(60);
            believed_until(&(at(0)..at(1)), [(fault, &during)].into_iter()) - begun
        };
        for (fault, seconds) in [
            (frozen(ProcessRole::Reconciler), 65),
            (Fault::MysqlReadOnly { ms: 1 }, 65),
            (frozen(ProcessRole::Api), 6),
            (frozen(ProcessRole::Consumer), 6),
            (Fault::MailsRefused { ms: 1 }, 6),
        ] {
            assert_eq!(believed(&fault), Duration::from_secs(seconds), "{fault}");
        }
    }
}
