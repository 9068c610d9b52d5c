//! Builds the findings of the report from plans and attempted repairs.

use std::collections::HashMap;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::redis::wrong_key::WrongKey;

use super::request::Obstacle;
use crate::execute::{Attempted, RepairAttempt};
use crate::plan::{Beyond, Planned};
use crate::report::{
    ActionKind, DropReport, Finding, FindingCase, Kind, Outcome, Run, Status, StoreOfDrop,
};

/// Reports a drop that cannot be compared because a store has unreadable data or rejects a repair,
/// or because rows are locked. Nothing is known to be lost. An operator has to remove the foreign
/// data, or end the client that holds the lock.
pub(super) fn unworkable(coupon: CouponId, drop: DropId, why: Obstacle) -> Finding {
    let foreign = |store, name, why| {
        let detail = format!(
            "no pass can compare or repair this drop, since {name} holds something that Firstcome did not write: {why}"
        );
        (detail, FindingCase::Unworkable(store))
    };
    let (kind, detail, case) = match why {
        Obstacle::KeyOfWrongType(wrong) => {
            let WrongKey { key, found, wanted } = &wrong;
            let detail = format!("the key `{key}` in Redis is {found} and should be {wanted}");
            (
                Kind::CountMismatch,
                detail,
                FindingCase::KeyOfWrongType(wrong),
            )
        }
        Obstacle::Redis(why) => {
            let (detail, case) = foreign(StoreOfDrop::Redis, "Redis", why);
            (Kind::CountMismatch, detail, case)
        }
        Obstacle::Mysql(why) => {
            let (detail, case) = foreign(StoreOfDrop::Mysql, "MySQL", why);
            (Kind::Unissued, detail, case)
        }
        Obstacle::Locked(why) => {
            let detail = format!("rows of the drop are locked by another client of MySQL: {why}");
            (Kind::Unissued, detail, FindingCase::RowsLocked)
        }
    };
    let of_drop = Finding::general(kind, ActionKind::Report, detail);
    Finding {
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        result: Outcome::Failed,
        case,
        ..of_drop
    }
}

/// Reports a planned item that belongs to no drop of this pass.
pub(super) fn of_no_drop(
    item: &Planned,
    coupon: Option<CouponId>,
    drop: Option<DropId>,
) -> Finding {
    Finding {
        coupon_id: coupon,
        drop_id: drop,
        ..finding(item, CouponId(0), DropId(0), Outcome::Skipped)
    }
}

pub(super) fn finding(item: &Planned, coupon: CouponId, drop: DropId, result: Outcome) -> Finding {
    Finding {
        kind: item.kind,
        coupon_id: Some(coupon),
        drop_id: Some(drop),
        slot: item.slot,
        user_id: item.user.as_ref().map(ToString::to_string),
        action: item.action_kind(),
        result,
        detail: item.detail.clone(),
        needs_person: item.needs_person,
        dead_letter: item.dead_letter,
        trace_id: item.trace.map(|trace| trace.trace_id.to_string()),
        case: item.case.clone(),
    }
}

/// Collects the findings of all rounds for one drop. Each appears once, with its latest outcome.
#[derive(Default)]
pub(super) struct FindingLedger {
    order: Vec<Finding>,
    index: HashMap<FindingKey, usize>,
    /// Why MySQL rejected the rows of the last attempts.
    refused: HashMap<FindingKey, String>,
    /// Number of findings that are not listed individually, by kind.
    unnamed: HashMap<(Kind, ActionKind, Outcome), usize>,
    /// Repairs were carried out page by page.
    pub(super) has_repaired_pages: bool,
    /// Repairs were attempted, and no later comparison has shown their result yet.
    pub(super) is_unconfirmed: bool,
}

/// Maximum number of findings of a drop that are listed individually, each with its user. If a
/// million rows are missing, a list of all of them is not useful.
const NAMED_AT_MOST: usize = 20_000;

type FindingKey = (Kind, Option<i64>, Option<String>, ActionKind, Option<i64>);

fn key(finding: &Finding) -> FindingKey {
    (
        finding.kind,
        finding.slot,
        finding.user_id.clone(),
        finding.action,
        finding.dead_letter,
    )
}

impl FindingLedger {
    /// Adds a finding, or updates the outcome if an earlier round has already added it.
    pub(super) fn note(&mut self, finding: Finding) {
        let next = self.order.len();
        let key = key(&finding);
        if next >= NAMED_AT_MOST && !self.index.contains_key(&key) {
            *self
                .unnamed
                .entry((finding.kind, finding.action, finding.result))
                .or_default() += 1;
            return;
        }
        let at = *self.index.entry(key).or_insert(next);
        if at == next {
            self.order.push(finding);
        } else {
            self.order[at] = finding;
        }
    }

    /// Removes the findings without a repair, because the latest plan adds those that remain.
    pub(super) fn forget_reports(&mut self) {
        self.order
            .retain(|finding| finding.action != ActionKind::Report);
        self.index = self.order.iter().map(key).zip(0..).collect();
    }

    /// Adds the repairs that a plan only counted.
    pub(super) fn unnamed(&mut self, beyond: &Beyond, result: Outcome) {
        self.forget_unnamed_left();
        for ((kind, action), number) in &beyond.by_kind {
            *self.unnamed.entry((*kind, *action, result)).or_default() += number;
        }
    }

    /// Removes counted findings with failed repairs, because these repairs are attempted or counted
    /// again.
    fn forget_unnamed_left(&mut self) {
        self.unnamed
            .retain(|(.., result), _| *result == Outcome::Applied);
    }

    /// Marks the beginning of page-by-page repairs.
    pub(super) fn begin_pages(&mut self) {
        self.forget_unnamed_left();
        self.has_repaired_pages = true;
    }

    /// Adds planned repairs.
    pub(super) fn planned(
        &mut self,
        coupon: CouponId,
        drop: DropId,
        items: &[Planned],
        more: &str,
    ) {
        for item in items {
            let mut noted = finding(
                item,
                coupon,
                drop,
                if item.action.is_some() {
                    Outcome::Planned
                } else {
                    Outcome::Skipped
                },
            );
            add(
                &mut noted.detail,
                Some(more).filter(|more| !more.is_empty()),
            );
            self.note(noted);
        }
    }

    /// Adds the outcomes of a plan's items.
    pub(super) fn attempts(
        &mut self,
        coupon: CouponId,
        drop: DropId,
        items: &[Planned],
        attempts: &[Attempted],
    ) {
        self.is_unconfirmed |= !attempts.is_empty();
        for (item, (attempt, trace)) in items.iter().zip(attempts) {
            let mut noted = finding(item, coupon, drop, Outcome::Applied);
            noted.trace_id = trace.map(|trace| trace.trace_id.to_string());
            let key = key(&noted);
            self.refused.remove(&key);
            match attempt {
                RepairAttempt::Done(more) => add(&mut noted.detail, more.as_deref()),
                RepairAttempt::Changed(why) => {
                    noted.result = Outcome::Skipped;
                    add(&mut noted.detail, Some(why));
                }
                RepairAttempt::Refused(why) => {
                    noted.result = Outcome::Skipped;
                    refuse(&mut noted, why);
                    if self.refused.len() < NAMED_AT_MOST {
                        self.refused.insert(key, why.clone());
                    }
                }
                RepairAttempt::Left(why) => {
                    noted.needs_person = true;
                    if !item.moves() {
                        noted.result = Outcome::Skipped;
                    }
                    add(&mut noted.detail, Some(why));
                }
                RepairAttempt::Reported => noted.result = Outcome::Skipped,
            }
            self.note(noted);
        }
    }

    /// Adds findings that remain after the repairs, because a repair had no effect or an operator
    /// is needed. Differences that live traffic has caused since then are not failures: the next
    /// pass repairs them. While the gate is closed, only missing rows can be new.
    pub(super) fn still_there(
        &mut self,
        coupon: CouponId,
        drop: DropId,
        items: &[Planned],
        gate_closed: bool,
    ) {
        self.is_unconfirmed = false;
        for item in items {
            let mut noted = finding(item, coupon, drop, Outcome::Failed);
            let comes_by_itself = matches!(
                item.kind,
                Kind::Unissued | Kind::FailedClaim | Kind::Unfilled
            );
            let key = key(&noted);
            if item.action.is_none() {
                noted.result = Outcome::Skipped;
            } else if let Some(why) = self.refused.get(&key) {
                refuse(&mut noted, why);
            } else if !self.index.contains_key(&key) && (comes_by_itself || !gate_closed) {
                noted.result = Outcome::Skipped;
                add(
                    &mut noted.detail,
                    Some("it came after the last repairs; the next pass repairs it"),
                );
            }
            noted.needs_person |= noted.result == Outcome::Failed;
            self.note(noted);
        }
    }

    /// Whether admission can safely open. Missing rows and unfilled slots do not affect it.
    pub(super) fn is_whole(&self) -> bool {
        let named = self
            .order
            .iter()
            .map(|finding| (finding.kind, finding.action, finding.result));
        !named
            .chain(self.unnamed.keys().copied())
            .any(|(kind, action, result)| keeps_closed(kind, action, result))
    }

    pub(super) fn into_findings(mut self, coupon: CouponId, drop: DropId) -> Vec<Finding> {
        let more = self
            .unnamed
            .into_iter()
            .map(|((kind, action, result), number)| Finding {
                coupon_id: Some(coupon),
                drop_id: Some(drop),
                result,
                needs_person: result == Outcome::Failed,
                case: FindingCase::MoreLeft(number as u64),
                ..Finding::general(
                    kind,
                    action,
                    format!("{number} more like these, which are not named one by one"),
                )
            });
        self.order.extend(more);
        if self.is_unconfirmed {
            let applied = self
                .order
                .iter_mut()
                .filter(|finding| finding.result == Outcome::Applied);
            applied.for_each(|finding| {
                add(
                    &mut finding.detail,
                    Some("it was not compared again in this pass"),
                );
            });
        }
        self.order
    }
}

/// Whether the finding makes admission unsafe.
fn keeps_closed(kind: Kind, action: ActionKind, result: Outcome) -> bool {
    match result {
        Outcome::Applied => false,
        Outcome::Skipped => kind == Kind::RedisLost,
        _ if action == ActionKind::Report => true,
        _ => !matches!(kind, Kind::Unissued | Kind::Unfilled),
    }
}

fn refuse(noted: &mut Finding, why: &str) {
    add(
        &mut noted.detail,
        Some(&format!("MySQL refused the row: {why}")),
    );
    noted.case = FindingCase::RowRefused(why.to_owned());
}

fn add(detail: &mut String, more: Option<&str>) {
    if let Some(more) = more {
        detail.push_str("; ");
        detail.push_str(more);
    }
}

/// Reports the outcome for the admission gate, which was closed when the pass began.
pub(super) fn gate(dry_run: bool, is_open: bool, all_verified: bool) -> Finding {
    let cause = "Redis is new, was restarted, or failed over; admission was closed";
    let (result, end) = match (dry_run, is_open, all_verified) {
        (true, ..) => (Outcome::Planned, ""),
        (_, true, true) => (
            Outcome::Applied,
            "; every drop was verified and it is open again",
        ),
        (_, true, false) => (Outcome::Applied, "; what could be verified is open again"),
        (_, false, _) => (
            Outcome::Failed,
            "; it stays closed, since not everything could be verified",
        ),
    };
    let mut finding = Finding::general(
        Kind::RedisLost,
        ActionKind::OpenGate,
        format!("{cause}{end}"),
    );
    finding.needs_person = result == Outcome::Failed;
    finding.result = result;
    tracing::info!(
        result = finding.result.as_str(),
        "admission gate: {}",
        finding.detail
    );
    finding
}

/// Reports a coupon that could not be verified after a loss, with the first reason in the reports.
pub(super) fn closed_coupon(coupon: CouponId, drops: &[DropReport]) -> Finding {
    let of_coupon = drops.iter().filter(|drop| drop.coupon_id == coupon);
    let mut reasons = of_coupon
        .flat_map(|drop| drop.findings.iter().map(|finding| (drop.drop_id, finding)))
        .filter(|(_, finding)| keeps_closed(finding.kind, finding.action, finding.result));
    let why = match (reasons.next(), reasons.count()) {
        (None, _) => "this pass could not verify it, and the next one tries again".to_owned(),
        (Some((drop, first)), more) => {
            let slot = first
                .slot
                .map(|slot| format!(", slot {slot}"))
                .unwrap_or_default();
            let more = if more == 0 {
                String::new()
            } else {
                format!(" (and {more} more)")
            };
            format!("in drop {drop}{slot}, {}{more}", first.detail)
        }
    };
    let detail = format!("coupon {coupon} stays closed and answers 503: {why}");
    let finding = Finding::general(Kind::RedisLost, ActionKind::OpenGate, detail);
    Finding {
        coupon_id: Some(coupon),
        result: Outcome::Failed,
        ..finding
    }
}

/// Returns the final status of a pass, based on its findings.
pub(super) fn status(run: &Run) -> Status {
    let braked = |drop: &DropReport| {
        !run.dry_run && drop.findings.iter().any(|f| f.result == Outcome::Planned)
    };
    if run.drops.iter().any(braked) {
        return Status::Braked;
    }
    // The repair of a broken promise counts as applied, but still needs an operator.
    let left =
        |f: &Finding| matches!(f.result, Outcome::Failed | Outcome::Planned) || f.needs_person;
    let broken = run.drops.iter().any(|drop| drop.after.broken_promises > 0);
    if broken || run.all_findings().any(left) {
        Status::Drift
    } else if run.all_findings().any(|f| f.result == Outcome::Applied) {
        Status::Repaired
    } else {
        Status::Clean
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::UserId;

    use super::*;
    use crate::plan::{Action, DropRepair};

    const PLACE: (CouponId, DropId) = (CouponId(1), DropId(7));

    fn issue(slot: i64) -> Planned {
        Planned {
            kind: Kind::Unissued,
            slot: Some(slot),
            user: Some(UserId::from_store(slot.to_string())),
            dead_letter: None,
            trace: None,
            detail: "admitted 64 s ago, no row, and no message waits".to_owned(),
            action: Some(Action::Drop(DropRepair::Count)),
            needs_person: false,
            case: FindingCase::Plain,
        }
    }

    #[test]
    fn row_that_mysql_rejects_is_reported_with_the_reason() {
        let mut ledger = FindingLedger::default();
        let items = [issue(4), issue(5)];
        let why = "the table `slot_limits` has no limit of this drop";
        let attempts = [
            (RepairAttempt::Refused(why.to_owned()), None),
            (RepairAttempt::Done(None), None),
        ];
        ledger.attempts(PLACE.0, PLACE.1, &items, &attempts);
        ledger.still_there(PLACE.0, PLACE.1, &items[..1], false);
        let findings = ledger.into_findings(PLACE.0, PLACE.1);
        assert_eq!(findings[0].case, FindingCase::RowRefused(why.to_owned()));
        assert_eq!(
            (findings[0].result, findings[0].needs_person),
            (Outcome::Failed, true)
        );
        assert!(findings[0].detail.ends_with(why), "{}", findings[0].detail);
        assert_eq!(
            (findings[1].result, &findings[1].case),
            (Outcome::Applied, &FindingCase::Plain)
        );
    }

    #[test]
    fn findings_that_are_not_listed_are_counted() {
        let mut ledger = FindingLedger::default();
        let items: Vec<Planned> = (0..).take(NAMED_AT_MOST + 7).map(issue).collect();
        ledger.planned(PLACE.0, PLACE.1, &items, "");
        let findings = ledger.into_findings(PLACE.0, PLACE.1);
        let number: u64 = findings.iter().map(|finding| finding.case.number()).sum();
        assert_eq!(number, items.len() as u64);
    }

    #[test]
    fn closed_coupon_reports_its_own_first_reason() {
        let report = |coupon, findings| DropReport {
            findings,
            ..DropReport::begun(CouponId(coupon), DropId(7), 100)
        };
        let found = |detail: &str| Finding {
            slot: Some(9),
            result: Outcome::Failed,
            ..Finding::general(Kind::SlotConflict, ActionKind::Move, detail)
        };
        let drops = [
            report(2, vec![found("another coupon's")]),
            report(1, vec![found("two on a slot"), found("more")]),
        ];
        let closed = closed_coupon(CouponId(1), &drops).detail;
        assert_eq!(
            closed,
            "coupon 1 stays closed and answers 503: in drop 7, slot 9, two on a slot (and 1 more)"
        );
        assert!(
            closed_coupon(CouponId(3), &drops)
                .detail
                .contains("could not verify it")
        );
    }
}
