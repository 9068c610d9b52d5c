//! One problem, or its end, as mails, events and lists tell it: made of a condition and its
//! findings.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::processes::LockHolder;
use firstcome_shared::process_state::Standstill;
use firstcome_shared::report::wording::{self, LONGEST, count, line};
use firstcome_shared::report::{AlertKind, Cause, FailureCause, Finding, Kind, Run, StoreRefusal};

use super::phrases::{duration, placed};
use crate::condition::{Condition, Facts, StoreProblem};
use crate::decide::Reason;
use crate::levels::findings_of;
use crate::queries::alerts::{BrokenPromise, ToldRow};

/// Maximum length of a store's words in a summary, in characters.
const QUOTED: usize = 100;

/// One problem, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// The alert. Its summary is the line of this mail, for an operator, without user IDs.
    pub alert: ToldRow,
    pub kind: AlertKind,
    pub reason: Reason,
    /// The number of cases.
    pub size: u64,
    /// What a store refuses, if that is the problem.
    pub refusal: Option<StoreRefusal>,
    /// The findings that it consists of, unless the summary says everything.
    pub findings: Vec<Finding>,
}

impl Section {
    /// Describes a condition. `run` stores its findings, `broken` are open promises, those of its
    /// drop among others.
    pub fn new(
        condition: &Condition,
        alert: &ToldRow,
        reason: Reason,
        run: Option<&Run>,
        broken: &[BrokenPromise],
    ) -> Self {
        let mut section = Self {
            size: condition.cases.number().max(1),
            ..Self::empty(alert, condition.kind, reason)
        };
        let summary = &mut section.alert.summary;
        match &condition.facts {
            Facts::Store(problems) => {
                let mut refusals = problems.iter().filter_map(|problem| problem.refusal);
                section.refusal = refusals.next();
                section.findings = problems.iter().filter_map(refused).collect();
                *summary = of_store(condition.kind, problems);
            }
            Facts::Failing { cause, error } => {
                let why = wording::plainly(Some(*cause), error);
                *summary = format!("passes fail: {why}");
            }
            Facts::Late { schedule, holder } => {
                section.findings.extend(holder.as_ref().map(holding));
                *summary = format!("a run of {} is late", schedule.setting());
            }
            Facts::Closed(coupons) => {
                section.findings = coupons
                    .iter()
                    .filter_map(|coupon| coupon.label())
                    .map(|label| Finding::report(Kind::RedisLost, label))
                    .collect();
                let closed = count(section.size, "coupon is", "coupons are");
                *summary = format!("{closed} closed");
            }
            Facts::Unsafe(settings) => {
                section.findings = settings
                    .iter()
                    .map(|setting| Finding::report(Kind::Stalled, setting.error.clone()))
                    .collect();
                section.summarize();
            }
            Facts::Standstill(standstill) => *summary = of_standstill(standstill),
            Facts::Promises => {
                let own = broken
                    .iter()
                    .filter(|it| Some(it.drop_id) == condition.drop);
                section.findings = own.map(broken_promise).collect();
                section.summarize();
            }
            Facts::Found { .. } => section.find(run),
            Facts::Repairs(_) => section.summarize(),
        }
        section
    }

    /// Takes the findings from the run that stores them.
    fn find(&mut self, run: Option<&Run>) {
        if let Some(run) = run {
            self.findings = findings_of(&self.alert.name, run);
        }
        self.findings.sort_by(|a, b| {
            (a.kind, a.slot, &a.user_id, &a.detail).cmp(&(b.kind, b.slot, &b.user_id, &b.detail))
        });
        let mut reports = run.into_iter().flat_map(|run| &run.drops);
        let report = reports.find(|report| Some(report.drop_id) == self.alert.drop_id);
        let held_back = report.and_then(|report| report.held_back);
        match held_back.filter(|_| self.kind == AlertKind::Braked) {
            Some(repairs) => {
                let users = count(repairs.users, "user", "users");
                self.alert.summary = format!("{users} would lose their slot, if confirmed");
            }
            None => self.summarize(),
        }
    }

    /// Describes an alert that is over, by what was told about it.
    pub fn over(alert: &ToldRow, kind: AlertKind) -> Self {
        // The sentence of a standstill says how many wait, which is not so any more.
        let is_standstill = matches!(kind, AlertKind::ConsumerStands | AlertKind::TheirsQueue);
        let what = if kind.is_outage() || is_standstill {
            kind.facts().noun[0]
        } else {
            alert.summary.as_str()
        };
        let end = if alert.given_up {
            " (not repaired, no longer compared)"
        } else {
            ""
        };
        let mut section = Self::empty(alert, kind, Reason::Over);
        section.alert.summary = format!("{what}{end}");
        section
    }

    /// A section that says nothing yet.
    fn empty(alert: &ToldRow, kind: AlertKind, reason: Reason) -> Self {
        Self {
            alert: ToldRow {
                summary: String::new(),
                ..alert.clone()
            },
            kind,
            reason,
            size: 1,
            refusal: None,
            findings: Vec::new(),
        }
    }

    /// Summarizes the findings: what the only one says, or how many there are.
    fn summarize(&mut self) {
        let [one, many] = self.kind.facts().noun;
        self.alert.summary = match self.kind {
            kind if kind.is_outage() => self.findings.pop().map_or_else(String::new, their_outage),
            // Give no number: one dead letter may stand for many messages.
            AlertKind::Forged => "messages without our signature on the topic".to_owned(),
            AlertKind::Left(kind) if !matches!(kind, Kind::BrokenPromise | Kind::Stalled) => {
                self.sentence_or(&format!("unrepaired {one}"), &format!("unrepaired {many}"))
            }
            _ => self.sentence_or(one, many),
        };
    }

    fn sentence_or(&mut self, one: &str, many: &str) -> String {
        match self.findings.as_slice() {
            [found] if found.is_whole() => {
                let text = detail_with_place(found, self.alert.drop_id);
                self.findings.clear();
                text
            }
            _ => count(self.size, one, many),
        }
    }

    /// What is wrong, in one sentence.
    pub(super) fn title(&self, place: Option<&str>, now: DateTime<Utc>) -> String {
        let line = self.line(place);
        let what = line.trim_end_matches('.');
        let lasts = duration(now - self.alert.began_at);
        match self.reason {
            _ if self.kind.is_outage() => format!("{what} (for {lasts})."),
            Reason::New | Reason::Over => format!("{what}."),
            Reason::Changed => format!("Changed, first seen {lasts} ago: {what}."),
            Reason::Repeat => format!("Still there after {lasts}: {what}."),
        }
    }

    /// Where and what it is, in a list.
    pub(super) fn line(&self, place: Option<&str>) -> String {
        placed(place, &self.alert.summary)
    }

    /// What was wrong, and for how long.
    pub(super) fn end(&self) -> String {
        let begun = self.alert.began_at;
        let lasted = duration(self.gone_at().unwrap_or(begun) - begun);
        format!(
            "Over after {lasted}: {}.",
            line(&self.alert.summary, LONGEST)
        )
    }

    /// When the problem was gone. The mail about its end comes later.
    pub(crate) fn gone_at(&self) -> Option<DateTime<Utc>> {
        self.alert.gone_at.or(self.alert.ended_at)
    }

    /// The id of its alert, if it is stored.
    pub(crate) fn alert_id(&self) -> Option<i64> {
        Some(self.alert.id).filter(|id| *id != 0)
    }
}

/// Quotes a store that refuses.
fn refused(problem: &StoreProblem) -> Option<Finding> {
    problem.refusal?;
    let error = line(&problem.error, LONGEST);
    Some(Finding::report(Kind::Stalled, error))
}

fn of_standstill(standstill: &Standstill) -> String {
    let unread = count(standstill.unread, "message is", "messages are");
    let partitions: Vec<String> = standstill
        .partitions
        .iter()
        .take(5)
        .map(ToString::to_string)
        .collect();
    if partitions.is_empty() {
        return format!("no consumer works: {unread} unread");
    }
    let named = partitions.join(", ");
    format!("the consumer of partition {named} does not work: {unread} unread")
}

fn of_store(kind: AlertKind, problems: &[StoreProblem]) -> String {
    let (store, summary) = match kind {
        AlertKind::RedisUnreachable => (FailureCause::Redis, "Redis does not answer"),
        AlertKind::KafkaUnreachable => (FailureCause::Kafka, "Kafka does not answer"),
        _ => (FailureCause::Mysql, "MySQL cannot be used"),
    };
    let Some(first) = problems.first() else {
        return summary.to_owned();
    };
    match first.refusal {
        Some(
            other
            @ (StoreRefusal::RedisOther | StoreRefusal::MysqlOther | StoreRefusal::KafkaOther),
        ) => format!("{}: {}", other.facts().says, line(&first.error, QUOTED)),
        Some(refusal) => refusal.facts().says.to_owned(),
        None => wording::unavailable(store, &first.error).unwrap_or_else(|| summary.to_owned()),
    }
}

fn holding(holder: &LockHolder) -> Finding {
    let since = holder.since.format("%Y-%m-%d %H:%M:%S UTC");
    let run = &holder.run_id;
    let owner = &holder.owner;
    let text = format!("a pass has been running since {since} (run {run} of process {owner})");
    Finding::report(Kind::Stalled, text)
}

fn broken_promise(promise: &BrokenPromise) -> Finding {
    Finding {
        coupon_id: Some(promise.coupon_id),
        drop_id: Some(promise.drop_id),
        slot: promise.slot,
        user_id: Some(promise.user_id.clone()),
        ..Finding::report(Kind::BrokenPromise, promise.reason.replace('_', " "))
    }
}

/// Says in plain words which store of an attached system is away.
fn their_outage(finding: Finding) -> String {
    let plain = match finding.cause {
        Cause::Away(store) => wording::unavailable(store, &finding.detail),
        _ => None,
    };
    match plain {
        // It may be a MariaDB or a PostgreSQL.
        Some(plain) => format!("their {}", plain.replacen("MySQL", "database", 1)),
        None => finding.detail,
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
    line(&text, LONGEST)
}
