//! What a pass did, in MySQL: one row a run, and one a finding for all passes in a row that see it.
//! A drop without findings that did not change leaves nothing, so that the tables grow with what
//! happens, and not with passes and drops.

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

pub use read::{RunSummary, list, read};

/// How a run was asked for, as far as its report does not say.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    pub confirmed: bool,
    /// A reopening of the gate: a pass may be recorded at the same time.
    pub is_beside_passes: bool,
}

/// Records that a run begins, under the pass lock, and which operator asked for it.
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

/// Records how a run ended, with its findings; also where its beginning could not be recorded.
///
/// # Errors
/// [`DbError`]; nothing was recorded.
pub async fn finish(db: &Db, run: &Run, how: How) -> Result<(), DbError> {
    let finished_at = run.finished_at.unwrap_or_else(Utc::now);
    // The findings have rows of their own.
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

/// Most reports of drops kept with a run, some 4 MB of JSON: far below `max_allowed_packet`. All
/// findings are kept anyway.
const REPORTS_AT_MOST: usize = 10_000;

/// Something was found in the drop, it changed, or it is under way.
fn is_kept(drop: &DropReport) -> bool {
    !drop.findings.is_empty() || !drop.exact || drop.sealed || drop.before != drop.after
}

/// Notes which repairs of a drop were held back.
pub async fn hold_back(
    db: &Db,
    drop: DropId,
    repairs: ShownRepairs,
    run_id: &str,
    looked: bool,
) -> Result<(), DbError> {
    db.hold_back(drop, repairs, run_id, looked).await
}

/// Forgets repairs that were held back, of a drop that is within the limit.
pub async fn forget_held_back(db: &Db, drop: DropId) -> Result<(), DbError> {
    db.forget_held_back(drop).await
}

/// A pass that compared everything compares what it left with what the last one left, even if it
/// failed then, or could not read the topic. Repairs are events of their run; and so is what is
/// found in sealed drops, which the next pass does not look at.
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
            Some(left) if !sealed && finding.result != Outcome::Applied => left.push(row),
            _ => findings.own.push(row),
        }
    }
    findings
}

/// What a run says, hashed, without what changes by itself.
pub(crate) fn content(run: &Run) -> u64 {
    let mut found: Vec<i64> = run
        .all_findings()
        .map(|finding| finding_row("", finding).content())
        .collect();
    found.sort_unstable();
    let mut hasher = DefaultHasher::new();
    (run.status.as_str(), found).hash(&mut hasher);
    hasher.finish()
}

/// Has a run that is recorded end later. Gives whether there is such a run.
pub(crate) async fn prolong(db: &Db, run_id: &str, until: DateTime<Utc>) -> Result<bool, DbError> {
    db.prolong_run(run_id.to_owned(), until.naive_utc()).await
}

/// Deletes a bounded part of what passes left long ago.
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
        // A name that a hand wrote into a store may not fit the column. Its slot names it then.
        user_id: finding
            .user_id
            .clone()
            .filter(|name| name.is_ascii() && name.len() <= UserId::MAX_LEN),
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
    fn only_a_pass_that_compared_everything_says_what_is_not_there_any_more() {
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
