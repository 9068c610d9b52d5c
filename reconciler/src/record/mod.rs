//! What a pass did, in MySQL: one row a run, one a finding.

mod read;

use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::processes::owner;
use firstcome_shared::mysql::runs::{FindingRow, RunRow, to_json};
use firstcome_shared::mysql::{Db, DbError};

use crate::report::{DropReport, Finding, Outcome, Run};

pub use read::{RunSummary, list, read};

/// Records that a run begins, under the pass lock.
pub async fn begin(db: &Db, run: &Run, confirmed: bool) -> Result<(), DbError> {
    db.begin_run(row(run, confirmed, None, run.started_at.naive_utc())).await
}

/// Records how a run ended, with its findings; also where its beginning could not be recorded.
///
/// # Errors
/// [`DbError`]; nothing was recorded.
pub async fn finish(db: &Db, run: &Run, confirmed: bool) -> Result<(), DbError> {
    let finished_at = run.finished_at.unwrap_or_else(Utc::now);
    // The findings have rows of their own.
    let drops: Vec<DropReport> = run.drops.iter().map(|d| DropReport { findings: Vec::new(), ..d.clone() }).collect();
    let drops = Some(to_json(&drops)?);
    let findings = run.all_findings().map(|finding| finding_row(&run.run_id, finding)).collect();
    let succeeded = run.ended_well().then(|| finished_at.to_rfc3339());
    db.finish_run(row(run, confirmed, drops, finished_at.naive_utc()), findings, succeeded).await
}

/// Deletes old runs; those that found nothing after `kept`.
pub async fn delete_old(db: &Db, kept: Duration) -> Result<(), DbError> {
    db.delete_old_runs(kept).await
}

/// Notes how many repairs of a drop were held back.
pub async fn hold_back(db: &Db, drop: DropId, repairs: usize, run_id: &str, looked: bool) -> Result<(), DbError> {
    db.hold_back(drop, small(repairs), run_id, looked).await
}

/// How many repairs of a drop a person saw held back last.
pub async fn held_back(db: &Db, drop: DropId) -> Result<Option<usize>, DbError> {
    Ok(db.held_back(drop).await?.map(|repairs| repairs as usize))
}

fn row(run: &Run, confirmed: bool, drops: Option<String>, heartbeat_at: NaiveDateTime) -> RunRow {
    let total = |of: fn(&DropReport) -> u64| i64::try_from(run.drops.iter().map(of).sum::<u64>()).unwrap_or(i64::MAX);
    let with = |outcome: Outcome| small(run.all_findings().filter(|f| f.result == outcome).count());
    RunRow {
        id: run.run_id.clone(),
        triggered_by: run.trigger.as_str().to_owned(),
        dry_run: run.dry_run,
        deep: run.deep,
        confirmed,
        status: run.status.as_str().to_owned(),
        owner: owner(),
        started_at: run.started_at.naive_utc(),
        heartbeat_at,
        finished_at: run.finished_at.map(|at| at.naive_utc()),
        drops_examined: small(run.drops.len()),
        users_examined: total(|d| d.examined.users),
        rows_examined: total(|d| d.examined.rows),
        failed_claims_examined: total(|d| d.examined.failed_claims),
        attempted: with(Outcome::Applied) + with(Outcome::Failed),
        applied: with(Outcome::Applied),
        skipped: with(Outcome::Skipped),
        failed: with(Outcome::Failed),
        error: run.error.clone(),
        drops,
    }
}

fn finding_row(run_id: &str, finding: &Finding) -> FindingRow {
    FindingRow {
        run_id: run_id.to_owned(),
        coupon_id: finding.coupon_id.map(|c| c.0),
        drop_id: finding.drop_id.map(|d| d.0),
        kind: finding.kind.as_str().to_owned(),
        slot: finding.slot,
        user_id: finding.user_id.clone(),
        action: finding.action.as_str().to_owned(),
        result: finding.result.as_str().to_owned(),
        detail: Some(finding.detail.clone()),
        needs_person: finding.needs_person,
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// Keeps an instant over restarts.
pub async fn remember(db: &Db, name: &'static str, at: DateTime<Utc>) -> Result<(), DbError> {
    db.set_state(name, at.to_rfc3339()).await
}

/// An instant kept by [`remember`] or by a pass.
pub async fn recall(db: &Db, name: &'static str) -> Result<Option<DateTime<Utc>>, DbError> {
    let text = db.state(name).await?;
    Ok(text.and_then(|text| DateTime::parse_from_rfc3339(&text).ok()).map(|at| at.with_timezone(&Utc)))
}
