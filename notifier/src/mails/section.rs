//! One problem, or its end, as mails, events and lists tell it: made of a condition and its findings.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::BrokenPromise;

use super::document::Block;
use super::duration;
use super::links::Links;
use super::mail::NamedDrop;
use super::reasons::{Found, Listed, reasons};
use crate::alert::Alert;
use crate::condition::{Condition, Facts, LateRun, StoreProblem};
use crate::decide::Reason;
use crate::levels::findings_of;
use crate::report::{
    AlertKind, Cause, FailureCause, Finding, Kind, KindFacts, Remedy, Run, StoreRefusal,
};
use crate::wording::{self, LONGEST, capital, count, line};

/// Maximum length of a store's words in a summary, in characters.
const QUOTED: usize = 100;

/// One problem, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    pub kind: AlertKind,
    /// The name of its alert.
    pub name: String,
    pub coupon_id: Option<CouponId>,
    pub drop_id: Option<DropId>,
    pub reason: Reason,
    pub began_at: DateTime<Utc>,
    /// When it was gone, if it is over.
    pub gone_at: Option<DateTime<Utc>>,
    /// It is over, and was not repaired.
    pub given_up: bool,
    /// One line for an operator, without user IDs.
    pub summary: String,
    /// The number of cases.
    pub size: u64,
    /// The findings that it consists of, unless the summary says everything.
    pub findings: Vec<Finding>,
}

impl Section {
    /// Describes a condition. `run` stores its findings, `broken` are open promises, those of its
    /// drop among others.
    pub fn new(
        condition: &Condition,
        alert: &Alert,
        reason: Reason,
        run: Option<&Run>,
        broken: &[BrokenPromise],
    ) -> Self {
        let mut section = Self {
            kind: condition.kind,
            name: condition.name.clone(),
            coupon_id: condition.coupon,
            drop_id: condition.drop,
            reason,
            began_at: alert.began_at,
            gone_at: None,
            given_up: false,
            summary: String::new(),
            size: condition.cases.number().max(1),
            findings: findings(condition, run, broken),
        };
        let mut reports = run.into_iter().flat_map(|run| &run.drops);
        let report = reports.find(|report| Some(report.drop_id) == condition.drop);
        let held_back = report.and_then(|report| report.held_back);
        section.summary = match &condition.facts {
            Facts::Store(problems) => of_store(condition.kind, problems),
            Facts::Failing { cause, error } => {
                let why = wording::plainly(Some(*cause), error);
                format!("passes fail: {why}")
            }
            Facts::Late(late) => format!("a run of {} is late", late.schedule.setting()),
            Facts::Closed(_) => {
                let closed = count(section.size, "coupon is", "coupons are");
                format!("{closed} closed")
            }
            Facts::Unsafe(_)
            | Facts::Standstill(_)
            | Facts::Found { .. }
            | Facts::Promises
            | Facts::Repairs(_) => match held_back {
                Some(repairs) if condition.kind == AlertKind::Braked => {
                    let users = count(repairs.users, "user", "users");
                    format!("{users} would lose their slot, if confirmed")
                }
                _ => section.summarize(),
            },
        };
        section
    }

    /// Describes an alert that is over, by what was told about it.
    pub fn over(alert: &Alert, kind: AlertKind, summary: &str, given_up: bool) -> Self {
        // The sentence of a standstill says how many wait, which is not so any more.
        let is_standstill = matches!(kind, AlertKind::ConsumerStands | AlertKind::TheirsQueue);
        let what = if kind.is_outage() || is_standstill {
            kind.facts().noun[0]
        } else {
            summary
        };
        let end = if given_up {
            " (not repaired, no longer compared)"
        } else {
            ""
        };
        Self {
            kind,
            name: alert.name.clone(),
            coupon_id: alert.coupon,
            drop_id: alert.drop,
            reason: Reason::Over,
            began_at: alert.began_at,
            // It was gone then; the end is told later.
            gone_at: alert.gone_at.or(alert.ended_at),
            given_up,
            summary: format!("{what}{end}"),
            size: 1,
            findings: Vec::new(),
        }
    }

    /// Summarizes the findings: what the only one says, or how many there are.
    fn summarize(&mut self) -> String {
        let [one, many] = self.kind.facts().noun;
        if self.kind.is_outage() {
            return self.findings.pop().map_or_else(String::new, their_outage);
        }
        match self.kind {
            // Give no number: one dead letter may stand for many messages.
            AlertKind::Forged => "messages without our signature on the topic".to_owned(),
            AlertKind::Left(Kind::BrokenPromise | Kind::Stalled) => self.sentence_or(one, many),
            AlertKind::Left(_) => {
                self.sentence_or(&format!("unrepaired {one}"), &format!("unrepaired {many}"))
            }
            _ => self.sentence_or(one, many),
        }
    }

    fn sentence_or(&mut self, one: &str, many: &str) -> String {
        match self.findings.as_slice() {
            [found] if found.is_whole() => {
                let text = detail_with_place(found, self.drop_id);
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
        let lasts = duration(now - self.began_at);
        match self.reason {
            _ if self.kind.is_outage() => format!("{what} (for {lasts})."),
            Reason::New | Reason::Over => format!("{what}."),
            Reason::Changed => format!("Changed, first seen {lasts} ago: {what}."),
            Reason::Repeat => format!("Still there after {lasts}: {what}."),
        }
    }

    /// Where and what it is, in a list.
    pub(super) fn line(&self, place: Option<&str>) -> String {
        let summary = line(&self.summary, LONGEST);
        match place {
            Some(place) => format!("{place}: {summary}"),
            None => capital(&summary),
        }
    }

    /// What was wrong, and for how long.
    pub(super) fn end(&self) -> String {
        let lasted = self.gone_at.unwrap_or(self.began_at) - self.began_at;
        let lasted = duration(lasted);
        format!("Over after {lasted}: {}.", line(&self.summary, LONGEST))
    }

    /// Returns the refusal of a store, if the problem is one.
    fn refusal(&self) -> Option<StoreRefusal> {
        let mut causes = self.findings.iter().map(|finding| &finding.cause);
        causes.find_map(|cause| match cause {
            Cause::Refused(refusal) => Some(*refusal),
            _ => None,
        })
    }
}

/// The findings of a condition, or what stands for them.
fn findings(condition: &Condition, run: Option<&Run>, broken: &[BrokenPromise]) -> Vec<Finding> {
    let stalled = |detail: String, cause: Cause| Finding {
        cause,
        ..Finding::report(Kind::Stalled, detail)
    };
    let mut findings = match &condition.facts {
        Facts::Store(problems) => {
            let refused = |problem: &StoreProblem| {
                let is_told = condition.kind == AlertKind::AlertsNotRecorded;
                let cause = problem
                    .refusal
                    .map(Cause::Refused)
                    .or(is_told.then_some(Cause::Plain))?;
                Some(stalled(line(&problem.error, LONGEST), cause))
            };
            return problems.iter().filter_map(refused).collect();
        }
        Facts::Failing { .. } | Facts::Repairs(_) => return Vec::new(),
        Facts::Late(late) => holder(late).into_iter().collect(),
        Facts::Closed(coupons) => coupons.iter().copied().map(it_is_closed).collect(),
        Facts::Unsafe(settings) => settings
            .iter()
            .map(|setting| stalled(setting.error.clone(), Cause::Unsafe(setting.part)))
            .collect(),
        Facts::Standstill(standstill) => {
            let unread = count(standstill.unread, "message is", "messages are");
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
            vec![stalled(
                format!("{who}: {unread} unread"),
                Cause::ConsumerStands,
            )]
        }
        Facts::Promises => broken
            .iter()
            .filter(|promise| Some(promise.drop_id) == condition.drop)
            .map(broken_promise)
            .collect(),
        Facts::Found { .. } => run.map_or_else(Vec::new, |run| findings_of(&condition.name, run)),
    };
    findings.sort_by(|a, b| {
        (a.kind, a.slot, &a.user_id, &a.detail).cmp(&(b.kind, b.slot, &b.user_id, &b.detail))
    });
    findings
}

fn of_store(kind: AlertKind, problems: &[StoreProblem]) -> String {
    let (store, summary) = match kind {
        AlertKind::RedisUnreachable => (FailureCause::Redis, "Redis does not answer"),
        AlertKind::KafkaUnreachable => (FailureCause::Kafka, "Kafka does not answer"),
        AlertKind::AlertsNotRecorded => {
            return "MySQL answers, but alerts cannot be recorded".to_owned();
        }
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

fn holder(late: &LateRun) -> Option<Finding> {
    let holder = late.holder.as_ref()?;
    let since = holder.since.format("%Y-%m-%d %H:%M:%S UTC");
    let run = &holder.run_id;
    let owner = &holder.owner;
    let text = format!("a pass has been running since {since} (run {run} of process {owner})");
    Some(Finding::report(Kind::Stalled, text))
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

/// Says in plain words which store of an attached system is away.
fn their_outage(finding: Finding) -> String {
    let plain = match finding.cause {
        Cause::Away(store) => wording::unavailable(store, &finding.detail),
        _ => None,
    };
    match plain {
        Some(plain) => format!("their {plain}"),
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

/// A section, and what its mail knows of it.
pub(super) struct Placed<'a> {
    pub(super) section: &'a Section,
    pub(super) links: &'a Links,
    pub(super) facts: KindFacts,
    pub(super) drop: Option<&'a NamedDrop<'a>>,
    pub(super) alert: Option<i64>,
    /// The pass that found it.
    pub(super) run: Option<&'a Run>,
}

impl Placed<'_> {
    /// Describes the problem without its title.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let links = self.links;
        let mut blocks = Vec::new();
        blocks.extend(self.drop.map(|drop| Block::Paragraph(drop.place())));
        match self.section.refusal().map(StoreRefusal::facts) {
            Some(refusal) => {
                let [command, what] = refusal.command;
                blocks.push(Block::Todo(refusal.to_do.to_owned()));
                blocks.push(Block::command(what, command));
            }
            None => blocks.push(Block::Todo(self.facts.to_do.to_owned())),
        }
        blocks.extend(self.remedy());
        if let Some(id) = self.alert {
            blocks.extend(links.screen(&Links::alert(id), "Acknowledge it"));
            blocks.extend(links.acknowledge(id));
        }
        if let Some(why) = Block::list(self.why()) {
            blocks.push(Block::Paragraph("Why:".to_owned()));
            blocks.push(why);
        }
        blocks.push(links.section(self.section.kind.word()));
        blocks
    }

    /// The reasons, unless the title says everything.
    fn why(&self) -> Vec<String> {
        let findings: Vec<Found<'_>> = self
            .section
            .findings
            .iter()
            .map(|it| (self.section.drop_id, it))
            .collect();
        let listed = match self.links.campaign(self.section.coupon_id) {
            Some(campaign) if !campaign.is_repaired => Listed::Observed,
            Some(_) | None => Listed::Open,
        };
        reasons(&findings, listed)
    }

    /// Links to what an operator can do, and commands for it.
    fn remedy(&self) -> Vec<Block> {
        let links = self.links;
        let mut blocks = Vec::new();
        match self.facts.remedy {
            Remedy::Look => {
                blocks.extend(links.screen("/", "Closed coupons and unavailable stores"));
                if self.drop.is_some() {
                    blocks.extend(self.screen("See this drop"));
                }
            }
            Remedy::LookAtRuns => blocks.extend(last_runs(links)),
            Remedy::Pass => {
                blocks.extend(self.screen("This drop"));
                let is_deep = self.section.kind == AlertKind::Left(Kind::BadUse);
                let options = if is_deep { " --deep" } else { "" };
                blocks.push(Block::command("Try again now", self.once(options)));
            }
            Remedy::Confirm => {
                let label = "Pause the coupon, or list and confirm the repairs";
                blocks.extend(self.screen(label));
                if let Some(coupon) = self.section.coupon_id {
                    let what = "Pause the coupon: nobody can claim until it is resumed";
                    blocks.extend(links.change_coupon(coupon, r#"{"paused":true}"#, what));
                }
                let list = "List the repairs, with their fingerprint";
                blocks.push(Block::command(list, self.once(" --dry-run")));
                let confirm = "Confirm exactly these";
                let options = " --confirm FINGERPRINT";
                blocks.push(Block::command(confirm, self.once(options)));
            }
            Remedy::Raise => blocks.extend(self.raise()),
            Remedy::DeadLetters => blocks.extend(self.dead_letters()),
            Remedy::Attached => blocks.extend(self.attached()),
        }
        blocks
    }

    /// Links to the drop or, without one, to the screen of passes.
    fn screen(&self, label: &str) -> Option<Block> {
        let links = self.links;
        match self.section.coupon_id.zip(self.section.drop_id) {
            Some((coupon, drop)) => links.screen(&format!("/coupons/{coupon}/drops/{drop}"), label),
            None => links.screen("/runs", "Run a pass over all live drops"),
        }
    }

    /// The command of a pass over its coupon, or over all.
    fn once(&self, options: &str) -> String {
        match self.section.coupon_id {
            Some(coupon) => format!("firstcome-reconciler once --coupon {coupon}{options}"),
            None => format!("firstcome-reconciler once{options}"),
        }
    }

    fn dead_letters(&self) -> Vec<Block> {
        let links = self.links;
        if self.section.kind == AlertKind::Forged {
            let forged = "/dead-letters?reason=forged";
            return Vec::from_iter(links.screen(forged, "See and discard them"));
        }
        let path = match self.drop {
            Some(drop) => format!("/dead-letters?drop={}", drop.id),
            None => "/dead-letters".to_owned(),
        };
        let mut blocks = Vec::from_iter(links.screen(&path, "See them, with their reasons"));
        blocks.extend(self.screen("Run a pass over this drop"));
        blocks.push(Block::command("Once they are corrected", self.once("")));
        blocks
    }

    fn raise(&self) -> Vec<Block> {
        let links = self.links;
        let Some(coupon) = self.section.coupon_id else {
            return Vec::new();
        };
        let report = self.drop.and_then(|drop| drop.report);
        let may_raise = report.is_none_or(|report| !report.sealed);
        let quantity = format!("/coupons/{coupon}#quantity");
        let raise = links.screen(&quantity, "Raise the quantity");
        let mut blocks = Vec::from_iter(raise.filter(|_| may_raise));
        if let Some(run) = self.run {
            blocks.extend(links.screen(&format!("/runs/{}", run.run_id), "Who they are"));
        }
        if let Some(report) = report.filter(|_| may_raise) {
            let from = u64::from(report.quantity);
            // With this quantity each user gets a slot.
            let to = from + self.section.size;
            let what = format!(
                "While the drop is open, give each of them a slot (quantity {from} → {to})"
            );
            blocks.extend(links.raise(coupon, to, &what));
            blocks.push(Block::command("Then", self.once("")));
        }
        blocks
    }

    fn attached(&self) -> Vec<Block> {
        let links = self.links;
        let Some(file) = &links.file else {
            return Vec::new();
        };
        let once = format!("firstcome-reconciler attach {file} --once");
        let list = format!("{once} --dry-run --full-ids");
        let what = "List the differences, with the ids of users";
        let mut blocks = vec![Block::command(what, list)];
        if let Some(drop) = self.drop
            && self.section.kind == AlertKind::Braked
        {
            let path = self.run.map(|run| format!("/runs/{}", run.run_id));
            let plan = path.and_then(|path| links.screen(&path, "See and confirm the repairs"));
            blocks.splice(0..0, plan);
            // The name of a daily drop says its day, too.
            let name = links
                .campaign(self.section.coupon_id)
                .map_or(&drop.name, |campaign| &campaign.name);
            let campaign = wording::shell_word(name);
            let confirm = format!("{once} --campaign {campaign} --confirm RUN");
            let what = "Confirm what is held back; RUN is the run that the list names at its end";
            blocks.push(Block::command(what, confirm));
        }
        blocks
    }
}

/// Links to the last runs, or gives a command that reads them.
pub(super) fn last_runs(links: &Links) -> impl Iterator<Item = Block> {
    let what = "The last runs";
    let runs = [
        links.screen("/runs", what),
        links.read("/v1/runs?limit=20", what),
    ];
    runs.into_iter().flatten()
}

/// Links to the firing alerts, or gives a command that reads them.
pub(super) fn open_problems(links: &Links) -> impl Iterator<Item = Block> {
    let what = "All open problems";
    let alerts = [
        links.screen("/alerts", what),
        links.read("/v1/alerts?status=firing", what),
    ];
    alerts.into_iter().flatten()
}
