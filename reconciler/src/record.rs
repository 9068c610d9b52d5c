//! Records passes in MySQL: one row per run, and one per finding for all consecutive passes that
//! see it. A drop without findings and changes adds no rows, so the tables grow with events, not
//! with passes and drops.

use chrono::{DateTime, Utc};
use firstcome_shared::domain::UserId;
use firstcome_shared::mysql::processes::owner;
use firstcome_shared::mysql::runs::{FindingRow, Findings, RunRow, to_json};
use firstcome_shared::mysql::{Db, DbError};

use crate::context::PassRequest;
use crate::report::{DropReport, Finding, Outcome, Run};

/// Records the beginning of a run, and the operator who requested it. The caller holds the pass
/// lock.
pub async fn begin(db: &Db, run: &Run, request: &PassRequest) -> Result<(), DbError> {
    let asked = request.by.clone().map(|(by, mut act)| {
        act.detail["run_id"] = run.run_id.clone().into();
        (by, act)
    });
    db.begin_run(row(run, request.confirm, None), asked).await
}

/// Records the end of a run with its findings, or logs why that failed.
pub async fn finish(db: &Db, run: &Run, confirmed: bool, is_beside_passes: bool) {
    if let Err(error) = finished(db, run, confirmed, is_beside_passes).await {
        tracing::warn!(run_id = run.run_id, %error, "the run could not be recorded");
    }
}

/// Records the end of a run with its findings. Works even if its beginning could not be recorded.
///
/// # Errors
/// [`DbError`] if MySQL fails; then nothing is recorded.
pub async fn finished(
    db: &Db,
    run: &Run,
    confirmed: bool,
    is_beside_passes: bool,
) -> Result<(), DbError> {
    let finished_at = run.finished_at.unwrap_or_else(Utc::now);
    // Findings are stored in separate rows.
    let bare = |d: &DropReport| DropReport {
        findings: Vec::new(),
        coupon_name: d.coupon_name.clone(),
        ..*d
    };
    let drops: Vec<DropReport> = run
        .drops
        .iter()
        .filter(|d| is_kept(d))
        .take(REPORTS_AT_MOST)
        .map(bare)
        .collect();
    let drops = Some(to_json(&drops)?);
    let succeeded = run.ended_well().then(|| finished_at.to_rfc3339());
    db.finish_run(
        row(run, confirmed, drops),
        findings(run, is_beside_passes),
        succeeded,
    )
    .await?;
    if run.dry_run {
        return Ok(());
    }
    let without_plan = run.drops.iter().filter(|drop| !may_be_held_back(drop));
    db.forget_held_back(without_plan.map(|drop| drop.drop_id).collect())
        .await
}

/// Whether repairs of the drop may wait for a confirmation: something was planned or has failed.
fn may_be_held_back(drop: &DropReport) -> bool {
    let is_left = |found: &Finding| matches!(found.result, Outcome::Planned | Outcome::Failed);
    drop.findings.iter().any(is_left)
}

/// Maximum number of drop reports stored with a run. They take about 4 MB of JSON, far below
/// `max_allowed_packet`. Findings have no such limit.
const REPORTS_AT_MOST: usize = 10_000;

/// Whether the drop has findings, has changed, or is in progress.
fn is_kept(drop: &DropReport) -> bool {
    !drop.findings.is_empty() || !drop.exact || drop.sealed || drop.before != drop.after
}

/// Selects the findings to record. A pass that compared everything continues the findings of the
/// last such pass, even if it failed afterwards or could not read the topic. Repairs and findings
/// in sealed drops belong to this run only, because the next pass does not see them.
fn findings(run: &Run, is_beside_passes: bool) -> Findings {
    let is_full = !is_beside_passes && !run.partial && !run.dry_run;
    let mut findings = Findings {
        own: Vec::new(),
        left: is_full.then(Vec::new),
    };
    let of_drops = run
        .drops
        .iter()
        .flat_map(|d| d.findings.iter().map(|f| (f, d.sealed)));
    for (finding, sealed) in run.findings.iter().map(|f| (f, false)).chain(of_drops) {
        let row = finding_row(&run.run_id, finding);
        match &mut findings.left {
            Some(left) if !sealed && finding.result != Outcome::Applied => {
                left.push((finding.identity(), row));
            }
            _ => findings.own.push(row),
        }
    }
    findings
}

fn row(run: &Run, confirmed: bool, drops: Option<String>) -> RunRow {
    let (drops_examined, examined) = run.examined();
    let total = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let with = |outcome: Outcome| {
        let found = run.all_findings().filter(|f| f.result == outcome);
        let number = found.map(|finding| finding.case.number()).sum::<u64>();
        u32::try_from(number).unwrap_or(u32::MAX)
    };
    RunRow {
        id: run.run_id.clone(),
        triggered_by: run.trigger.as_str().to_owned(),
        dry_run: run.dry_run,
        deep: run.deep,
        confirmed,
        status: run.status.as_str().to_owned(),
        owner: owner(),
        started_at: run.started_at.naive_utc(),
        finished_at: run.finished_at.map(|at| at.naive_utc()),
        drops_examined: u32::try_from(drops_examined).unwrap_or(u32::MAX),
        users_examined: total(examined.users),
        rows_examined: total(examined.rows),
        failed_claims_examined: total(examined.failed_claims),
        attempted: with(Outcome::Applied) + with(Outcome::Failed),
        applied: with(Outcome::Applied),
        skipped: with(Outcome::Skipped),
        failed: with(Outcome::Failed),
        error: run.error.clone(),
        drops,
        number: None,
        drops_hash: None,
        drops_run: None,
        nothing_new: false,
        asked_by: run.asked_by.clone(),
    }
}

fn finding_row(run_id: &str, finding: &Finding) -> FindingRow {
    FindingRow {
        run_id: run_id.to_owned(),
        coupon_id: finding.coupon_id.map(|c| c.0),
        drop_id: finding.drop_id.map(|d| d.0),
        kind: finding.kind.as_str().to_owned(),
        slot: finding.slot,
        // A name that was written into a store manually may be too long for the column. In that
        // case, the slot identifies the finding.
        user_id: finding
            .user_id
            .clone()
            .filter(|name| name.is_ascii() && name.len() <= UserId::MAX_LEN),
        action: finding.action.as_str().to_owned(),
        result: finding.result.as_str().to_owned(),
        detail: Some(finding.detail.clone()),
        needs_person: finding.needs_person,
        dead_letter: finding.dead_letter,
    }
}

/// Stores a time across restarts.
pub async fn remember(db: &Db, name: &'static str, at: DateTime<Utc>) -> Result<(), DbError> {
    db.set_state(name, at.to_rfc3339()).await
}

/// Returns a time stored by [`remember`] or by a pass.
pub async fn recall(db: &Db, name: &'static str) -> Result<Option<DateTime<Utc>>, DbError> {
    let text = db.state(name).await?;
    Ok(text
        .and_then(|text| DateTime::parse_from_rfc3339(&text).ok())
        .map(|at| at.with_timezone(&Utc)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Status, Trigger};
    use crate::run::blank;

    #[test]
    fn only_a_complete_pass_ends_earlier_findings() {
        let begun = blank(&PassRequest::new(Trigger::Cron), "1");
        assert!(begun.partial, "nothing is compared yet");
        for (what, status, partial, is_beside_passes, expected) in [
            ("a pass", Status::Drift, false, false, true),
            (
                "the topic could not be read",
                Status::Failed,
                false,
                false,
                true,
            ),
            (
                "failed before it had compared all",
                Status::Failed,
                true,
                false,
                false,
            ),
            ("a pass over one coupon", Status::Drift, true, false, false),
            ("a reopening", Status::Failed, false, true, false),
        ] {
            let run = Run {
                status,
                partial,
                ..begun.clone()
            };
            let left = findings(&run, is_beside_passes).left;
            assert_eq!(left.is_some(), expected, "{what}");
        }
        let failed = Run {
            status: Status::Failed,
            partial: false,
            ..begun
        };
        assert!(
            !failed.ended_well(),
            "what is recorded in full is no success yet"
        );
    }
}
