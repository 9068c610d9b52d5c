//! Findings: what the report says of plans and of attempts at repair.

use std::collections::HashMap;

use firstcome_shared::domain::{CouponId, DropId};

use super::request::Obstacle;
use crate::execute::RepairAttempt;
use crate::plan::{Action, Beyond, Planned};
use crate::report::{ActionKind, DropReport, Finding, Kind, Outcome, Run, Status};

/// A drop of which a store holds what can't be read or is refused, or has rows locked. The other
/// store is whole, as far as is known, so nothing is lost; a person removes what does not belong
/// there, or ends who holds the lock.
pub(super) fn unworkable(coupon: CouponId, drop: DropId, why: &Obstacle) -> Finding {
    let foreign =
        |why| format!("the drop can't be examined or repaired, since a store holds what is none of ours: {why}");
    let (kind, detail) = match why {
        Obstacle::Foreign(why) if why.starts_with("Redis") => (Kind::CountMismatch, foreign(why)),
        Obstacle::Foreign(why) => (Kind::Unissued, foreign(why)),
        Obstacle::Locked(why) => {
            (Kind::Unissued, format!("rows of the drop are locked by another client of MySQL: {why}"))
        }
    };
    let of_drop = Finding::general(kind, ActionKind::Report, detail);
    Finding { coupon_id: Some(coupon), drop_id: Some(drop), result: Outcome::Failed, ..of_drop }
}

/// A planned item of no drop of this pass.
pub(super) fn of_no_drop(item: &Planned, coupon: Option<CouponId>, drop: Option<DropId>) -> Finding {
    Finding { coupon_id: coupon, drop_id: drop, ..finding(item, CouponId(0), DropId(0), Outcome::Skipped) }
}

pub(super) fn finding(item: &Planned, coupon: CouponId, drop: DropId, result: Outcome) -> Finding {
    Finding {
        kind: item.kind,
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        slot: item.slot,
        user_id: item.user.as_ref().map(ToString::to_string),
        action: item.action.kind(),
        result,
        detail: item.detail.clone(),
        needs_person: item.needs_person,
    }
}

/// What the rounds over one drop found, each finding once, with its latest outcome.
#[derive(Default)]
pub(super) struct FindingLedger {
    order: Vec<Finding>,
    index: HashMap<FindingKey, usize>,
    /// How many of a kind are beyond those that are named.
    unnamed: HashMap<(Kind, ActionKind, Outcome), usize>,
    /// Repairs were carried out page by page.
    pub(super) has_repaired_pages: bool,
    /// The last repairs were not compared again so far.
    pub(super) is_unconfirmed: bool,
}

/// Most findings of a drop that are named, each with its person. A million people may miss their
/// rows, and a person reads neither a million lines nor a mail of them.
const NAMED_AT_MOST: usize = 20_000;

type FindingKey = (Kind, Option<i64>, Option<String>, ActionKind, Option<i64>);

fn key(finding: &Finding, dead_letter: Option<i64>) -> FindingKey {
    (finding.kind, finding.slot, finding.user_id.clone(), finding.action, dead_letter)
}

impl FindingLedger {
    /// Notes a finding; one noted before in an earlier round gets the new outcome.
    pub(super) fn note(&mut self, finding: Finding, dead_letter: Option<i64>) {
        let (next, key) = (self.order.len(), key(&finding, dead_letter));
        if next >= NAMED_AT_MOST && !self.index.contains_key(&key) {
            *self.unnamed.entry((finding.kind, finding.action, finding.result)).or_default() += 1;
            return;
        }
        let at = *self.index.entry(key).or_insert(next);
        if at == next {
            self.order.push(finding);
        } else {
            self.order[at] = finding;
        }
    }

    /// Repairs that a plan has counted only.
    pub(super) fn unnamed(&mut self, beyond: &Beyond, result: Outcome) {
        self.forget_unnamed_left();
        for ((kind, action), number) in &beyond.by_kind {
            *self.unnamed.entry((*kind, *action, result)).or_default() += number;
        }
    }

    /// What was not repaired is tried again, or noted anew.
    fn forget_unnamed_left(&mut self) {
        self.unnamed.retain(|(.., result), _| *result == Outcome::Applied);
    }

    /// The repairs of each page are tried, from now on.
    pub(super) fn begin_pages(&mut self) {
        self.forget_unnamed_left();
        self.has_repaired_pages = true;
    }

    /// Notes what would be done.
    pub(super) fn planned(&mut self, coupon: CouponId, drop: DropId, items: &[Planned], more: &str) {
        for item in items {
            let report = matches!(item.action, Action::Report);
            let mut noted = finding(item, coupon, drop, if report { Outcome::Skipped } else { Outcome::Planned });
            add(&mut noted.detail, Some(more).filter(|more| !more.is_empty()));
            self.note(noted, item.dead_letter);
        }
    }

    /// Notes what became of a plan's items.
    pub(super) fn attempts(&mut self, coupon: CouponId, drop: DropId, items: &[Planned], attempts: &[RepairAttempt]) {
        self.is_unconfirmed |= !attempts.is_empty();
        for (item, attempt) in items.iter().zip(attempts) {
            let mut noted = finding(item, coupon, drop, Outcome::Applied);
            match attempt {
                RepairAttempt::Done(more) => add(&mut noted.detail, more.as_deref()),
                RepairAttempt::Changed(why) => {
                    noted.result = Outcome::Skipped;
                    add(&mut noted.detail, Some(why));
                }
                RepairAttempt::Left(why) => {
                    noted.needs_person = true;
                    if !matches!(item.action, Action::Move { .. }) {
                        noted.result = Outcome::Skipped;
                    }
                    add(&mut noted.detail, Some(why));
                }
                RepairAttempt::Reported => noted.result = Outcome::Skipped,
            }
            self.note(noted, item.dead_letter);
        }
    }

    /// The comparison after the repairs still shows these: a repair had no effect, or a person is
    /// needed. What live traffic has added since was not tried, so it has not failed: the next pass
    /// repairs it. With the gate closed only rows can be missing anew.
    pub(super) fn still_there(&mut self, coupon: CouponId, drop: DropId, items: &[Planned], gate_closed: bool) {
        self.is_unconfirmed = false;
        for item in items {
            let mut noted = finding(item, coupon, drop, Outcome::Failed);
            let comes_by_itself = matches!(item.kind, Kind::Unissued | Kind::FailedClaim | Kind::Unfilled);
            if matches!(item.action, Action::Report) {
                noted.result = Outcome::Skipped;
            } else if !self.index.contains_key(&key(&noted, item.dead_letter)) && (comes_by_itself || !gate_closed) {
                noted.result = Outcome::Skipped;
                add(&mut noted.detail, Some("it came after the last repairs; the next pass repairs it"));
            }
            noted.needs_person |= noted.result == Outcome::Failed;
            self.note(noted, item.dead_letter);
        }
    }

    /// Nothing is left that admission could trip over. A missing row, or a slot that nobody was
    /// given yet, is nothing to admission.
    pub(super) fn is_whole(&self) -> bool {
        let named = self.order.iter().map(|finding| (finding.kind, finding.action, finding.result));
        named.chain(self.unnamed.keys().copied()).all(|(kind, action, result)| match result {
            Outcome::Applied => true,
            Outcome::Skipped => kind != Kind::RedisLost,
            _ if action == ActionKind::Report => false,
            _ => matches!(kind, Kind::Unissued | Kind::Unfilled),
        })
    }

    pub(super) fn into_findings(mut self, coupon: CouponId, drop: DropId) -> Vec<Finding> {
        let more = self.unnamed.into_iter().map(|((kind, action, result), number)| Finding {
            coupon_id: Some(coupon),
            drop_id: Some(drop),
            result,
            needs_person: result == Outcome::Failed,
            ..Finding::general(kind, action, format!("{number} more like these, which are not named one by one"))
        });
        self.order.extend(more);
        if self.is_unconfirmed {
            let applied = self.order.iter_mut().filter(|finding| finding.result == Outcome::Applied);
            applied.for_each(|finding| add(&mut finding.detail, Some("it was not compared again in this pass")));
        }
        self.order
    }
}

fn add(detail: &mut String, more: Option<&str>) {
    if let Some(more) = more {
        detail.push_str("; ");
        detail.push_str(more);
    }
}

/// What became of the admission gate, which was closed when the pass began.
pub(super) fn gate(dry_run: bool, is_open: bool, all_verified: bool) -> Finding {
    let cause = "Redis is new, was restarted, or failed over; admission was closed";
    let (result, end) = match (dry_run, is_open, all_verified) {
        (true, ..) => (Outcome::Planned, ""),
        (_, true, true) => (Outcome::Applied, "; every drop was verified and it is open again"),
        (_, true, false) => (Outcome::Applied, "; what could be verified is open again"),
        (_, false, _) => (Outcome::Failed, "; it stays closed, since not everything could be verified"),
    };
    let mut finding = Finding::general(Kind::RedisLost, ActionKind::GrantLicence, format!("{cause}{end}"));
    finding.needs_person = result == Outcome::Failed;
    finding.result = result;
    tracing::info!(result = finding.result.as_str(), "admission gate: {}", finding.detail);
    finding
}

/// A coupon that could not be verified after a loss.
pub(super) fn closed_coupon(coupon: CouponId) -> Finding {
    let detail = format!("coupon {coupon} stays closed, since something is left in it that admission could trip over");
    let finding = Finding::general(Kind::RedisLost, ActionKind::GrantLicence, detail);
    Finding { coupon_id: Some(coupon), result: Outcome::Failed, ..finding }
}

/// How a pass ended, by what it found.
pub(super) fn status(run: &Run) -> Status {
    let braked = |drop: &DropReport| !run.dry_run && drop.findings.iter().any(|f| f.result == Outcome::Planned);
    if run.drops.iter().any(braked) {
        return Status::Braked;
    }
    // A broken promise is applied, as far as that goes, and still needs a person.
    let left = |f: &Finding| matches!(f.result, Outcome::Failed | Outcome::Planned) || f.needs_person;
    let broken = run.drops.iter().any(|drop| drop.after.broken_promises > 0);
    if broken || run.all_findings().any(left) {
        Status::Drift
    } else if run.all_findings().any(|f| f.result == Outcome::Applied) {
        Status::Repaired
    } else {
        Status::Clean
    }
}
