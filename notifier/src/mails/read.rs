//! Reads what a mail about a verdict says: the runs that store its findings, what was repaired, and
//! what the tables say about its drops.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::{self, RepairsRow, ToldRow};
use firstcome_shared::mysql::{Conn, stored_run};
use firstcome_shared::subject::Subject;

use super::links::Links;
use super::mail::AlertMail;
use super::section::Section;
use crate::alert::{Alert, Alerts};
use crate::condition::{Condition, Facts};
use crate::decide::{Reason, Verdict};
use crate::report::{AlertKind, Kind, Run};

/// Maximum number of runs that a mail quotes.
const RUNS: usize = 50;

/// Findings read of a run, of which a mail lists far fewer.
const FINDINGS: u32 = 20_000;

/// Maximum number of drops that a mail names.
const DROPS: usize = 100;

/// Maximum number of threads that one mail refers to.
const THREADS: usize = 10;

/// A verdict, and what it was decided from.
#[derive(Clone, Copy)]
pub(crate) struct Decided<'a> {
    pub(crate) seen: &'a [Condition],
    pub(crate) known: &'a Alerts,
    pub(crate) verdict: &'a Verdict,
    /// The rows of open alerts, by name.
    pub(crate) rows: &'a HashMap<&'a str, &'a ToldRow>,
    /// The names of levels that no look can judge any more.
    pub(crate) given_up: &'a HashSet<String>,
    pub(crate) now: DateTime<Utc>,
}

/// A mail, and the summaries of what is told or begins to be listed.
pub(crate) struct ReadMail<'a> {
    pub(crate) mail: AlertMail<'a>,
    /// By name of the alert.
    pub(crate) summaries: HashMap<String, String>,
}

impl<'a> ReadMail<'a> {
    pub(crate) async fn read(
        conn: &mut Conn,
        links: &'a Links,
        decided: Decided<'_>,
    ) -> QueryResult<Self> {
        let mut mail = AlertMail::empty(links, decided.now);
        let verdict = decided.verdict;
        let wanted = decided.wanted();
        mail.read_repairs(conn, verdict).await?;
        let last_repair = mail.repairs.last().map(|row| row.run_id.clone());
        let mut runs: Vec<Run> = Vec::new();
        let ids: BTreeSet<&str> = wanted
            .iter()
            .filter_map(|it| it.condition.run_id())
            .take(RUNS)
            .chain(last_repair.as_deref())
            .collect();
        for id in ids {
            let page = stored_run::read_page(conn, id, FINDINGS, 0).await?;
            runs.extend(page.map(|page| page.run));
        }
        let promised: Vec<i64> = wanted
            .iter()
            .filter(|it| it.condition.facts == Facts::Promises)
            .filter_map(|it| Some(it.condition.drop?.0))
            .collect();
        let broken = match promised.as_slice() {
            [] => Vec::new(),
            drops => alerts::broken_promises(conn, drops).await?,
        };
        let mut summaries = HashMap::new();
        for wanted in wanted {
            let condition = wanted.condition;
            let id = condition.run_id();
            let run = runs.iter().find(|run| Some(run.run_id.as_str()) == id);
            let section = Section::new(condition, wanted.alert, wanted.reason, run, &broken);
            summaries.insert(section.name.clone(), section.summary.clone());
            if wanted.is_told && section.kind != AlertKind::Repaired {
                mail.problems.push(section);
            }
        }
        mail.problems
            .sort_by_key(|section| section.kind.facts().severity);
        for alert in decided.ended() {
            mail.over.extend(decided.over(alert));
            let is_promise = alert.kind == Kind::BrokenPromise.as_str();
            if let Some(drop) = alert.drop.filter(|_| is_promise) {
                let fate = alerts::mended(conn, drop, alert.began_at).await?;
                mail.fates.insert(drop, fate);
            }
        }
        mail.explained = decided.explained();
        mail.closed = decided.closed();
        let left: HashSet<DropId> = decided.seen.iter().filter_map(|it| it.drop).collect();
        mail.reports = alerts::drop_reports(conn, mail.drop_ids(), &left).await?;
        let first_told = mail.problems.first().map(|section| section.name.as_str());
        let first = decided
            .seen
            .iter()
            .find(|it| Some(it.name.as_str()) == first_told);
        let id = last_repair.as_deref().or_else(|| first?.run_id());
        mail.run = joined(runs, id);
        Ok(Self { mail, summaries })
    }

    /// The mail without MySQL.
    pub(crate) fn local(links: &'a Links, decided: Decided<'_>) -> AlertMail<'a> {
        let mut mail = AlertMail::empty(links, decided.now);
        for wanted in decided.wanted().into_iter().filter(|it| it.is_told) {
            let section = Section::new(wanted.condition, wanted.alert, wanted.reason, None, &[]);
            mail.problems.push(section);
        }
        mail.problems
            .sort_by_key(|section| section.kind.facts().severity);
        mail.over = decided
            .ended()
            .filter_map(|alert| decided.over(alert))
            .collect();
        mail
    }
}

/// A condition that is told, or begins to be listed.
struct Wanted<'a> {
    condition: &'a Condition,
    alert: &'a Alert,
    reason: Reason,
    is_told: bool,
}

impl<'a> Decided<'a> {
    fn wanted(self) -> Vec<Wanted<'a>> {
        let mut reasons = HashMap::new();
        for notice in &self.verdict.notices {
            reasons.insert(notice.alert.name.as_str(), notice.reason);
        }
        let mut wanted = Vec::new();
        for condition in self.seen {
            let name = condition.name.as_str();
            let reason = reasons.get(name).copied();
            let alert = self.changed(name);
            if let Some(alert) = alert.filter(|alert| reason.is_some() || alert.id.is_none()) {
                wanted.push(Wanted {
                    condition,
                    alert,
                    reason: reason.unwrap_or(Reason::New),
                    is_told: reason.is_some(),
                });
            }
        }
        wanted
    }

    /// Returns the alert of this name, if the verdict changes it.
    fn changed(self, name: &str) -> Option<&'a Alert> {
        let mut alerts = self.verdict.alerts.iter();
        alerts.find(|alert| alert.name == name)
    }

    /// Returns the alerts whose end is told.
    fn ended(self) -> impl Iterator<Item = &'a Alert> {
        let notices = self.verdict.notices.iter();
        notices
            .filter(|notice| notice.reason == Reason::Over)
            .map(|notice| &notice.alert)
    }

    fn over(self, alert: &Alert) -> Option<Section> {
        let kind = AlertKind::from_word(&alert.kind)?;
        let name = alert.name.as_str();
        let summary = self.rows.get(name).map_or("", |row| row.summary.as_str());
        let given_up = self.given_up.contains(name);
        Some(Section::over(alert, kind, summary, given_up))
    }

    /// Returns what else is wrong because of something that is told now, a line for each.
    fn explained(self) -> Vec<String> {
        let told = self.verdict.notices.iter();
        let causes: HashSet<AlertKind> = told
            .filter_map(|notice| notice.condition.as_ref())
            .map(|condition| condition.kind)
            .collect();
        let mut lines = Vec::new();
        for condition in self.seen {
            let alert = self
                .changed(&condition.name)
                .or_else(|| self.known.open(&condition.name));
            let is_explained = |alert: &&Alert| {
                let cause = alert.explained_by;
                cause.is_some_and(|cause| causes.contains(&cause))
            };
            if let Some(alert) = alert.filter(is_explained) {
                let section = Section::new(condition, alert, Reason::New, None, &[]);
                lines.push(section.line(None));
            }
        }
        lines.dedup();
        lines
    }

    fn closed(self) -> BTreeSet<CouponId> {
        let closed = self
            .seen
            .iter()
            .filter_map(|condition| match &condition.facts {
                Facts::Closed(coupons) => Some(coupons),
                _ => None,
            });
        closed.flatten().copied().collect()
    }
}

impl AlertMail<'_> {
    /// Reads what is known of the repairs that are told.
    async fn read_repairs(&mut self, conn: &mut Conn, verdict: &Verdict) -> QueryResult<()> {
        let told = verdict.notices.iter();
        let rows = told.filter_map(|notice| match &notice.condition.as_ref()?.facts {
            Facts::Repairs(rows) => Some(rows),
            _ => None,
        });
        self.repairs = rows.flatten().cloned().collect();
        self.older_since = alerts::reopened_since(conn, &behind(&self.repairs)).await?;
        let drops: Vec<i64> = self.repairs.iter().map(|row| row.drop_id).collect();
        if self.links.subject() == Subject::Drop && drops.iter().any(|id| *id != 0) {
            self.has_waiting_list = alerts::has_waiting_list(conn, &drops).await?;
        }
        let runs: BTreeSet<&str> = self.repairs.iter().map(|it| it.run_id.as_str()).collect();
        self.is_confirmed = alerts::are_confirmed(conn, &runs).await?;
        Ok(())
    }

    /// The Message-IDs that the mail refers to: one for each alert that it is about. No mail has
    /// such an ID itself, but mail programs group mails that refer to the same ID.
    pub(crate) fn threads(&self, domain: &str) -> Vec<String> {
        let told = self.problems.iter().chain(&self.over).take(THREADS);
        told.map(|section| {
            let since = section.began_at.timestamp_millis();
            format!("alert.{}.{since}@{domain}", section.name)
        })
        .collect()
    }

    fn drop_ids(&self) -> Vec<DropId> {
        let drops = self.drops();
        drops.iter().map(|drop| drop.id).take(DROPS).collect()
    }
}

/// Returns the repairs that show that Redis was behind the rows. A restart alone writes nothing to
/// Redis.
fn behind(repairs: &[RepairsRow]) -> Vec<RepairsRow> {
    let of_redis = |kind: Kind| match kind {
        Kind::MissingAdmission
        | Kind::SlotConflict
        | Kind::OverAdmitted
        | Kind::CountMismatch
        | Kind::RedisLost => true,
        Kind::Unissued
        | Kind::FailedClaim
        | Kind::SettingsMismatch
        | Kind::Unfilled
        | Kind::BrokenPromise
        | Kind::Stalled
        | Kind::OverIssued
        | Kind::DuplicateRow
        | Kind::BadUse
        | Kind::MissingDrop
        | Kind::Check
        | Kind::NotReady => false,
    };
    let is_behind = |row: &&RepairsRow| row.kind.parse().is_ok_and(of_redis);
    repairs.iter().filter(is_behind).cloned().collect()
}

/// One run with the reports of all: the one with this id, with the drops of the others.
fn joined(mut runs: Vec<Run>, id: Option<&str>) -> Option<Run> {
    let is_it = |run: &Run| Some(run.run_id.as_str()) == id;
    let at = runs.iter().position(is_it)?;
    let mut first = runs.swap_remove(at);
    let known: HashSet<DropId> = first.drops.iter().map(|report| report.drop_id).collect();
    let others = runs.into_iter().flat_map(|run| run.drops);
    for mut report in others.filter(|report| !known.contains(&report.drop_id)) {
        // These are not findings of this run.
        report.findings.clear();
        first.drops.push(report);
    }
    Some(first)
}

impl Condition {
    /// The run that stores its findings.
    fn run_id(&self) -> Option<&str> {
        match &self.facts {
            Facts::Found { run_id } => Some(run_id),
            Facts::Store(_)
            | Facts::Closed(_)
            | Facts::Failing { .. }
            | Facts::Late(_)
            | Facts::Unsafe(_)
            | Facts::Standstill(_)
            | Facts::Promises
            | Facts::Repairs(_) => None,
        }
    }
}
