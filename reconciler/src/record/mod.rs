//! Records passes in MySQL: one row per run, and one per finding for all consecutive passes that
//! see it. A drop without findings and changes adds no rows, so the tables grow with events, not
//! with passes and drops.

mod read;

use std::hash::{DefaultHasher, Hash as _, Hasher as _};

use chrono::{DateTime, Utc};
use firstcome_shared::domain::{DropId, UserId};
use firstcome_shared::mysql::held_back::ShownRepairs;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::processes::owner;
use firstcome_shared::mysql::runs::{FindingRow, Findings, Retention, RunRow, to_json};
use firstcome_shared::mysql::{Db, DbError};

use crate::report::{DropReport, Finding, Outcome, Run};

pub use read::read;

/// Facts about how a run was requested that its report does not contain.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub confirmed: bool,
    /// Whether the run runs concurrently with passes, so that a pass may be recorded at the same
    /// time.
    pub is_beside_passes: bool,
}

/// Records the beginning of a run, and the operator who requested it. The caller holds the pass
/// lock.
pub async fn begin(
    db: &Db,
    run: &Run,
    how: How,
    asked: Option<(Operator, OperatorAct)>,
) -> Result<(), DbError> {
    let asked = asked.map(|(by, mut act)| {
        act.detail["run_id"] = run.run_id.clone().into();
        (by, act)
    });
    db.begin_run(row(run, how.confirmed, None), asked).await
}

/// Records the end of a run with its findings. Works even if its beginning could not be recorded.
///
/// # Errors
/// [`DbError`] if MySQL fails; then nothing is recorded.
pub async fn finish(db: &Db, run: &Run, how: How) -> Result<(), DbError> {
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
        row(run, how.confirmed, drops),
        findings(run, how),
        succeeded,
    )
    .await
}

/// Maximum number of drop reports stored with a run. They take about 4 MB of JSON, far below
/// `max_allowed_packet`. Findings have no such limit.
const REPORTS_AT_MOST: usize = 10_000;

/// Whether the drop has findings, has changed, or is in progress.
fn is_kept(drop: &DropReport) -> bool {
    !drop.findings.is_empty() || !drop.exact || drop.sealed || drop.before != drop.after
}

/// Records the repairs of a drop that were held back.
pub async fn hold_back(
    db: &Db,
    drop: DropId,
    repairs: ShownRepairs,
    run_id: &str,
    looked: bool,
) -> Result<(), DbError> {
    db.hold_back(drop, repairs, run_id, looked).await
}

/// Deletes the record of held-back repairs of a drop that is within the limit.
pub async fn forget_held_back(db: &Db, drop: DropId) -> Result<(), DbError> {
    db.forget_held_back(drop).await
}

/// Selects the findings to record. A pass that compared everything continues the findings of the
/// last such pass, even if it failed afterwards or could not read the topic. Repairs and findings
/// in sealed drops belong to this run only, because the next pass does not see them.
fn findings(run: &Run, how: How) -> Findings {
    let is_full = !how.is_beside_passes && !run.partial && !run.dry_run;
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

/// Returns a hash of a run's content, without values that change over time.
pub(crate) fn content(run: &Run) -> u64 {
    let mut found: Vec<i64> = run.all_findings().map(Finding::identity).collect();
    found.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (run.status.as_str(), found).hash(&mut hasher);
    hasher.finish()
}

/// Extends the end time of a recorded run. Returns `false` if there is no such run.
pub(crate) async fn prolong(db: &Db, run_id: &str, until: DateTime<Utc>) -> Result<bool, DbError> {
    db.prolong_run(run_id.to_owned(), until.naive_utc()).await
}

/// Deletes a bounded number of old records of passes.
pub async fn delete_old(db: &Db, kept: Retention) -> Result<(), DbError> {
    db.delete_old(kept).await
}

fn row(run: &Run, confirmed: bool, drops: Option<String>) -> RunRow {
    let (drops_examined, examined) = run.examined();
    let total = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
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
        trace_id: finding.trace_id.clone(),
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
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
    use crate::pass::{Request, blank};
    use crate::report::{Status, Trigger};

    #[test]
    fn only_a_complete_pass_ends_earlier_findings() {
        let begun = blank(&Request::new(Trigger::Cron), "1");
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
            let how = How {
                is_beside_passes,
                ..How::default()
            };
            assert_eq!(findings(&run, how).left.is_some(), expected, "{what}");
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
