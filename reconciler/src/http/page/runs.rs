//! Passes, and what each of them found, person by person. Ids are masked until somebody who may
//! change things reveals them, which is recorded.

use std::collections::HashSet;
use std::sync::Arc;

use askama::Template;
use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_shared::mysql::ops_actions::OperatorAct;
use serde::Deserialize;
use serde_json::json;
use uuid::Uuid;

use super::html::{Top, answer, notice, unavailable};
use super::people::Search;
use super::session::Session;
use super::state::ScreenState;
use super::time_line::{TimeLine, result, time_line};
use super::times::instant;
use crate::notify::wording::{LONGEST, detail, grouped, line, person, words};
use crate::record::{self, RunSummary};
use crate::report::{ActionKind, DropReport, Finding, Outcome, Run, Status};

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsScreen<'a> {
    top: Top<'a>,
    /// Newest first; passes in a row of which all found nothing are one group.
    groups: Vec<&'a [RunLine]>,
    /// What a pass would compare.
    over: &'a str,
    /// Where there are any.
    time_line: Option<TimeLine>,
    /// The oldest shown, where there may be older ones.
    next_before: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunScreen<'a> {
    top: Top<'a>,
    run: &'a RunView,
}

/// Runs on a page.
const RUNS: u32 = 50;

/// Findings on a page.
const FINDINGS: u32 = 100;

/// Drops listed of one run.
const DROPS: usize = 200;

/// A run in the list.
pub(super) struct RunLine {
    pub(super) id: String,
    pub(super) at: String,
    pub(super) how: String,
    pub(super) result: &'static str,
    /// A class of the style.
    pub(super) tone: &'static str,
    pub(super) examined: String,
    /// Repaired, left, failed.
    pub(super) numbers: [String; 3],
}

/// One run with a page of its findings.
pub(super) struct RunView {
    pub(super) id: String,
    pub(super) at: String,
    pub(super) took: Option<String>,
    pub(super) how: String,
    pub(super) result: &'static str,
    pub(super) tone: &'static str,
    pub(super) running: bool,
    pub(super) error: Option<String>,
    pub(super) examined: String,
    pub(super) drops: Vec<RunDropLine>,
    /// Drops that are not listed, though something happened in them.
    pub(super) more_drops: usize,
    pub(super) findings: Vec<FindingLine>,
    pub(super) revealed: bool,
    /// Where this page of findings begins, and the next.
    pub(super) after: i64,
    pub(super) next_after: Option<i64>,
}

pub(super) struct RunDropLine {
    pub(super) place: String,
    pub(super) promised: String,
    /// What, before, and after.
    pub(super) numbers: [(&'static str, String, String); 3],
    pub(super) exact: bool,
    pub(super) afterwards: String,
}

pub(super) struct FindingLine {
    pub(super) kind: &'static str,
    pub(super) place: String,
    pub(super) slot: String,
    pub(super) person: String,
    pub(super) what: String,
    pub(super) detail: String,
    pub(super) is_left: bool,
    /// What leads to the person's story, once they are revealed.
    pub(super) story: Option<Search>,
}

#[derive(Deserialize)]
pub(super) struct RunsScreenQuery {
    before: Option<Uuid>,
}

pub(super) async fn list(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    query: Result<Query<RunsScreenQuery>, QueryRejection>,
) -> Response {
    let before = query
        .ok()
        .and_then(|Query(query)| query.before)
        .map(|id| id.to_string());
    let runs = match record::list(&page.app.stores.db, RUNS, before).await {
        Ok(runs) => runs,
        Err(error) => return unavailable(error),
    };
    let time_line = time_line(&runs);
    let runs: Vec<RunLine> = runs.into_iter().map(run_line).collect();
    let next_before = runs
        .last()
        .filter(|_| runs.len() == RUNS as usize)
        .map(|run| run.id.as_str());
    let top = Top::new("Passes", "runs", Some(&session));
    let over = match page.live.drops().await {
        Some(1) => "the 1 live drop".to_owned(),
        Some(drops) => format!("all {} live drops", grouped(drops)),
        None => "everything".to_owned(),
    };
    answer(
        StatusCode::OK,
        &RunsScreen {
            top,
            groups: groups(&runs),
            over: &over,
            time_line,
            next_before,
        },
    )
}

/// At night there are hundreds that found nothing, and one between them that did.
fn groups(runs: &[RunLine]) -> Vec<&[RunLine]> {
    let is_quiet = |run: &RunLine| run.tone == "quiet";
    runs.chunk_by(|one, next| is_quiet(one) && is_quiet(next) && one.how == next.how)
        .collect()
}

fn run_line(run: RunSummary) -> RunLine {
    let status = run.status.parse().unwrap_or(Status::Failed);
    let (result, tone) = result(status, run.dry_run);
    let unsigned = |n: i64| grouped(u64::try_from(n).unwrap_or(0));
    RunLine {
        at: instant(run.started_at),
        how: how(
            &run.trigger,
            run.asked_by.as_deref(),
            [run.dry_run, run.deep, run.confirmed],
        ),
        result,
        tone,
        examined: examined(
            &unsigned(run.users_examined),
            &unsigned(run.rows_examined),
            u64::from(run.drops_examined),
        ),
        numbers: [run.applied, run.skipped, run.failed].map(|n| grouped(u64::from(n))),
        id: run.run_id,
    }
}

fn examined(people: &str, rows: &str, drops: u64) -> String {
    let noun = if drops == 1 { "drop" } else { "drops" };
    format!("{people} people, {rows} rows, {} {noun}", grouped(drops))
}

fn how(trigger: &str, asked_by: Option<&str>, [dry_run, deep, confirmed]: [bool; 3]) -> String {
    let by = match (trigger, asked_by) {
        (_, Some(name)) => format!("asked for by {}", line(name, LONGEST)),
        ("cron", None) => "by schedule".to_owned(),
        ("endpoint", None) => "asked for".to_owned(),
        ("cli", None) => "command line".to_owned(),
        ("startup", None) => "by itself".to_owned(),
        (other, None) => other.to_owned(),
    };
    let more = [
        (dry_run, ", dry run"),
        (deep, ", deep"),
        (confirmed, ", confirmed"),
    ];
    more.into_iter()
        .filter(|(is, _)| *is)
        .fold(by, |text, (_, word)| text + word)
}

#[derive(Deserialize)]
pub(super) struct RunScreenQuery {
    #[serde(default)]
    after: i64,
}

type FindingsAfter = Result<Query<RunScreenQuery>, QueryRejection>;

pub(super) async fn read(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    Path(id): Path<String>,
    query: FindingsAfter,
) -> Response {
    shown(
        &page,
        &session,
        &id,
        query.map_or(0, |Query(query)| query.after),
        false,
    )
    .await
}

pub(super) async fn reveal(
    State(page): State<ScreenState>,
    Extension(session): Extension<Arc<Session>>,
    Path(id): Path<String>,
    query: FindingsAfter,
) -> Response {
    shown(
        &page,
        &session,
        &id,
        query.map_or(0, |Query(query)| query.after),
        true,
    )
    .await
}

async fn shown(
    page: &ScreenState,
    session: &Session,
    id: &str,
    after: i64,
    reveal: bool,
) -> Response {
    let no_such = || {
        notice(
            StatusCode::NOT_FOUND,
            "No such pass",
            "There is no such pass, or it was deleted with age.",
        )
    };
    let Ok(id) = id.parse::<Uuid>() else {
        return no_such();
    };
    let (run, next_after) =
        match record::read(&page.app.stores.db, id.to_string(), FINDINGS, after).await {
            Ok(Some(found)) => found,
            Ok(None) => return no_such(),
            Err(error) => return unavailable(error),
        };
    if reveal {
        let detail =
            json!({"run_id": run.run_id, "after": after, "findings": run.all_findings().count()});
        let act = OperatorAct {
            action: "reveal",
            detail,
            ..OperatorAct::default()
        };
        // Before anything is shown.
        if let Err(error) = page
            .app
            .stores
            .db
            .record_act(session.operator.clone(), act)
            .await
        {
            return unavailable(error);
        }
    }
    let view = view(&run, (after, next_after), reveal);
    answer(
        StatusCode::OK,
        &RunScreen {
            top: Top::new("One pass", "runs", Some(session)),
            run: &view,
        },
    )
}

fn view(run: &Run, (after, next_after): (i64, Option<i64>), revealed: bool) -> RunView {
    let people: HashSet<&str> = run
        .all_findings()
        .filter_map(|finding| finding.user_id.as_deref())
        .collect();
    let of_drops = run.drops.iter().flat_map(|drop| {
        drop.findings
            .iter()
            .map(move |finding| (Some(drop), finding))
    });
    let placed = run
        .findings
        .iter()
        .map(|finding| (None, finding))
        .chain(of_drops);
    let findings = placed
        .map(|(drop, finding)| finding_line(drop, finding, &people, revealed))
        .collect();
    let (result, tone) = result(run.status, run.dry_run);
    let (drops, seen) = run.examined();
    RunView {
        id: run.run_id.clone(),
        at: instant(run.started_at),
        took: run
            .finished_at
            .map(|at| format!("{:.1} s", (at - run.started_at).as_seconds_f64())),
        how: how(
            run.trigger.as_str(),
            run.asked_by.as_deref(),
            [run.dry_run, run.deep, false],
        ),
        result,
        tone,
        running: run.status == Status::Running,
        error: run.error.as_deref().map(|error| detail(error, &people)),
        examined: examined(&grouped(seen.users), &grouped(seen.rows), drops),
        drops: run.drops.iter().take(DROPS).map(drop_line).collect(),
        more_drops: run.drops.len().saturating_sub(DROPS),
        findings,
        revealed,
        after,
        next_after,
    }
}

fn place(drop: &DropReport) -> String {
    format!(
        "{} · drop {}",
        line(&drop.coupon_name, LONGEST),
        drop.drop_id
    )
}

fn drop_line(drop: &DropReport) -> RunDropLine {
    let (before, after) = (&drop.before, &drop.after);
    let numbers = [
        ("Promised", before.users, after.users),
        ("Rows", before.rows, after.rows),
        ("Dead letters", before.failed_claims, after.failed_claims),
    ];
    RunDropLine {
        place: place(drop),
        promised: grouped(u64::from(drop.quantity)),
        numbers: numbers.map(|(what, before, after)| (what, grouped(before), grouped(after))),
        exact: drop.exact,
        afterwards: drop.exactness(),
    }
}

fn finding_line(
    drop: Option<&DropReport>,
    finding: &Finding,
    people: &HashSet<&str>,
    revealed: bool,
) -> FindingLine {
    let dash = || "–".to_owned();
    let shown = |id: &String| {
        if revealed {
            line(id, LONGEST)
        } else {
            person(id)
        }
    };
    let of_no_report = || {
        finding
            .drop_id
            .map_or_else(dash, |drop| format!("drop {drop}"))
    };
    let words = words(finding.action);
    let coupon = drop
        .map(|drop| drop.coupon_id)
        .or(finding.coupon_id)
        .filter(|_| revealed);
    let story = coupon
        .zip(finding.user_id.as_ref())
        .map(|(coupon, person)| Search {
            coupon: coupon.to_string(),
            drop: drop
                .map(|drop| drop.drop_id.to_string())
                .unwrap_or_default(),
            person: person.clone(),
        });
    let is_left = finding.needs_person || finding.result == Outcome::Failed;
    let what = match finding.result {
        Outcome::Applied | Outcome::Skipped if finding.needs_person => "needs a person".to_owned(),
        Outcome::Applied => words.done.to_owned(),
        Outcome::Planned => format!("would: {}", words.to_do),
        Outcome::Failed => format!("failed: {}", words.to_do),
        Outcome::Skipped if finding.action == ActionKind::Report => "only told".to_owned(),
        Outcome::Skipped => "had changed meanwhile".to_owned(),
    };
    FindingLine {
        kind: finding.kind.as_str(),
        place: drop.map_or_else(of_no_report, place),
        slot: finding.slot.map_or_else(dash, |slot| slot.to_string()),
        person: finding.user_id.as_ref().map_or_else(dash, shown),
        what,
        detail: if revealed {
            line(&finding.detail, LONGEST)
        } else {
            detail(&finding.detail, people)
        },
        is_left,
        story,
    }
}

#[cfg(test)]
mod tests {
    use firstcome_shared::domain::{CouponId, DropId};

    use super::*;
    use crate::report::{Examined, FindingCase, Kind, Numbers, Trigger};

    #[test]
    fn passes_in_a_row_that_found_nothing_are_one_group() {
        let run = |tone, how: &str| RunLine {
            id: String::new(),
            at: String::new(),
            how: how.to_owned(),
            result: "",
            tone,
            examined: String::new(),
            numbers: [const { String::new() }; 3],
        };
        let runs = [
            run("quiet", "by schedule"),
            run("quiet", "by schedule"),
            run("quiet", "asked for by Kim"),
            run("bad", "by schedule"),
            run("bad", "by schedule"),
            run("quiet", "by schedule"),
        ];
        assert_eq!(
            groups(&runs)
                .iter()
                .map(|group| group.len())
                .collect::<Vec<_>>(),
            [2, 1, 1, 1, 1]
        );
        assert!(groups(&[]).is_empty());
    }

    #[test]
    fn a_person_is_named_nowhere_until_revealed_and_odd_texts_stay_texts() {
        let user = "customer-4711@example.com";
        let finding = Finding {
            case: FindingCase::Plain,
            dead_letter: None,
            kind: Kind::FailedClaim,
            coupon_id: Some(CouponId(3)),
            drop_id: Some(DropId(7)),
            slot: Some(5),
            user_id: Some(user.to_owned()),
            action: ActionKind::Report,
            result: Outcome::Skipped,
            detail: format!("{user} <script>alert(1)</script>"),
            needs_person: true,
        };
        let drop = DropReport {
            coupon_id: CouponId(3),
            coupon_name: "\" onload='x' <b>".to_owned(),
            drop_id: DropId(7),
            quantity: 9,
            exact: false,
            sealed: false,
            before: Numbers::default(),
            after: Numbers::default(),
            unconfirmed: false,
            examined: Examined::default(),
            findings: vec![finding],
        };
        let run = Run {
            asked_by: Some("<b>Kim</b>".to_owned()),
            status: Status::Drift,
            drops: vec![drop],
            ..Run::begun("1", Trigger::Endpoint, chrono::DateTime::UNIX_EPOCH)
        };
        let html = |revealed| {
            let view = view(&run, (0, None), revealed);
            askama::Template::render(&RunScreen {
                top: Top::new("One pass", "runs", None),
                run: &view,
            })
            .unwrap()
        };
        let (masked, revealed) = (html(false), html(true));
        assert!(
            !masked.contains("4711") && masked.contains("c•••11@e•••"),
            "{masked}"
        );
        assert!(revealed.matches(user).count() == 3, "{revealed}");
        assert!(revealed.contains(&format!(
            "name=\"drop\" value=\"7\"><input type=\"hidden\" name=\"person\" value=\"{user}\""
        )));
        assert!(!masked.contains("action=\"/people\""), "{masked}");
        assert!(
            revealed.contains("asked for by &#60;b&#62;Kim"),
            "{revealed}"
        );
        for page in [&masked, &revealed] {
            for raw in ["<script>alert", "<b>", "' <", "onload='", "style="] {
                assert!(!page.contains(raw), "{raw}: {page}");
            }
        }
    }
}
