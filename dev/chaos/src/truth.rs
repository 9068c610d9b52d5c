//! What the stores say in the end, read past the product and its proxies.

use std::collections::{BTreeMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};

use crate::inflict::pause;
use crate::stage::{Drop, Stage};

/// Fails with what is missing unless MySQL and Redis hold the same person on each slot 1..=quantity and nothing is left over.
pub async fn exact(stage: &Stage, quantity: u32) -> Result<()> {
    for drop in stage.drops() {
        exact_drop(stage, *drop, quantity).await?;
    }
    // Those of people who are listed by name stay for a person to look at.
    let left = "SELECT COUNT(*) FROM $db.failed_claims f WHERE resolved_at IS NULL AND NOT EXISTS
                (SELECT 1 FROM $db.broken_promises b WHERE b.drop_id = f.drop_id AND b.user_id = f.user_id)
                AND NOT EXISTS (SELECT 1 FROM $db.reconcile_findings r WHERE r.drop_id = f.drop_id
                AND r.user_id = f.user_id AND r.kind = 'failed_claim' AND r.needs_person)";
    let left = stage.sql(left).await?;
    ensure!(left[0][0] == "0", "{} failed claims are not resolved", left[0][0]);
    Ok(())
}

async fn exact_drop(stage: &Stage, drop: Drop, quantity: u32) -> Result<()> {
    let sql = format!("SELECT slot, user_id FROM $db.issued_coupons WHERE drop_id = {} ORDER BY slot", drop.id);
    let rows = stage.sql(&sql).await?;
    let rows: BTreeMap<u32, String> =
        rows.into_iter().map(|row| Ok((row[0].parse()?, row[1].clone()))).collect::<Result<_>>()?;
    ensure!(rows.keys().copied().eq(1..=quantity), "{} rows of {quantity}", rows.len());

    let mut conn = stage.ground.redis_connection().await?;
    let mut zrange = redis::cmd("ZRANGE");
    zrange.arg(stage.key(drop, "users")).arg(0).arg(-1).arg("WITHSCORES");
    let users: Vec<(String, u32)> = zrange.query_async(&mut conn).await?;
    let users: BTreeMap<u32, String> = users.into_iter().map(|(user, slot)| (slot, user)).collect();
    let differ = rows.iter().filter(|(slot, user)| users.get(slot) != Some(user)).count();
    ensure!(users.len() == rows.len() && differ == 0, "Redis has {} people, {differ} slots differ", users.len());
    let of = |name: &str| stage.key(drop, name);
    let count: Option<u32> = redis::cmd("GET").arg(of("count")).query_async(&mut conn).await?;
    ensure!(count == Some(quantity), "Redis counts {count:?} of {quantity}");
    let free: u32 = redis::cmd("ZCARD").arg(of("free")).query_async(&mut conn).await?;
    ensure!(free == 0, "{free} slots are free");
    Ok(())
}

/// Waits for a pass that began from now on, and fails unless one of them finds nothing before the deadline.
pub async fn clean(stage: &Stage, deadline: Instant) -> std::result::Result<(), String> {
    let told = |error: anyhow::Error| format!("{error:#}");
    // By their ids, since a process's clock may have been wrong when it noted when a run began.
    let begun: HashSet<String> =
        ids(stage).await.map_err(told)?.into_iter().map(|mut run| run.swap_remove(0)).collect();
    let mut last = "no pass began".to_owned();
    while Instant::now() < deadline {
        for run in ids(stage).await.map_err(told)?.iter().filter(|run| run[1] != "running" && !begun.contains(&run[0]))
        {
            if run[1] == "clean" || (run[1] == "drift" && only_listed(stage, &run[0]).await.map_err(told)?) {
                return Ok(());
            }
            last = format!("a pass was {} {}: {}", run[1], run[2], findings(stage, &run[0]).await);
        }
        pause(200).await;
    }
    Err(last)
}

/// What the reconciler wrote down, for whoever looks at a failure.
pub async fn notes(stage: &Stage) -> String {
    let mut notes = String::new();
    for (name, sql) in [
        (
            "runs",
            "SELECT started_at, finished_at, triggered_by, status, applied, failed, COALESCE(error, ''), id FROM $db.reconcile_runs WHERE status <> 'clean' ORDER BY started_at",
        ),
        (
            "findings",
            "SELECT MIN(created_at), MAX(created_at), COUNT(*), kind, COALESCE(drop_id, ''), COALESCE(slot, ''), COALESCE(user_id, ''), action, result, COALESCE(detail, '') FROM $db.reconcile_findings GROUP BY 4, 5, 6, 7, 8, 9, 10 ORDER BY 1",
        ),
        (
            "failed claims",
            "SELECT failed_at, COALESCE(drop_id, ''), COALESCE(slot, ''), COALESCE(user_id, ''), reason, COALESCE(claimed_at, ''), COALESCE(resolved_at, ''), COALESCE(resolution, ''), COALESCE(source_partition, ''), COALESCE(source_offset, '') FROM $db.failed_claims ORDER BY id",
        ),
        (
            "broken promises",
            "SELECT created_at, drop_id, COALESCE(slot, ''), user_id, reason, COALESCE(mended_at, '') FROM $db.broken_promises",
        ),
        (
            "rows",
            "SELECT drop_id, slot, user_id, claimed_at, issued_at, issued_by FROM $db.issued_coupons ORDER BY issued_at, drop_id, slot",
        ),
    ] {
        let _ = writeln!(notes, "--- {name}");
        match stage.sql(sql).await {
            Ok(rows) => rows.iter().for_each(|row| {
                let _ = writeln!(notes, "{}", row.join(" | "));
            }),
            Err(error) => {
                let _ = writeln!(notes, "{error:#}");
            }
        }
    }
    notes
}

/// Whether all that a run found are failed claims that it has named and left for a person.
async fn only_listed(stage: &Stage, run: &str) -> Result<bool> {
    let sql = format!(
        "SELECT COUNT(*) FROM $db.reconcile_findings WHERE run_id = '{run}'
         AND NOT (kind = 'failed_claim' AND needs_person AND user_id IS NOT NULL)"
    );
    Ok(stage.sql(&sql).await?.first().is_some_and(|row| row[0] == "0"))
}

async fn ids(stage: &Stage) -> Result<Vec<Vec<String>>> {
    stage.sql("SELECT id, status, COALESCE(error, '') FROM $db.reconcile_runs").await
}

async fn findings(stage: &Stage, run: &str) -> String {
    let sql = format!(
        "SELECT kind, COALESCE(slot, 0), COALESCE(user_id, ''), action, result, COALESCE(detail, '')
         FROM $db.reconcile_findings WHERE run_id = '{run}' LIMIT 5"
    );
    let rows = stage.sql(&sql).await.unwrap_or_default();
    rows.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join("; ")
}

/// Whom the system lists as having lost a promise, or as having another slot than they were told.
pub async fn listed(stage: &Stage, drop: Drop) -> Result<Vec<(String, Option<i64>)>> {
    let drop = drop.id;
    let broken = format!("SELECT user_id, COALESCE(slot, '') FROM $db.broken_promises WHERE drop_id = {drop}");
    // A conflict that was settled by moving somebody names them with the slot they had; a claim whose slot is another's and
    // for which none is left is named and left for a person.
    let moved = format!(
        "SELECT DISTINCT user_id, '' FROM $db.reconcile_findings WHERE drop_id = {drop} AND user_id IS NOT NULL
         AND ((kind IN ('slot_conflict', 'over_admitted') AND result = 'applied') OR (kind = 'failed_claim' AND needs_person)
         OR (kind = 'failed_claim' AND action = 'readmit' AND result = 'applied'))"
    );
    let mut listed = stage.sql(&broken).await?;
    listed.extend(stage.sql(&moved).await?);
    Ok(listed.into_iter().map(|row| (row[0].clone(), row[1].parse().ok())).collect())
}
