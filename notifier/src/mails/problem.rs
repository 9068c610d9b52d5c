//! What a mail says about one problem: made of a condition and its findings.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::BrokenPromise;

use super::headline::{Headline, would_lose};
use crate::condition::{Condition, Facts, LateRun, StoreProblem};
use crate::decide::{Alert, Reason};
use crate::levels::findings_of;
use crate::report::{AlertKind, Cause, FailureCause, Finding, Kind, Run, StoreRefusal};
use crate::wording;

/// Maximum length of a store's words in a title, in characters.
const QUOTED: usize = 100;

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub kind: AlertKind,
    /// The name of its alert.
    pub name: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// One line for an operator, without user IDs.
    pub summary: String,
    /// The number of cases.
    pub size: u64,
    /// How many users would lose their slot, if repairs wait for a confirmation.
    pub held_back: Option<u64>,
    /// The findings that the problem consists of.
    pub findings: Vec<Finding>,
}

/// A problem to mail now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProblemNotice {
    pub problem: Problem,
    pub reason: Reason,
    /// When it began.
    pub since: DateTime<Utc>,
}

/// An alert that is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndedAlert {
    pub name: String,
    pub kind: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    /// What it was about.
    pub summary: String,
    pub began_at: DateTime<Utc>,
    pub ended_at: DateTime<Utc>,
    /// It was not repaired.
    pub given_up: bool,
}

impl From<&Alert> for EndedAlert {
    fn from(alert: &Alert) -> Self {
        Self {
            name: alert.name.clone(),
            kind: alert.kind.clone(),
            coupon_id: alert.coupon,
            drop_id: alert.drop,
            summary: String::new(),
            began_at: alert.began_at,
            // It was gone then; the end is told later.
            ended_at: alert.gone_at.or(alert.ended_at).unwrap_or(alert.began_at),
            given_up: false,
        }
    }
}

impl Problem {
    /// Describes a condition. `run` stores its findings, `broken` are the open promises of its drop
    /// among others.
    pub fn of(condition: &Condition, run: Option<&Run>, broken: &[BrokenPromise]) -> Self {
        let findings = match &condition.facts {
            Facts::Store(problems) => return Self::of_store(condition, problems),
            Facts::Failing { cause, error } => {
                let why = wording::plainly(Some(*cause), error);
                return Self::outage(condition, format!("passes fail: {why}"));
            }
            Facts::Late(late) => return Self::of_late(condition, late),
            Facts::Repairs(_) => return Self::outage(condition, "repairs"),
            Facts::Closed(coupons) => {
                let number = coupons.len() as u64;
                let closed = wording::count(number, "coupon is", "coupons are");
                return Self {
                    size: number,
                    findings: coupons.iter().copied().map(it_is_closed).collect(),
                    ..Self::outage(condition, format!("{closed} closed"))
                };
            }
            Facts::Unsafe(settings) => settings
                .iter()
                .map(|setting| Finding {
                    cause: Cause::Unsafe(setting.part),
                    ..Finding::report(Kind::Stalled, setting.error.clone())
                })
                .collect(),
            Facts::Standstill(standstill) => {
                let unread = wording::count(standstill.unread, "message is", "messages are");
                let partitions: Vec<String> = standstill
                    .partitions
                    .iter()
                    .take(5)
                    .map(ToString::to_string)
                    .collect();
                let who = if partitions.is_empty() {
                    "no consumer works".to_owned()
                } else {
                    let partitions = partitions.join(", ");
                    format!("the consumer of partition {partitions} does not work")
                };
                vec![Finding {
                    cause: Cause::ConsumerStands,
                    ..Finding::report(Kind::Stalled, format!("{who}: {unread} unread"))
                }]
            }
            Facts::Promises => broken
                .iter()
                .filter(|promise| Some(promise.drop_id) == condition.drop)
                .map(broken_promise)
                .collect(),
            Facts::Found { .. } => {
                run.map_or_else(Vec::new, |run| findings_of(&condition.name, run))
            }
        };
        let mut reports = run.into_iter().flat_map(|run| &run.drops);
        let report = reports.find(|report| Some(report.drop_id) == condition.drop);
        let held_back = report.and_then(|report| report.held_back);
        Self::found(condition, findings, held_back.map(|it| it.users))
    }

    fn found(condition: &Condition, mut findings: Vec<Finding>, held_back: Option<u64>) -> Self {
        let kind = condition.kind;
        findings.sort_by(|a, b| {
            (a.kind, a.slot, &a.user_id, &a.detail).cmp(&(b.kind, b.slot, &b.user_id, &b.detail))
        });
        let size = condition.cases.number();
        Self {
            summary: summary(kind, condition.drop, &findings, size, held_back),
            size,
            held_back,
            // The summary of an outage says everything.
            findings: if kind.is_outage() {
                Vec::new()
            } else {
                findings
            },
            ..Self::outage(condition, "")
        }
    }

    /// A problem without findings.
    fn outage(condition: &Condition, summary: impl Into<String>) -> Self {
        Self {
            kind: condition.kind,
            name: condition.name.clone(),
            coupon_id: condition.coupon,
            drop_id: condition.drop,
            summary: summary.into(),
            size: 1,
            held_back: None,
            findings: Vec::new(),
        }
    }

    fn of_store(condition: &Condition, problems: &[StoreProblem]) -> Self {
        let quoted = |problem: &StoreProblem| {
            let cause = problem.refusal.map_or(Cause::Plain, Cause::Refused);
            Finding {
                cause,
                ..Finding::report(
                    Kind::Stalled,
                    wording::line(&problem.error, wording::LONGEST),
                )
            }
        };
        let findings = problems.iter().map(quoted).collect();
        let first = problems.first();
        let (store, summary) = match condition.kind {
            AlertKind::RedisUnreachable => (FailureCause::Redis, "Redis does not answer"),
            AlertKind::KafkaUnreachable => (FailureCause::Kafka, "Kafka does not answer"),
            AlertKind::AlertsNotRecorded => {
                let summary = "MySQL answers, but alerts cannot be recorded";
                let problem = Self::outage(condition, summary);
                return Self {
                    findings,
                    ..problem
                };
            }
            _ => (FailureCause::Mysql, "MySQL cannot be used"),
        };
        if let Some((problem, refusal)) = first.and_then(|it| Some((it, it.refusal?))) {
            let says = refusal.facts().says;
            let summary = match refusal {
                StoreRefusal::RedisOther | StoreRefusal::MysqlOther | StoreRefusal::KafkaOther => {
                    format!("{says}: {}", wording::line(&problem.error, QUOTED))
                }
                _ => says.to_owned(),
            };
            return Self {
                findings,
                ..Self::outage(condition, summary)
            };
        }
        let plain = first.and_then(|problem| wording::unavailable(store, &problem.error));
        Self::outage(condition, plain.unwrap_or_else(|| summary.to_owned()))
    }

    fn of_late(condition: &Condition, late: &LateRun) -> Self {
        let setting = late.schedule.setting();
        let why = late.holder.as_ref().map(|holder| {
            let since = holder.since.format("%Y-%m-%d %H:%M:%S UTC");
            let run = &holder.run_id;
            let owner = &holder.owner;
            let text =
                format!("a pass has been running since {since} (run {run} of process {owner})");
            Finding::report(Kind::Stalled, text)
        });
        Self {
            findings: why.into_iter().collect(),
            ..Self::outage(condition, format!("a run of {setting} is late"))
        }
    }

    pub(crate) fn headline(&self) -> Headline {
        Headline::decide(self.kind, &self.findings, self.held_back)
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

fn it_is_closed(coupon: CouponId) -> Finding {
    Finding {
        coupon_id: Some(coupon),
        ..Finding::report(Kind::RedisLost, "it is closed")
    }
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

/// Summarizes a problem in one line.
fn summary(
    kind: AlertKind,
    drop: Option<DropId>,
    findings: &[Finding],
    size: u64,
    held_back: Option<u64>,
) -> String {
    let [one, many] = kind.facts().noun;
    let things = || wording::count(size, one, many);
    let Some(first) = findings.first() else {
        return things();
    };
    match Headline::decide(kind, findings, held_back) {
        Headline::Outage => their_outage(first),
        Headline::Sentence | Headline::Example => detail_with_place(first, drop),
        Headline::HeldBack(users) => would_lose(users),
        Headline::Number => things(),
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

/// Returns the number of cases that these findings stand for.
pub(crate) fn number<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> u64 {
    let findings = findings.into_iter();
    findings.map(|finding| finding.cause.number()).sum()
}
