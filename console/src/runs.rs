//! The screens of passes and their findings for each user. IDs are masked until an operator reveals
//! them, which is recorded.

use std::collections::HashSet;

use askama::Template;
use axum::extract::{Path, Query};
use axum::http::StatusCode;
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::http::views::{RunPage, Runs};
use firstcome_shared::mysql::runs::RunRow;
use firstcome_shared::report::wording::{count, detail, grouped, words};
use firstcome_shared::report::{
    ActionKind, DropReport, Finding, Fingerprint, Outcome, Run, Status, Stored,
};
use firstcome_shared::subject::Subject;
use serde::Deserialize;
use serde_json::json;

use super::client::{HttpRefusal, encoded, query as query_string};
use super::drop::begun;
use super::overview::place;
use super::page::{ConsolePage, FormFields, Screen, Top, answer};
use super::text::{Text, whom};

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsScreen<'a> {
    top: Top<'a>,
    /// Runs, newest first.
    runs: &'a [RunRow],
    /// The oldest run shown, if there may be older ones.
    next_before: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunScreen<'a> {
    top: Top<'a>,
    page: &'a RunPage,
    run: &'a Run,
    findings: Vec<PlacedFinding<'a>>,
    /// The users of the findings, whose IDs are masked in texts.
    people: HashSet<&'a str>,
    revealed: bool,
    /// The finding after which this page begins.
    after: i64,
}

/// A finding, with the report of its drop if it has one.
struct PlacedFinding<'a> {
    drop: Option<&'a DropReport>,
    finding: &'a Finding,
}

/// Number of runs per page.
const RUNS: usize = 50;

/// Number of findings per page.
const FINDINGS: &str = "100";

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RunsScreenQuery {
    /// The oldest run of the previous page.
    before: String,
    /// The last finding of the previous page.
    after: i64,
    /// What was just done.
    done: String,
}

pub(super) async fn list(page: ConsolePage, Query(query): Query<RunsScreenQuery>) -> Screen {
    let limit = RUNS.to_string();
    let parameters = [("limit", limit.as_str()), ("before", &query.before)];
    let path = format!("/v1/runs{}", query_string(&parameters));
    let Runs { runs } = page.get(&path).await?;
    let last = runs.last().filter(|_| runs.len() == RUNS);
    let mut top = page.top("Passes", "runs");
    if query.done == "queued" {
        top.done = "The pass is queued: it begins when the running one has ended. Reload then.";
    }
    let screen = RunsScreen {
        top,
        runs: &runs,
        next_before: last.map(|run| run.run_id.as_str()),
    };
    Ok(answer(StatusCode::OK, &screen))
}

/// Returns the status of a pass, and a CSS class.
fn result(status: Status, dry_run: bool) -> (&'static str, &'static str) {
    match status {
        Status::Running => ("running", "plain"),
        Status::Clean => ("nothing found", "quiet"),
        Status::Repaired => ("repaired", "plain"),
        Status::Drift if dry_run => ("found, not changed", "plain"),
        Status::Drift => ("needs an operator", "bad"),
        Status::Braked => ("held back", "bad"),
        Status::Failed => ("failed", "bad"),
    }
}

fn listed_result(run: &RunRow) -> (&str, &'static str) {
    match &run.status {
        Stored::Known(status) => result(*status, run.dry_run),
        Stored::Unknown(word) => (word, "plain"),
    }
}

fn examined(subject: Subject, users: u64, rows: u64, drops: u64) -> String {
    let [one, many] = subject.nouns();
    let drops = count(drops, one, many);
    format!("{} users, {} rows, {drops}", grouped(users), grouped(rows))
}

fn listed_how(run: &RunRow) -> String {
    let trigger = match &run.trigger {
        Stored::Known(trigger) => trigger.as_str(),
        Stored::Unknown(word) => word,
    };
    how(trigger, run.asked_by.as_deref(), run.dry_run, run.deep)
}

fn how(trigger: &str, asked_by: Option<&str>, dry_run: bool, deep: bool) -> String {
    let by = match asked_by {
        Some(name) => format!("asked for by {}", name.text()),
        None => trigger.text(),
    };
    let dry_run = if dry_run { ", dry run" } else { "" };
    let deep = if deep { ", deep" } else { "" };
    format!("{by}{dry_run}{deep}")
}

pub(super) async fn read(
    page: ConsolePage,
    Path(id): Path<String>,
    Query(query): Query<RunsScreenQuery>,
) -> Screen {
    show_run(&page, &id, query.after, false).await
}

pub(super) async fn reveal(
    page: ConsolePage,
    Path(id): Path<String>,
    Query(query): Query<RunsScreenQuery>,
) -> Screen {
    show_run(&page, &id, query.after, true).await
}

/// Asks the operator, then starts a pass that makes the repairs of one coupon or campaign which this
/// run has shown.
pub(super) async fn confirm(page: ConsolePage, Path(id): Path<String>, form: FormFields) -> Screen {
    let coupon = form
        .number("coupon")
        .map(CouponId)
        .ok_or_else(|| HttpRefusal::typed("The form is not of this page."))?;
    if !form.is_sure() {
        let name = form.get("name").text();
        let what = match page.session.subject {
            Subject::Drop => format!(
                "The repairs of {name} that this pass has shown are made: their users lose the \
                 slot that Redis shows. If others are needed by then, nothing is done."
            ),
            Subject::Campaign => format!(
                "The repairs of {name} that this pass has shown: rows are written in your \
                 database, for those of these users who still lack one. Others wait."
            ),
        };
        return Ok(page.confirm(&form, &what, "Confirm them"));
    }
    if page.session.subject == Subject::Campaign {
        let path = format!("/v1/runs/{}/confirm", encoded(&id));
        return begun(&page, &path, json!({"coupon_id": coupon})).await;
    }
    let shown: RunPage = page.get(&format!("/v1/runs/{}", encoded(&id))).await?;
    let drops = shown.run.drops.iter();
    let confirm: Vec<Fingerprint> = drops
        .filter(|drop| drop.coupon_id == coupon)
        .filter_map(|drop| Some(drop.held_back?.fingerprint))
        .collect();
    let body = json!({"coupon_id": coupon, "confirm": confirm});
    begun(&page, "/v1/reconcile", body).await
}

async fn show_run(page: &ConsolePage, id: &str, after: i64, revealed: bool) -> Screen {
    let from = after.to_string();
    let reveal = if revealed { "true" } else { "" };
    let parameters = [("limit", FINDINGS), ("after", &from), ("reveal", reveal)];
    let path = format!("/v1/runs/{}{}", encoded(id), query_string(&parameters));
    let found: RunPage = page.get(&path).await?;
    let run = &found.run;
    let of_drops = run.drops.iter().flat_map(|drop| {
        let drop_findings = drop.findings.iter();
        drop_findings.map(move |finding| PlacedFinding {
            drop: Some(drop),
            finding,
        })
    });
    let findings = run.findings.iter().map(|finding| PlacedFinding {
        drop: None,
        finding,
    });
    let people = run.all_findings().filter_map(|it| it.user_id.as_deref());
    let screen = RunScreen {
        top: page.top("One pass", "runs"),
        people: people.collect(),
        findings: findings.chain(of_drops).collect(),
        page: &found,
        run,
        revealed,
        after,
    };
    Ok(answer(StatusCode::OK, &screen))
}

#[allow(clippy::unused_self, reason = "a template calls methods")]
impl RunScreen<'_> {
    /// A drop of each coupon, or the campaigns, whose repairs the operator may confirm here.
    fn plans(&self) -> Vec<&DropReport> {
        if !self.top.may_change() {
            return Vec::new();
        }
        let waiting = self
            .run
            .drops
            .iter()
            .filter(|drop| match self.top.subject() {
                Subject::Campaign => drop.has_planned(),
                Subject::Drop => drop.held_back.is_some(),
            });
        let mut plans: Vec<_> = waiting.collect();
        plans.sort_by_key(|drop| drop.coupon_id);
        plans.dedup_by_key(|drop| drop.coupon_id);
        plans
    }

    fn place(&self, placed: &PlacedFinding<'_>) -> String {
        let bare = placed.finding.drop_id.and_then(DropId::label);
        let named = placed
            .drop
            .map(|drop| place(&drop.coupon_name, drop.drop_id));
        named.or(bare).text()
    }

    /// The drop whose history with a user the screen links to once the IDs are revealed.
    fn story<'a>(&self, placed: &PlacedFinding<'a>) -> Option<&'a DropReport> {
        let has_story = match self.top.subject() {
            Subject::Drop => self.revealed,
            Subject::Campaign => false,
        };
        placed.drop.filter(|_| has_story)
    }

    fn detail(&self, text: &str) -> String {
        if self.revealed {
            text.text()
        } else {
            detail(text, &self.people)
        }
    }

    fn finding_text(&self, finding: &Finding) -> String {
        self.detail(&finding.text())
    }

    fn what(&self, finding: &Finding) -> String {
        let words = words(finding.action);
        match finding.result {
            Outcome::Applied | Outcome::Skipped if finding.needs_person => {
                "needs an operator".to_owned()
            }
            Outcome::Applied => words.done.to_owned(),
            Outcome::Planned => format!("would: {}", words.to_do),
            Outcome::Failed => format!("failed: {}", words.to_do),
            Outcome::Skipped if finding.action == ActionKind::Report => "only told".to_owned(),
            Outcome::Skipped => "had changed meanwhile".to_owned(),
        }
    }
}
