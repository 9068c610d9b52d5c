//! Alerts: a pure function from a run and the previous alerts to the mails to send now.
//!
//! An alert stands for one problem that was *not repaired*: everything of one kind in one drop,
//! everything of one cause outside drops, or an outage. Its name identifies the problem and stays
//! the same while users join it or are repaired, so that one acknowledgement covers it. Once it was
//! mailed, its size, content and cases are not those of the last pass, but what the last *mail*
//! named and nobody has repaired since. So a change that comes too soon after a mail is not lost: it
//! is mailed after the pause.

mod cases;
mod headline;
mod judge;
mod over;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, HashSet};

use firstcome_shared::domain::{CouponId, DropId};
pub use firstcome_shared::mysql::alerts::{Alert, BrokenPromise};
pub use firstcome_shared::report::AlertState;

use crate::report::{
    ActionKind, AlertKind, Cause, Doubt, FailureCause, Finding, Kind, Outcome, Run, Status,
    StoreRefusal,
};
use crate::wording;
use firstcome_shared::subject::Subject;

pub use cases::Cases;
pub(crate) use headline::{Headline, may_be_none, waits};
pub use judge::{MailPolicy, Notice, NoticeReason, Verdict, judge, pause};
pub(crate) use judge::{OUTAGE_PAUSE, are_held_back, begun, end, firing, observe, unread};
pub(crate) use over::{EndsWhen, ends_when, names_only_promises};

/// The name of the alert about Redis: unreachable, refusing, or not verified yet. One outage has
/// one alert.
pub const ADMISSION: &str = "admission";

/// The name of the alert about a digest that is late.
pub(crate) fn late_digest() -> String {
    format!("{}.DIGEST_CRON", AlertKind::RunMissed.word())
}

/// The state that earlier passes and watches left in the tables.
#[derive(Debug, Clone, Default)]
pub struct AlertMemory {
    /// Alerts by name: those that fire, and those of the problems that are seen now.
    pub alerts: HashMap<String, Alert>,
    /// Broken promises of the drops that this pass examined, and of those with an alert about them.
    pub broken: Vec<BrokenPromise>,
    /// Whether the process of this pass has recorded itself that Kafka is away.
    pub has_lost_kafka: bool,
}

impl AlertMemory {
    /// Treats alerts as not mailed if a process without recipients and webhooks has recorded them.
    pub(crate) fn forget_unread(&mut self) {
        for alert in self.alerts.values_mut().filter(|it| it.mails == 0) {
            alert.last_mailed_at = None;
        }
    }
}

/// One problem, as a pass or the watch sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: AlertKind,
    /// The identity of the problem.
    pub name: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// One line for an operator, without user IDs.
    pub summary: String,
    /// The number of cases.
    pub size: u64,
    /// A checksum of the cases, without values that change over time (ages, lags).
    pub content: i64,
    /// The cases, if each of them is known.
    pub cases: Option<Cases>,
    /// The findings that the problem consists of.
    pub findings: Vec<Finding>,
}

impl Problem {
    /// An outage, which has no cases.
    pub fn outage(kind: AlertKind, summary: impl Into<String>) -> Self {
        Self {
            kind,
            name: name(kind, None, None, ""),
            coupon_id: None,
            drop_id: None,
            summary: summary.into(),
            size: 1,
            content: 0,
            cases: None,
            findings: Vec::new(),
        }
    }
}

impl Problem {
    /// Closed coupons, with a finding for each.
    pub(crate) fn closure(findings: Vec<Finding>) -> Self {
        let content = findings.iter().map(Finding::identity);
        Self {
            size: findings.len() as u64,
            content: content.fold(0, i64::wrapping_add),
            cases: Cases::from_findings(&findings),
            findings,
            ..Self::outage(AlertKind::AdmissionClosed, "admission is closed")
        }
    }

    /// A store that answers with a refusal, quoted from its error text.
    pub fn refusal(refusal: StoreRefusal, text: &str) -> Self {
        let quoted = wording::line(text, wording::LONGEST);
        let finding = Finding {
            cause: Cause::Refused(refusal),
            ..Finding::report(Kind::Stalled, quoted)
        };
        Self {
            findings: vec![finding],
            ..Self::outage(refusal.alert(), refusal.facts().says)
        }
    }

    pub(crate) fn headline(&self) -> Headline {
        Headline::decide(self.kind, &self.findings)
    }

    /// Returns the refusal of a store, if the problem is one.
    pub fn refused(&self) -> Option<StoreRefusal> {
        self.findings
            .iter()
            .find_map(|finding| match finding.cause {
                Cause::Refused(refusal) => Some(refusal),
                _ => None,
            })
    }
}

/// Kind, coupon, drop, and what distinguishes problems that are equal in these three.
type Key = (AlertKind, Option<CouponId>, Option<DropId>, &'static str);

/// Returns everything that was not repaired, most urgent first.
pub fn problems(run: &Run, broken: &[BrokenPromise]) -> Vec<Problem> {
    let broken_users = users(broken);
    let mut groups: BTreeMap<Key, Vec<Finding>> = BTreeMap::new();
    for (coupon, drop, finding) in placed(run) {
        if is_broken(finding, drop, &broken_users) {
            continue;
        }
        if let Some(kind) = alert_kind(finding) {
            let key = (kind, coupon, drop, part(finding, kind));
            groups.entry(key).or_default().push(finding.clone());
        }
    }
    let is_examined = |drop| run.drops.iter().any(|report| report.drop_id == drop);
    for promise in broken.iter().filter(|promise| is_examined(promise.drop_id)) {
        let kind = AlertKind::Left(Kind::BrokenPromise);
        let key = (kind, Some(promise.coupon_id), Some(promise.drop_id), "");
        groups.entry(key).or_default().push(Finding {
            coupon_id: key.1,
            drop_id: key.2,
            slot: promise.slot,
            user_id: Some(promise.user_id.clone()),
            ..Finding::report(Kind::BrokenPromise, promise.reason.replace('_', " "))
        });
    }
    let found = groups.into_iter().map(|(key, it)| from_findings(key, it));
    // A pass that was stopped is no problem: the next pass does all of its work.
    let has_failed = run.status == Status::Failed && !run.stopped;
    let mut all = if has_failed {
        failures(run)
    } else {
        Vec::new()
    };
    all.extend(found);
    all.sort_by_key(|problem| problem.kind.facts().severity);
    all
}

/// Returns why a pass has failed: a problem for each store, and for other causes.
fn failures(run: &Run) -> Vec<Problem> {
    let causes = (run.findings.iter()).filter_map(|it| Some((it.failure()?, it.detail.as_str())));
    let mut errors: Vec<(FailureCause, &str)> = causes.collect();
    if errors.is_empty() {
        let error = run.error.as_deref().unwrap_or("the log has the reason");
        errors.push((FailureCause::Other, error));
    }
    let mut problems: Vec<Problem> = Vec::new();
    for (cause, error) in errors {
        let problem = failure(cause, error);
        if problems.iter().all(|known| known.name != problem.name) {
            problems.push(problem);
        }
    }
    problems
}

/// Returns the problem of a pass that failed. If a store does not answer or refuses, it is the
/// store's outage, of which the failed pass is a part.
fn failure(cause: FailureCause, error: &str) -> Problem {
    if let Some(refusal) = StoreRefusal::from_error(cause, error) {
        return Problem::refusal(refusal, error);
    }
    if let Some(summary) = wording::unavailable(cause, error) {
        return Problem::outage(cause.alert(), summary);
    }
    let why = wording::line(error, wording::LONGEST);
    Problem::outage(AlertKind::RunFailed, format!("passes fail: {why}"))
}

/// Counts the repairs by drop and kind.
pub fn repairs(run: &Run, broken: &[BrokenPromise]) -> BTreeMap<(Option<DropId>, Kind), u64> {
    let mut counts = BTreeMap::new();
    for (drop, finding) in mailed_repairs(run, broken) {
        *counts.entry((drop, finding.kind)).or_default() += finding.cause.number();
    }
    counts
}

/// Returns the repairs that a mail lists, with their drops.
pub(crate) fn mailed_repairs<'a>(
    run: &'a Run,
    broken: &'a [BrokenPromise],
) -> impl Iterator<Item = (Option<DropId>, &'a Finding)> {
    let broken = users(broken);
    // Alerts already report that a coupon opens, and which users are owed a slot.
    let is_reported = |action| matches!(action, ActionKind::Open | ActionKind::Owe);
    placed(run)
        .filter(move |(.., it)| is_repair(it) && !is_reported(it.action))
        .filter(move |(_, drop, it)| !is_broken(it, *drop, &broken))
        .map(|(_, drop, finding)| (drop, finding))
}

/// Whether the finding was repaired and no part of it needs an operator.
pub(crate) fn is_repair(finding: &Finding) -> bool {
    finding.result == Outcome::Applied && !finding.needs_person
}

/// Returns every finding with its coupon and drop. A finding outside the drops' reports belongs to
/// no drop, even if it names one: no pass would report on that drop, so the alert would never end.
fn placed(run: &Run) -> impl Iterator<Item = (Option<CouponId>, Option<DropId>, &Finding)> {
    // A failed pass also has its error as a finding.
    let is_error = |finding: &&Finding| matches!(finding.cause, Cause::RunFailed(_));
    let loose = run.findings.iter().filter(move |it| !is_error(it));
    let of_drops = run.drops.iter().flat_map(|drop| {
        let coupon = Some(drop.coupon_id);
        let id = Some(drop.drop_id);
        let findings = drop.findings.iter();
        findings.map(move |finding| (coupon, id, finding))
    });
    let loose = loose.map(|finding| (campaign(finding), None, finding));
    loose.chain(of_drops)
}

/// The campaign that could not be compared, so that its alert covers no other.
fn campaign(finding: &Finding) -> Option<CouponId> {
    finding.coupon_id.filter(|id| match id.subject() {
        Subject::Campaign => true,
        // The alert is about all coupons.
        Subject::Drop => false,
    })
}

fn alert_kind(finding: &Finding) -> Option<AlertKind> {
    match (finding.kind, finding.result, &finding.cause) {
        (Kind::Stalled, _, Cause::Unsafe(_)) => Some(AlertKind::UnsafeSetting),
        (Kind::FailedClaim, _, Cause::Forged) => Some(AlertKind::Forged),
        (Kind::Stalled, _, Cause::Away(store)) => Some(store.alert()),
        (_, _, Cause::SecondRow) => Some(AlertKind::SecondRow),
        (Kind::Stalled, Outcome::Applied, _) if !finding.needs_person => None,
        (Kind::Stalled, _, _) => Some(AlertKind::Left(Kind::Stalled)),
        // This was not a dry run, so the repair waits for a confirmation. One confirmation releases
        // all repairs of a drop.
        (_, Outcome::Planned, _) => Some(AlertKind::Braked),
        (_, Outcome::Skipped, Cause::Doubted(doubt)) if doubt.may_be_none() => {
            Some(AlertKind::Doubtful)
        }
        (kind, Outcome::Failed, _) => Some(AlertKind::Left(kind)),
        (kind, Outcome::Applied | Outcome::Skipped, _) => {
            finding.needs_person.then_some(AlertKind::Left(kind))
        }
    }
}

/// Returns what distinguishes problems of the same kind, coupon and drop.
fn part(finding: &Finding, kind: AlertKind) -> &'static str {
    match (&finding.cause, kind) {
        // The server of the attached system, not ours.
        (Cause::Away(_), _) => "theirs",
        (cause, AlertKind::Left(Kind::Stalled) | AlertKind::UnsafeSetting) => cause.part(),
        _ => "",
    }
}

fn from_findings((kind, coupon_id, drop_id, part): Key, mut findings: Vec<Finding>) -> Problem {
    findings.sort_by(|a, b| {
        (a.kind, a.slot, &a.user_id, &a.detail).cmp(&(b.kind, b.slot, &b.user_id, &b.detail))
    });
    let content = findings.iter().map(Finding::identity);
    Problem {
        kind,
        name: name(kind, coupon_id, drop_id, part),
        coupon_id,
        drop_id,
        summary: summary(kind, drop_id, &findings),
        size: number(&findings),
        content: content.fold(0, i64::wrapping_add),
        cases: Cases::from_findings(&findings),
        // The summary of an outage says everything.
        findings: if kind.is_outage() {
            Vec::new()
        } else {
            findings
        },
    }
}

fn name(kind: AlertKind, coupon: Option<CouponId>, drop: Option<DropId>, part: &str) -> String {
    // An outage that begins or ends with refusals has one alert.
    let kind = match kind {
        AlertKind::RedisUnreachable | AlertKind::RedisRefuses | AlertKind::AdmissionClosed
            if part.is_empty() =>
        {
            return ADMISSION.to_owned();
        }
        AlertKind::MysqlRefuses => AlertKind::MysqlUnreachable,
        AlertKind::KafkaRefuses => AlertKind::KafkaUnreachable,
        other => other,
    };
    let mut parts = vec![kind.word().to_owned()];
    parts.extend(coupon.map(|coupon| coupon.to_string()));
    parts.extend(drop.map(|drop| drop.to_string()));
    parts.extend((!part.is_empty()).then(|| part.to_owned()));
    parts.join(".")
}

/// Returns the last part of an alert's name. If there may be several alerts of its kind, coupon and
/// drop, this part distinguishes them.
pub(crate) fn part_of(alert: &Alert) -> &str {
    alert.name.rsplit('.').next().unwrap_or_default()
}

/// Summarizes a problem in one line.
fn summary(kind: AlertKind, drop: Option<DropId>, findings: &[Finding]) -> String {
    let [one, many] = kind.facts().noun;
    let size = number(findings);
    let things = || wording::count(size, one, many);
    let Some(first) = findings.first() else {
        return things();
    };
    match Headline::decide(kind, findings) {
        Headline::Outage => their_outage(first),
        Headline::Sentence | Headline::Example => detail_with_place(first, drop),
        Headline::Waits(doubt) => waits(doubt, size),
        Headline::MayBeNone(doubt) => may_be_none(doubt, size),
        Headline::TooMany | Headline::Number => things(),
        // Give no number: one dead letter may stand for many messages.
        Headline::Forged => "messages without our signature on the topic".to_owned(),
        Headline::NotRepaired => wording::count(
            size,
            &format!("unrepaired {one}"),
            &format!("unrepaired {many}"),
        ),
    }
}

/// Says in plain words which store of an attached system is away.
fn their_outage(finding: &Finding) -> String {
    let plain = match finding.cause {
        Cause::Away(store) => wording::unavailable(store, &finding.detail),
        _ => None,
    };
    match plain {
        Some(plain) => format!("their {plain}"),
        None => wording::line(&finding.detail, wording::LONGEST),
    }
}

/// The detail of a finding, with its coupon and drop unless the alert is about a drop.
fn detail_with_place(finding: &Finding, of_drop: Option<DropId>) -> String {
    let mut text = finding.text();
    let coupon = finding.coupon_id.and_then(CouponId::label);
    if let (None, Some(coupon)) = (of_drop, coupon) {
        let drop = finding.drop_id.map(|drop| format!("drop {drop} of "));
        text = format!("{}{coupon}: {text}", drop.unwrap_or_default());
    }
    wording::line(&text, wording::LONGEST)
}

/// Returns the gravest reason why these findings may not be real differences.
fn doubt(findings: &[Finding]) -> Option<Doubt> {
    let doubts = findings.iter().filter_map(|it: &Finding| match it.cause {
        Cause::Doubted(doubt) => Some(doubt),
        _ => None,
    });
    doubts.min()
}

/// Returns the number of cases that these findings stand for.
pub(crate) fn number<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> u64 {
    let findings = findings.into_iter();
    findings.map(|finding| finding.cause.number()).sum()
}

type Users<'a> = HashSet<(DropId, &'a str)>;

fn users(broken: &[BrokenPromise]) -> Users<'_> {
    let users = broken.iter().map(|it| (it.drop_id, it.user_id.as_str()));
    users.collect()
}

/// Whether the user of the finding is in the list of broken promises, which is a separate problem.
fn is_broken(finding: &Finding, drop: Option<DropId>, broken: &Users<'_>) -> bool {
    drop.zip(finding.user_id.as_deref())
        .is_some_and(|user| broken.contains(&user))
}
