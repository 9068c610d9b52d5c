//! Records runs in MySQL: a row for each run, and a row for each finding. A run with the same
//! result as the last one refers to the findings and reports of that one, and is deleted after a
//! day, so the tables grow with events, not with passes and drops.

use chrono::{DateTime, Utc};
use firstcome_shared::crash::{Point, crash_point};
use firstcome_shared::hash::finish64;
use firstcome_shared::mysql::processes::owner;
use firstcome_shared::mysql::runs::RunRow;
use firstcome_shared::mysql::{Db, DbError};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::context::{Ask, Confirmation, PassError, PassRequest};
use crate::notify::Notifier;
use crate::passes::note_look;
use crate::queries;
use crate::queries::runs::StoredRun;
use crate::report::{
    Cause, DropReport, FailureCause, Finding, Judged, Kind, Outcome, Run, Status, Stored, Trigger,
    recorded_user,
};

/// Returns a new ID for a run. IDs sort by time.
pub fn new_run_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Creates a run that begins now.
pub fn blank(trigger: Trigger) -> Run {
    Run {
        partial: true,
        ..Run::begun(&new_run_id(), trigger, Utc::now())
    }
}

/// Adds the error of a pass to its run.
pub fn fail(run: &mut Run, error: &PassError, confirms: &Confirmation) {
    let reason = format!("{error}{}", confirms.if_not_made());
    run.findings.push(failure(error.cause(), reason.clone()));
    run.error = Some(reason);
    run.end();
    run.partial = true;
    // Neither is an alert: the next pass does the work of a stopped one, and the run that reopens
    // the coupons reports that Redis was replaced.
    run.stopped = matches!(error, PassError::Stopped | PassError::Replaced);
    tracing::error!(run_id = run.run_id, %error, "the pass failed");
}

pub fn failure(cause: FailureCause, error: String) -> Finding {
    Finding {
        cause: Cause::RunFailed(cause),
        ..Finding::report(Kind::Stalled, error)
    }
}

/// Records the beginning of a run, and the operator who requested it. The caller holds the pass
/// lock.
pub async fn begin(db: &Db, run: &Run, request: &PassRequest) -> Result<(), DbError> {
    let asked = if let Ask::Operator { by, mut act, .. } = request.ask.clone() {
        act.detail["run_id"] = run.run_id.clone().into();
        Some((by, act))
    } else {
        None
    };
    queries::runs::begin_run(db, row(run, request.confirms.is_some()), asked).await
}

/// Records the end of a pass, then what it saw and, unless the pass failed, that its schedules have
/// run: a run whose levels are not written has not run, so it is repeated. Logs what could not be
/// recorded.
pub(crate) async fn end(db: &Db, run: &Run, request: &PassRequest, notifier: Option<&Notifier>) {
    let finished = finish(db, run, request.confirms.is_some()).await;
    if let Err(error) = &finished {
        tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded");
    }
    crash_point(Point::RunRecorded);
    let stored = finished.is_ok().then_some(run.run_id.as_str());
    let is_noted = match notifier {
        Some(notifier) => note_look(notifier, run, stored).await,
        None => true,
    };
    if run.status == Status::Failed || !is_noted {
        return;
    }
    let ended = run.finished_at.unwrap_or_else(Utc::now);
    for name in request.ask.counts_for() {
        if let Err(error) = remember(db, name, ended).await {
            tracing::warn!(%error, name, "that it ran could not be noted");
        }
    }
}

/// Records the end of a run with its findings. Works even if its beginning could not be recorded.
pub async fn finish(db: &Db, run: &Run, confirmed: bool) -> Result<(), DbError> {
    let finished_at = run.finished_at.unwrap_or_else(Utc::now);
    // Findings are stored in separate rows.
    let drops: Vec<DropReport> = run
        .drops
        .iter()
        .filter(|drop| is_kept(drop))
        .take(REPORTS_AT_MOST)
        .map(|drop| DropReport {
            findings: Vec::new(),
            coupon_name: drop.coupon_name.clone(),
            judged: Judged::default(),
            ..*drop
        })
        .collect();
    let drops = json!(drops);
    let content = content(run, &drops.to_string());
    let row = row(run, confirmed);
    let stored_run = StoredRun {
        row: RunRow { content, ..row },
        drops: Some(drops),
    };
    let findings = run.all_findings().map(stored);
    let succeeded = run.ended_well().then(|| finished_at.to_rfc3339());
    queries::runs::finish_run(db, stored_run, findings.collect(), succeeded).await
}

/// Maximum number of drop reports stored with a run. They take about 4 MB of JSON, far below
/// `max_allowed_packet`. Findings have no such limit.
const REPORTS_AT_MOST: usize = 10_000;

/// Whether the drop has findings, was sealed, or is inexact or has changed while no claims are in
/// flight: with the numbers of a busy drop, no run would be the same as the last one.
fn is_kept(drop: &DropReport) -> bool {
    let is_busy = drop.after.in_flight > 0;
    let has_changed = !drop.exact || drop.before != drop.after;
    !drop.findings.is_empty() || drop.sealed || has_changed && !is_busy
}

/// Returns a hash of the result of a run that compared everything, and `None` for other runs and
/// dry runs. The next run has the same hash if it finds the same, but a run with repairs never has
/// the hash of another.
fn content(run: &Run, drops: &str) -> Option<i64> {
    if run.partial || run.dry_run {
        return None;
    }
    let mut found: Vec<i64> = run.all_findings().map(Finding::identity).collect();
    found.sort_unstable();
    let mut hash = Sha256::new();
    for identity in found {
        hash.update(identity.to_be_bytes());
    }
    hash.update(run.status.as_str());
    hash.update(drops);
    if run.all_findings().any(|it| it.result == Outcome::Applied) {
        hash.update(&run.run_id);
    }
    Some(finish64(hash).cast_signed())
}

fn row(run: &Run, confirmed: bool) -> RunRow {
    let (drops_examined, examined) = run.examined();
    let total = |number| i64::try_from(number).unwrap_or(i64::MAX);
    let with = |outcome| {
        let found = run.all_findings().filter(|f| f.result == outcome);
        let number = found.map(|finding| finding.cause.number()).sum::<u64>();
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    RunRow {
        run_id: run.run_id.clone(),
        trigger: Stored::Known(run.trigger),
        dry_run: run.dry_run,
        deep: run.deep,
        confirmed,
        status: Stored::Known(run.status),
        owner: owner(),
        started_at: run.started_at,
        finished_at: run.finished_at,
        drops_examined: u32::try_from(drops_examined).unwrap_or(u32::MAX),
        users_examined: total(examined.users),
        rows_examined: total(examined.rows),
        failed_claims_examined: total(examined.failed_claims),
        applied: with(Outcome::Applied),
        skipped: with(Outcome::Skipped),
        failed: with(Outcome::Failed),
        error: run.error.clone(),
        content: None,
        same_as: None,
        asked_by: run.asked_by.clone(),
    }
}

/// Returns a finding as it is stored.
fn stored(finding: &Finding) -> Finding {
    let mut stored = finding.clone();
    stored.user_id = finding.user_id.as_deref().map(recorded_user);
    stored
}

/// Stores a time across restarts.
pub async fn remember(db: &Db, name: &'static str, at: DateTime<Utc>) -> Result<(), DbError> {
    db.set_state(name, at.to_rfc3339()).await
}

/// Returns a time stored by [`remember`] or by a pass.
pub async fn recall(db: &Db, name: &'static str) -> Result<Option<DateTime<Utc>>, DbError> {
    let text = db.state(name).await?;
    Ok(text.and_then(|text| text.parse().ok()))
}

#[cfg(test)]
mod tests {
    use firstcome_attach::Confirm;
    use firstcome_shared::domain::DropId;

    use super::*;
    use crate::report::Fingerprint;

    #[test]
    fn failed_run_says_what_to_do_about_confirmed_repairs() {
        for (confirmed, is_said) in [(vec![], false), (vec![Fingerprint(7)], true)] {
            let mut run = blank(Trigger::Cli);
            fail(
                &mut run,
                &PassError::Replaced,
                &Confirmation::held_back(confirmed),
            );
            let error = run.error.unwrap();
            assert_eq!(error.contains("make a dry run"), is_said, "{error}");
        }
    }

    /// A user whose name does not fit the table could not be confirmed from a recorded run.
    #[test]
    fn confirmation_of_a_recorded_run_names_everybody_whom_the_run_named() {
        let run = |findings| Run {
            findings,
            ..blank(Trigger::Cron)
        };
        for name in ["u-1", "김민수", &"x".repeat(129)] {
            let found = Finding {
                drop_id: Some(DropId(1)),
                user_id: Some(name.to_owned()),
                result: Outcome::Planned,
                ..Finding::report(Kind::Unissued, "")
            };
            let recorded = stored(&found);
            assert!(recorded.user_id.clone().unwrap().len() <= 128);
            let confirm = Confirm::shown_by(&run(vec![recorded]));
            assert!(!confirm.is_empty(), "{name}");
            assert_eq!(confirm, Confirm::shown_by(&run(vec![found])));
        }
    }

    #[test]
    fn result_is_the_same_only_if_nothing_was_repaired_and_all_was_compared() {
        let found = |result, cause| Finding {
            result,
            cause,
            ..Finding::report(Kind::FailedClaim, "")
        };
        let run = |id: &str, partial, findings: &[Finding]| {
            let run = Run {
                run_id: id.to_owned(),
                partial,
                findings: findings.to_vec(),
                ..blank(Trigger::Cron)
            };
            content(&run, "[]")
        };
        let left = [found(Outcome::Skipped, Cause::MoreLeft(3))];
        assert_eq!(run("1", false, &[]), run("2", false, &[]));
        let later = [found(Outcome::Skipped, Cause::MoreLeft(33))];
        assert_eq!(run("1", false, &left), run("2", false, &later));
        assert_ne!(run("1", false, &left), run("2", false, &[]));
        let other = [found(Outcome::Skipped, Cause::NotCompared)];
        assert_ne!(run("1", false, &left), run("2", false, &other));
        let repaired = [found(Outcome::Applied, Cause::Plain)];
        assert_ne!(run("1", false, &repaired), run("2", false, &repaired));
        assert_eq!(run("1", true, &[]), None);
        assert!(blank(Trigger::Cron).partial);
    }
}
