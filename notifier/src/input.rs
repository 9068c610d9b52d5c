//! The input of a mail about a verdict: what the conditions are about, read from the run that stores
//! their findings.

use std::collections::{BTreeSet, HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::alerts::{self, BrokenPromise, RepairsRow, ToldRow};
use firstcome_shared::mysql::{Conn, stored_run};
use firstcome_shared::subject::Subject;

use crate::condition::{Condition, Facts};
use crate::decide::{Alerts, Notice, Reason, Verdict};
use crate::mails::{AlertMail, EndedAlert, Links, Problem, ProblemNotice};
use crate::report::{AlertKind, DropReport, Kind, Run};
use crate::wording::capital;

/// Maximum number of runs that a mail quotes.
const RUNS: usize = 50;

/// Findings read of a run, of which a mail lists far fewer.
const FINDINGS: u32 = 20_000;

/// Maximum number of drops that a mail names.
const DROPS: usize = 100;

/// Maximum number of threads that one mail refers to.
const THREADS: usize = 10;

/// What a mail says, and its parts that `AlertMail` refers to.
pub(crate) struct MailInput<'a> {
    links: &'a Links,
    now: DateTime<Utc>,
    run: Option<Run>,
    /// The problems that are told, or begin to be listed, by name.
    problems: HashMap<String, Problem>,
    notices: Vec<ProblemNotice>,
    ended: Vec<EndedAlert>,
    repairs: Vec<RepairsRow>,
    broken: Vec<BrokenPromise>,
    older_since: Option<DateTime<Utc>>,
    explained: Vec<String>,
    closed: BTreeSet<CouponId>,
    has_waiting_list: bool,
    is_confirmed: bool,
    /// What the tables say about the drops.
    reports: Vec<DropReport>,
    fates: HashMap<DropId, [i64; 2]>,
    /// Names and begins of the alerts that are told.
    told: Vec<(String, DateTime<Utc>)>,
}

impl<'a> MailInput<'a> {
    /// Reads what is needed for the alerts of a verdict that are new or told.
    pub(crate) async fn read(
        conn: &mut Conn,
        links: &'a Links,
        seen: &[Condition],
        known: &Alerts,
        verdict: &Verdict,
        now: DateTime<Utc>,
    ) -> QueryResult<Self> {
        let mut input = Self::empty(links, now);
        let wanted = wanted(verdict);
        let wanted: Vec<&Condition> = seen
            .iter()
            .filter(|it| wanted.contains(it.name.as_str()))
            .collect();
        let repairs = verdict.notices.iter().find_map(untold).unwrap_or_default();
        let mut runs: Vec<Run> = Vec::new();
        let last_repair = repairs.last().map(|row| row.run_id.clone());
        let named = wanted.iter().filter_map(|condition| condition.run_id());
        let ids: BTreeSet<&str> = named.take(RUNS).chain(last_repair.as_deref()).collect();
        for id in &ids {
            let page = stored_run::read_page(conn, id, FINDINGS, 0).await?;
            runs.extend(page.map(|page| page.run));
        }
        let drops: Vec<i64> = wanted
            .iter()
            .filter(|condition| condition.facts == Facts::Promises)
            .filter_map(|condition| Some(condition.drop?.0))
            .collect();
        if !drops.is_empty() {
            input.broken = alerts::broken_promises(conn, &drops).await?;
        }
        input.repairs = repairs;
        input.older_since = alerts::reopened_since(conn, &behind(&input.repairs)).await?;
        let of: Vec<i64> = input.repairs.iter().map(|row| row.drop_id).collect();
        if links.subject() == Subject::Drop && of.iter().any(|id| *id != 0) {
            input.has_waiting_list = alerts::has_waiting_list(conn, &of).await?;
        }
        let runs_of: BTreeSet<&str> = (input.repairs.iter())
            .map(|it| it.run_id.as_str())
            .collect();
        input.is_confirmed = alerts::are_confirmed(conn, &runs_of).await?;
        input.explained = explained(seen, known, verdict);
        for condition in seen {
            if let Facts::Closed(coupons) = &condition.facts {
                input.closed.extend(coupons);
            }
        }
        for notice in verdict
            .notices
            .iter()
            .filter(|it| it.reason == Reason::Over)
        {
            let is_promise = notice.alert.kind == Kind::BrokenPromise.as_str();
            if let Some(drop) = notice.alert.drop.filter(|_| is_promise) {
                let fate = alerts::mended(conn, drop, notice.alert.began_at).await?;
                input.fates.insert(drop, fate);
            }
        }
        for condition in wanted {
            let run = condition
                .run_id()
                .and_then(|id| runs.iter().find(|run| run.run_id == id));
            let problem = Problem::of(condition, run, &input.broken);
            input.problems.insert(condition.name.clone(), problem);
        }
        let concerned = drops_of(verdict, &input.repairs);
        let reports = alerts::drop_reports(conn, concerned, &left(seen)).await?;
        input.run = joined(runs, last_repair.as_deref().or_else(|| first_run(verdict)));
        input.reports = reports;
        input.take(verdict);
        Ok(input)
    }

    /// The input without MySQL.
    pub(crate) fn local(
        links: &'a Links,
        seen: &[Condition],
        verdict: &Verdict,
        now: DateTime<Utc>,
    ) -> Self {
        let mut input = Self::empty(links, now);
        for condition in seen {
            let problem = Problem::of(condition, None, &[]);
            input.problems.insert(condition.name.clone(), problem);
        }
        input.take(verdict);
        input
    }

    fn empty(links: &'a Links, now: DateTime<Utc>) -> Self {
        Self {
            links,
            now,
            run: None,
            problems: HashMap::new(),
            notices: Vec::new(),
            ended: Vec::new(),
            repairs: Vec::new(),
            broken: Vec::new(),
            older_since: None,
            explained: Vec::new(),
            closed: BTreeSet::new(),
            has_waiting_list: false,
            is_confirmed: false,
            reports: Vec::new(),
            fates: HashMap::new(),
            told: Vec::new(),
        }
    }

    fn take(&mut self, verdict: &Verdict) {
        for notice in &verdict.notices {
            let alert = &notice.alert;
            if alert.kind != AlertKind::Repaired.word() {
                self.told.push((alert.name.clone(), alert.began_at));
            }
            if notice.reason == Reason::Over {
                self.ended.push(EndedAlert::from(alert));
            } else if alert.kind != AlertKind::Repaired.word()
                && let Some(problem) = self.problems.get(&alert.name)
            {
                self.notices.push(ProblemNotice {
                    problem: problem.clone(),
                    reason: notice.reason,
                    since: alert.began_at,
                });
            }
        }
        self.notices
            .sort_by_key(|notice| notice.problem.kind.facts().severity);
    }

    /// The line about an alert in lists, if it is told or new.
    pub(crate) fn summary(&self, name: &str) -> Option<String> {
        self.problems
            .get(name)
            .map(|problem| problem.summary.clone())
    }

    /// Notes what the alerts that are over were about, from their rows.
    pub(crate) fn say_what_ended(&mut self, rows: &[ToldRow]) {
        for ended in &mut self.ended {
            if let Some(row) = rows.iter().find(|row| row.name == ended.name) {
                ended.summary.clone_from(&row.summary);
                ended.given_up = row.given_up;
            }
        }
    }

    pub(crate) fn mail(&self, ids: &HashMap<String, i64>) -> AlertMail<'_> {
        AlertMail {
            run: self.run.as_ref(),
            problems: &self.notices,
            resolved: &self.ended,
            repairs: &self.repairs,
            broken: &self.broken,
            ids: ids.clone(),
            older_since: self.older_since,
            explained: self.explained.clone(),
            closed: self.closed.clone(),
            has_waiting_list: self.has_waiting_list,
            is_confirmed: self.is_confirmed,
            reports: &self.reports,
            fates: self.fates.clone(),
            ..AlertMail::empty(self.links, self.now)
        }
    }

    /// The Message-IDs that the mail refers to: one for each alert that it is about.
    pub(crate) fn threads(&self, domain: &str) -> Vec<String> {
        let told = self.told.iter().take(THREADS);
        told.map(|(name, since)| thread(name, *since, domain))
            .collect()
    }
}

/// The drops that a mail about a verdict names.
fn drops_of(verdict: &Verdict, repairs: &[RepairsRow]) -> Vec<DropId> {
    let told = verdict
        .notices
        .iter()
        .filter_map(|notice| notice.alert.drop);
    let repaired = repairs.iter().map(|row| DropId(row.drop_id));
    let all: BTreeSet<DropId> = told.chain(repaired).collect();
    all.into_iter().take(DROPS).collect()
}

/// The drops about which something is left.
fn left(seen: &[Condition]) -> HashSet<DropId> {
    seen.iter().filter_map(|condition| condition.drop).collect()
}

/// Returns what else is wrong because of something that is told now, a line for each.
fn explained(seen: &[Condition], known: &Alerts, verdict: &Verdict) -> Vec<String> {
    let told = (verdict.notices.iter()).filter(|it| it.reason != Reason::Over);
    let causes: HashSet<AlertKind> = told
        .filter_map(|notice| notice.condition.as_ref())
        .map(|condition| condition.kind)
        .collect();
    let is_explained = |condition: &&Condition| {
        let changed = (verdict.alerts.iter()).find(|alert| alert.name == condition.name);
        let alert = changed.or_else(|| known.open(&condition.name));
        let cause = alert.and_then(|alert| alert.explained_by);
        cause.is_some_and(|cause| causes.contains(&cause))
    };
    let mut lines: Vec<String> = seen
        .iter()
        .filter(is_explained)
        .map(|condition| capital(&Problem::of(condition, None, &[]).summary))
        .collect();
    lines.dedup();
    lines
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

/// The names of the alerts that are told, or that begin to be listed.
fn wanted(verdict: &Verdict) -> HashSet<&str> {
    let begun = verdict.alerts.iter().filter(|alert| alert.id.is_none());
    let told = verdict.notices.iter().map(|notice| &notice.alert);
    begun.chain(told).map(|alert| alert.name.as_str()).collect()
}

fn untold(notice: &Notice) -> Option<Vec<RepairsRow>> {
    match &notice.condition.as_ref()?.facts {
        Facts::Repairs(rows) => Some(rows.clone()),
        _ => None,
    }
}

fn first_run(verdict: &Verdict) -> Option<&str> {
    let mut told = verdict
        .notices
        .iter()
        .filter_map(|notice| notice.condition.as_ref());
    told.find_map(Condition::run_id)
}

/// One run with the reports of all: the one with this id, with the drops of the others.
fn joined(runs: Vec<Run>, id: Option<&str>) -> Option<Run> {
    let mut runs = runs;
    let at = runs
        .iter()
        .position(|run| Some(run.run_id.as_str()) == id)?;
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

/// The Message-ID that every mail about one alert refers to. No mail has this ID itself, but mail
/// programs group mails that refer to the same ID.
fn thread(name: &str, since: DateTime<Utc>, domain: &str) -> String {
    format!("alert.{name}.{}@{domain}", since.timestamp_millis())
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
