//! The screens of passes and their findings for each user. IDs are masked until an operator reveals
//! them, which is recorded.

use std::collections::HashSet;

use askama::Template;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::Response;
use firstcome_notifier::wording::{LONGEST, count, detail, grouped, line, person, words};
use firstcome_shared::http::views::{Overview, RunSummary};
use firstcome_shared::report::{ActionKind, DropReport, Finding, Outcome, Run, Status};
use serde::Deserialize;

use super::client::{HttpRefusal, encoded, query as query_string};
use super::html::{Top, answer};
use super::people::Search;
use super::state::{OrDefault, Page};
use super::times::instant;

#[derive(Template)]
#[template(path = "runs.html")]
struct RunsScreen<'a> {
    top: Top<'a>,
    /// Runs, newest first. Consecutive passes without findings form one group.
    groups: Vec<&'a [RunLine]>,
    /// The scope of a new pass.
    over: &'a str,
    /// The oldest run shown, if there may be older ones.
    next_before: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "run.html")]
struct RunScreen<'a> {
    top: Top<'a>,
    run: &'a RunView,
}

/// Number of runs per page.
const RUNS: usize = 50;

/// Number of findings per page.
const FINDINGS: usize = 100;

/// Maximum number of drops listed for one run.
const DROPS: usize = 200;

/// A run in the list.
pub(super) struct RunLine {
    pub(super) id: String,
    pub(super) at: String,
    pub(super) how: String,
    pub(super) result: &'static str,
    /// A CSS class.
    pub(super) tone: &'static str,
    pub(super) examined: String,
    /// The number of findings that are repaired, left and failed.
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
    /// Number of drops with changes that are not listed.
    pub(super) more_drops: usize,
    pub(super) findings: Vec<FindingLine>,
    pub(super) revealed: bool,
    /// The finding after which this page begins.
    pub(super) after: i64,
    pub(super) next_after: Option<i64>,
}

pub(super) struct RunDropLine {
    pub(super) place: String,
    pub(super) promised: String,
    /// Label, count before, and count after the pass.
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
    /// The search for the user's history, once revealed.
    pub(super) story: Option<Search>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RunsScreenQuery {
    before: String,
}

/// A page of runs.
#[derive(Deserialize)]
struct ListedRuns {
    runs: Vec<RunSummary>,
}

/// A run with a page of its findings.
#[derive(Deserialize)]
struct PassPage {
    #[serde(flatten)]
    run: Run,
    next_after: Option<i64>,
}

pub(super) async fn list(
    page: Page,
    OrDefault(query): OrDefault<RunsScreenQuery>,
) -> Result<Response, HttpRefusal> {
    let limit = RUNS.to_string();
    let path = format!(
        "/v1/runs{}",
        query_string(&[("limit", limit.as_str()), ("before", &query.before)])
    );
    let runs: ListedRuns = page.get(&path).await?;
    let runs: Vec<RunLine> = runs.runs.into_iter().map(run_line).collect();
    let next_before = runs
        .last()
        .filter(|_| runs.len() == RUNS)
        .map(|run| run.id.as_str());
    let overview = page.get::<Overview>("/v1/overview").await;
    let over = match overview.ok().and_then(|seen| seen.live_drops) {
        Some(1) => "the 1 live drop".to_owned(),
        Some(drops) => format!("all {} live drops", grouped(drops)),
        None => "everything".to_owned(),
    };
    Ok(answer(
        StatusCode::OK,
        &RunsScreen {
            top: Top::new("Passes", Some(&page.session), "runs"),
            groups: groups(&runs),
            over: &over,
            next_before,
        },
    ))
}

/// Groups consecutive passes without findings, since there are hundreds of them in a night.
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
            u64::from(run.drops_examined),
            &unsigned(run.rows_examined),
        ),
        numbers: [run.applied, run.skipped, run.failed].map(|n| grouped(u64::from(n))),
        id: run.run_id,
    }
}

/// Returns the status of a pass, and a CSS class.
fn result(status: Status, dry_run: bool) -> (&'static str, &'static str) {
    match status {
        Status::Running => ("running", "plain"),
        Status::Clean => ("nothing found", "quiet"),
        Status::Repaired => ("repaired", "plain"),
        Status::Drift if dry_run => ("found, not changed", "plain"),
        Status::Drift => ("needs a person", "bad"),
        Status::Braked => ("held back", "bad"),
        Status::Failed => ("failed", "bad"),
    }
}

fn examined(people: &str, drops: u64, rows: &str) -> String {
    let drops = count(drops, "drop", "drops");
    format!("{people} people, {rows} rows, {drops}")
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

#[derive(Deserialize, Default)]
#[serde(default)]
pub(super) struct RunScreenQuery {
    after: i64,
}

pub(super) async fn read(
    page: Page,
    Path(id): Path<String>,
    OrDefault(query): OrDefault<RunScreenQuery>,
) -> Result<Response, HttpRefusal> {
    shown(&page, &id, query.after, false).await
}

pub(super) async fn reveal(
    page: Page,
    Path(id): Path<String>,
    OrDefault(query): OrDefault<RunScreenQuery>,
) -> Result<Response, HttpRefusal> {
    shown(&page, &id, query.after, true).await
}

async fn shown(page: &Page, id: &str, after: i64, reveal: bool) -> Result<Response, HttpRefusal> {
    let limit = FINDINGS.to_string();
    let after_text = after.to_string();
    let parameters = [
        ("limit", limit.as_str()),
        ("after", &after_text),
        ("reveal", if reveal { "true" } else { "" }),
    ];
    let path = format!("/v1/runs/{}{}", encoded(id), query_string(&parameters));
    let PassPage { run, next_after } = page.get(&path).await?;
    let view = view(&run, after, next_after, reveal);
    Ok(answer(
        StatusCode::OK,
        &RunScreen {
            top: Top::new("One pass", Some(&page.session), "runs"),
            run: &view,
        },
    ))
}

fn view(run: &Run, after: i64, next_after: Option<i64>, revealed: bool) -> RunView {
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
        examined: examined(&grouped(seen.users), drops, &grouped(seen.rows)),
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
    let before = &drop.before;
    let after = &drop.after;
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
    use firstcome_shared::report::{Kind, Trigger};

    #[test]
    fn consecutive_passes_without_findings_form_one_group() {
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
    fn user_ids_are_masked_until_revealed_and_texts_are_escaped() {
        let user = "customer-4711@example.com";
        let finding = Finding {
            coupon_id: Some(CouponId(3)),
            drop_id: Some(DropId(7)),
            slot: Some(5),
            user_id: Some(user.to_owned()),
            ..Finding::report(
                Kind::FailedClaim,
                format!("{user} <script>alert(1)</script>"),
            )
        };
        let drop = DropReport {
            coupon_name: "\" onload='x' <b>".to_owned(),
            findings: vec![finding],
            ..DropReport::begun(CouponId(3), DropId(7), 9)
        };
        let run = Run {
            asked_by: Some("<b>Kim</b>".to_owned()),
            status: Status::Drift,
            drops: vec![drop],
            ..Run::begun("1", Trigger::Endpoint, chrono::DateTime::UNIX_EPOCH)
        };
        let html = |revealed| {
            let view = view(&run, 0, None, revealed);
            askama::Template::render(&RunScreen {
                top: Top::new("One pass", None, "runs"),
                run: &view,
            })
            .unwrap()
        };
        let masked = html(false);
        let revealed = html(true);
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
