//! Reads what a mail says: the runs that store findings, what was repaired, and what the tables say
//! about drops.

use std::collections::{BTreeSet, HashSet};

use diesel::QueryResult;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::{Conn, stored_run};
use firstcome_shared::report::{AlertKind, Kind, Run};
use firstcome_shared::subject::Subject;

use super::mail::AlertMail;
use super::section::Section;
use crate::alert::Alerts;
use crate::condition::{Condition, Facts};
use crate::decide::{Decision, Reason};
use crate::queries::alerts::{self, BrokenPromise, RepairsRow};

/// Maximum number of runs that a mail quotes.
const RUNS: usize = 50;

/// Findings read of a run, of which a mail lists far fewer.
const FINDINGS: u32 = 20_000;

/// Maximum number of drops that a mail names.
const DROPS: usize = 100;

/// Maximum number of threads that one mail refers to.
const THREADS: usize = 10;

/// What sections quote. Empty without MySQL.
#[derive(Debug, Default)]
pub(crate) struct Sources {
    runs: Vec<Run>,
    broken: Vec<BrokenPromise>,
}

impl Sources {
    pub(crate) async fn read(conn: &mut Conn, decisions: &[Decision]) -> QueryResult<Self> {
        let mut sources = Self::default();
        let shown: Vec<&Condition> = decisions
            .iter()
            .filter(|it| it.is_shown())
            .filter_map(|it| it.condition.as_ref())
            .collect();
        let ids: BTreeSet<&str> = shown
            .iter()
            .filter_map(|it| it.run_id())
            .take(RUNS)
            .chain(repairs(decisions).last().map(|row| row.run_id.as_str()))
            .collect();
        for id in ids {
            let page = stored_run::read_page(conn, id, FINDINGS, 0).await?;
            sources.runs.extend(page.map(|page| page.run));
        }
        let promised = shown.iter().filter(|it| it.facts == Facts::Promises);
        let drops: Vec<i64> = promised.filter_map(|it| Some(it.drop?.0)).collect();
        if !drops.is_empty() {
            sources.broken = alerts::broken_promises(conn, &drops).await?;
        }
        Ok(sources)
    }

    /// Describes what is told, or begins to be listed.
    pub(crate) fn section(&self, decision: &Decision) -> Option<Section> {
        let alert = &decision.alert;
        let Some(condition) = &decision.condition else {
            decision.reason?;
            let kind = AlertKind::from_word(&alert.kind)?;
            return Some(Section::over(alert, kind));
        };
        if !decision.is_shown() {
            return None;
        }
        let id = condition.run_id();
        let mut runs = self.runs.iter();
        let run = runs.find(|run| Some(run.run_id.as_str()) == id);
        let reason = decision.reason.unwrap_or(Reason::New);
        Some(Section::new(condition, alert, reason, run, &self.broken))
    }
}

fn repairs(decisions: &[Decision]) -> impl Iterator<Item = &RepairsRow> {
    let told = decisions.iter().filter(|it| it.reason.is_some());
    let conditions = told.filter_map(|it| it.condition.as_ref());
    let rows = conditions.filter_map(|condition| match &condition.facts {
        Facts::Repairs(rows) => Some(rows),
        _ => None,
    });
    rows.flatten()
}

impl AlertMail<'_> {
    /// Reads what else the tables say about what is told.
    pub(crate) async fn read(
        &mut self,
        conn: &mut Conn,
        seen: &[Condition],
        known: &Alerts,
        decisions: &[Decision],
        sources: Sources,
    ) -> QueryResult<()> {
        self.repairs = repairs(decisions).cloned().collect();
        self.older_since = alerts::reopened_since(conn, &behind(&self.repairs)).await?;
        let drops: Vec<i64> = self.repairs.iter().map(|row| row.drop_id).collect();
        if self.links.subject() == Subject::Drop && drops.iter().any(|id| *id != 0) {
            self.has_waiting_list = alerts::has_waiting_list(conn, &drops).await?;
        }
        for over in &self.over {
            let is_promise = over.kind == AlertKind::Left(Kind::BrokenPromise);
            if let Some(drop) = over.alert.drop_id.filter(|_| is_promise) {
                let fate = alerts::mended(conn, drop, over.alert.began_at).await?;
                self.fates.insert(drop, fate);
            }
        }
        self.explained = explained(seen, known, decisions);
        self.closed = closed(seen);
        let left: HashSet<DropId> = seen.iter().filter_map(|it| it.drop).collect();
        let tables = alerts::drop_reports(conn, self.drop_ids(), &left).await?;
        let last_repair = self.repairs.last().map(|row| row.run_id.as_str());
        let first = self
            .problems
            .first()
            .and_then(|problem| seen.iter().find(|it| it.name == problem.alert.name));
        let id = last_repair.or_else(|| first?.run_id());
        let mut runs = sources.runs;
        let at = runs.iter().position(|run| Some(run.run_id.as_str()) == id);
        self.run = at.map(|at| runs.swap_remove(at));
        let others = runs.into_iter().flat_map(|run| run.drops);
        self.reports = others.chain(tables).collect();
        Ok(())
    }

    /// The Message-IDs that the mail refers to: one for each alert that it is about. No mail has
    /// such an ID itself, but mail programs group mails that refer to the same ID.
    pub(crate) fn threads(&self, domain: &str) -> Vec<String> {
        let told = self.problems.iter().chain(&self.over).take(THREADS);
        told.map(|section| {
            let since = section.alert.began_at.timestamp_millis();
            format!("alert.{}.{since}@{domain}", section.alert.name)
        })
        .collect()
    }

    fn drop_ids(&self) -> Vec<DropId> {
        let drops = self.drops();
        drops.iter().map(|drop| drop.id).take(DROPS).collect()
    }
}

/// Returns what else is wrong because of something that is told now, a line for each.
fn explained(seen: &[Condition], known: &Alerts, decisions: &[Decision]) -> Vec<String> {
    let told = decisions.iter().filter(|it| it.reason.is_some());
    let causes: HashSet<&str> = told
        .filter_map(|it| it.condition.as_ref())
        .map(|condition| condition.kind.word())
        .collect();
    let mut lines = Vec::new();
    // Repairs are told afterwards, each in one mail.
    for condition in seen.iter().filter(|it| it.kind != AlertKind::Repaired) {
        let Some(alert) = known.open(&condition.name) else {
            continue;
        };
        let cause = alert.explained_by.as_deref();
        if cause.is_some_and(|cause| causes.contains(cause)) {
            let section = Section::new(condition, alert, Reason::New, None, &[]);
            lines.push(section.line(None));
        }
    }
    lines.dedup();
    lines
}

fn closed(seen: &[Condition]) -> BTreeSet<CouponId> {
    let closed = seen.iter().filter_map(|condition| match &condition.facts {
        Facts::Closed(coupons) => Some(coupons),
        _ => None,
    });
    closed.flatten().copied().collect()
}

/// Returns the repairs that show that Redis was behind the rows. A restart alone writes nothing to
/// Redis.
fn behind(repairs: &[RepairsRow]) -> Vec<RepairsRow> {
    let behind = repairs.iter().filter(|row| {
        row.kind.parse().is_ok_and(|kind| match kind {
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
        })
    });
    behind.cloned().collect()
}
