//! Reads recorded runs for the API.

use std::collections::HashMap;

use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::mysql::runs::{FindingRow, RunRow};
use firstcome_shared::mysql::{Db, DbError};

use crate::report::{
    ActionKind, Examined, Finding, FindingCase, Kind, Outcome, Run, Status, Trigger, Unlisted,
};

/// Returns a run with at most `limit` findings after the finding `after`, and the start of the next
/// page.
pub async fn read(
    db: &Db,
    id: String,
    limit: u32,
    after: i64,
) -> Result<Option<(Run, Option<i64>)>, DbError> {
    let Some((row, findings)) = db.run_with_findings(id, limit, after).await? else {
        return Ok(None);
    };
    let next = (findings.len() == limit as usize)
        .then(|| findings.last().map(|f| f.0))
        .flatten();
    Ok(Some((
        assemble(row, findings.into_iter().map(|(_, finding)| finding)),
        next,
    )))
}

fn assemble(row: RunRow, findings: impl Iterator<Item = FindingRow>) -> Run {
    // Parses an enum value. Replaces an unknown value, which another release wrote, with
    // `otherwise`.
    fn word<T: std::str::FromStr>(text: &str, otherwise: T) -> T {
        text.parse().unwrap_or(otherwise)
    }
    let mut run = Run {
        status: word(&row.status, Status::Failed),
        drops: row
            .drops
            .as_deref()
            .and_then(|json| serde_json::from_str(json).ok())
            .unwrap_or_default(),
        asked_by: row.asked_by,
        dry_run: row.dry_run,
        deep: row.deep,
        finished_at: row.finished_at.map(|at| at.and_utc()),
        error: row.error,
        ..Run::begun(
            &row.id,
            word(&row.triggered_by, Trigger::Cron),
            row.started_at.and_utc(),
        )
    };
    let (drops, listed) = run.examined();
    let less = |all: i64, listed: u64| u64::try_from(all).unwrap_or(0).saturating_sub(listed);
    run.unlisted = Unlisted {
        drops: u64::from(row.drops_examined).saturating_sub(drops),
        examined: Examined {
            users: less(row.users_examined, listed.users),
            rows: less(row.rows_examined, listed.rows),
            failed_claims: less(row.failed_claims_examined, listed.failed_claims),
        },
    };
    let places: HashMap<_, _> = run
        .drops
        .iter()
        .enumerate()
        .map(|(at, report)| (report.drop_id, at))
        .collect();
    for row in findings {
        let finding = Finding {
            kind: word(&row.kind, Kind::Stalled),
            coupon_id: row.coupon_id.map(CouponId),
            drop_id: row.drop_id.map(DropId),
            slot: row.slot,
            user_id: row.user_id,
            needs_person: row.needs_person,
            action: word(&row.action, ActionKind::Report),
            result: word(&row.result, Outcome::Skipped),
            detail: row.detail.unwrap_or_default(),
            dead_letter: row.dead_letter,
            trace_id: row.trace_id,
            case: FindingCase::Plain,
        };
        match finding.drop_id.and_then(|drop| places.get(&drop)) {
            Some(at) => run.drops[*at].findings.push(finding),
            None => run.findings.push(finding),
        }
    }
    run
}
