//! Reads the stores at the end, without using the product and its proxies.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Result, ensure};
use firstcome_testkit::MadeCoupon;

use crate::system::{SystemUnderTest, number};
use crate::wait::pause;

/// Fails unless MySQL and Redis have the same user on each slot 1..=quantity, no drop is sealed
/// early, and only an operator can resolve the remaining dead letters. The error names the
/// difference. If a coupon has an allow list, both must have the same list, and there may be fewer
/// users than slots.
pub async fn exact(system: &SystemUnderTest) -> Result<()> {
    for coupon in system.coupons() {
        let quantity = number(
            system,
            &format!("SELECT quantity FROM drops WHERE id = {}", coupon.drop),
        )
        .await?;
        if has_list(coupon) {
            same_list(system, coupon).await?;
            if is_short_of_people(system, coupon, quantity).await? {
                continue;
            }
        }
        firstcome_testkit::exact(
            &system.world.sql,
            &system.redis(),
            coupon,
            u32::try_from(quantity)?,
        )
        .await?;
    }
    let early = number(
        system,
        "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL AND closes_at > UTC_TIMESTAMP()",
    );
    ensure!(
        early.await? == 0,
        "a drop is sealed while its window is open"
    );
    no_orphans(system).await?;
    // Two kinds of dead letters are left for an operator: findings list the users of the first kind
    // by name, and report only the number of the second.
    let left = "SELECT COUNT(*) FROM failed_claims f WHERE resolved_at IS NULL AND NOT EXISTS
                (SELECT 1 FROM broken_promises b WHERE b.drop_id = f.drop_id AND b.user_id = f.user_id)
                AND NOT EXISTS (SELECT 1 FROM reconcile_findings r WHERE r.drop_id = f.drop_id
                AND r.user_id = f.user_id AND r.kind = 'failed_claim' AND r.needs_person)";
    let left = number(system, left).await?;
    let counted = counted_by_findings(system).await?;
    ensure!(
        left <= counted,
        "{left} failed claims are not resolved, but findings count {counted}"
    );
    Ok(())
}

/// Fails if a row or a drop's users in Redis have no drop in MySQL, or if a coupon has more rows of
/// one date than its drop of that date has slots.
async fn no_orphans(system: &SystemUnderTest) -> Result<()> {
    let rows = "SELECT COUNT(*) FROM issued_coupons i LEFT JOIN drops d ON d.id = i.drop_id WHERE d.id IS NULL";
    ensure!(number(system, rows).await? == 0, "rows without their drop");
    let days = "SELECT COUNT(*) FROM (SELECT d.coupon_id FROM drops d JOIN issued_coupons i ON i.drop_id = d.id \
                GROUP BY d.coupon_id, d.local_date HAVING COUNT(*) > MAX(d.quantity)) days";
    ensure!(
        number(system, days).await? == 0,
        "a day was given out twice"
    );
    if system.single().is_err() {
        return Ok(());
    }
    let redis = system.redis();
    let keys: Vec<String> = redis.try_command(&["KEYS", &redis.own("*:users")]).await?;
    for key in keys {
        let drop = key.rsplit(':').nth(1).unwrap_or_default();
        let known = format!("SELECT COUNT(*) FROM drops WHERE id = {drop}");
        ensure!(number(system, &known).await? == 1, "{key} has no drop");
    }
    Ok(())
}

/// Sums the numbers of dead letters that findings report without names.
async fn counted_by_findings(system: &SystemUnderTest) -> Result<u64> {
    let sql = "SELECT COALESCE(drop_id, 0), detail FROM reconcile_findings
               WHERE kind = 'failed_claim' AND needs_person AND user_id IS NULL ORDER BY created_at";
    let of_drops: HashMap<String, u64> = system
        .world
        .sql
        .rows(sql)
        .await?
        .into_iter()
        .map(|row| (row[0].clone(), counted(&row[1])))
        .collect();
    Ok(of_drops.values().sum())
}

/// Sums the counts in "more failed claims are left for a person: 3 because …; 2 wait …".
fn counted(detail: &str) -> u64 {
    let reasons = detail
        .split_once(": ")
        .map_or("", |(_, reasons)| reasons)
        .split("; ");
    reasons
        .filter_map(|reason| reason.split(' ').next()?.parse::<u64>().ok())
        .sum()
}

/// Whether a coupon has an allow list.
pub(crate) fn has_list(coupon: &MadeCoupon) -> bool {
    coupon.body["allow"] == "list"
}

/// Fails unless MySQL and Redis have the same allow list with the same revision.
async fn same_list(system: &SystemUnderTest, coupon: &MadeCoupon) -> Result<()> {
    let sql = &system.world.sql;
    let redis = system.redis();
    let id = coupon.id;
    let own = |name: &str| redis.own(&format!("{{{id}}}:{name}"));
    let listed = sql
        .rows(&format!(
            "SELECT user_id FROM coupon_allow_list WHERE coupon_id = {id}"
        ))
        .await?;
    let listed: HashSet<String> = listed.into_iter().flatten().collect();
    let members: HashSet<String> = redis.try_command(&["SMEMBERS", &own("allowed")]).await?;
    let differ = listed.symmetric_difference(&members).count();
    ensure!(
        differ == 0,
        "{differ} users are only on one of the allow lists of MySQL and Redis"
    );
    let state = format!(
        "SELECT CONCAT(allow_list_revision, ':', allow_list_people) FROM coupons WHERE id = {id}"
    );
    let state = sql.rows(&state).await?.swap_remove(0).swap_remove(0);
    let known: Option<String> = redis.try_command(&["GET", &own("allow_list")]).await?;
    ensure!(
        known.as_ref() == Some(&state),
        "the allow list is {known:?} in Redis and {state} in MySQL"
    );
    Ok(())
}

/// Whether slots are left because every listed user has one, except revoked users, and nobody
/// waits. Fails if the stores disagree about the holders or a listed user has no slot. Revoked
/// users are excepted because a frozen process may resume a revocation that was abandoned and
/// repeated. It then revokes a later claim of a user who has stopped claiming.
async fn is_short_of_people(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    quantity: u64,
) -> Result<bool> {
    let redis = system.redis();
    let MadeCoupon { id, drop, .. } = coupon;
    let given = firstcome_testkit::agreed(&system.world.sql, &redis, coupon)
        .await?
        .len() as u64;
    if given >= quantity {
        return Ok(false);
    }
    let without = format!(
        "SELECT COUNT(*) FROM coupon_allow_list a WHERE a.coupon_id = {id}
         AND NOT EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = {drop} AND i.user_id = a.user_id)
         AND NOT EXISTS (SELECT 1 FROM revoked_coupons r WHERE r.coupon_id = {id} AND r.user_id = a.user_id)"
    );
    let without = number(system, &without).await?;
    let waiting: u64 = redis
        .try_command(&["ZCARD", &redis.of_drop(*id, *drop, "waiting")])
        .await?;
    ensure!(
        without == 0 && waiting == 0,
        "{given} of {quantity} slots are given, while {without} users on the allow list have none and {waiting} wait"
    );
    Ok(true)
}

/// Counts failed claims, and rows that the consumer did not write.
pub async fn not_by_consumer(system: &SystemUnderTest) -> Result<u64> {
    let others = "SELECT (SELECT COUNT(*) FROM issued_coupons WHERE issued_by <> 'consumer') + (SELECT COUNT(*) FROM failed_claims)";
    number(system, others).await
}

/// Waits until a pass that began after this call finds nothing. Fails after the deadline.
pub async fn clean(system: &SystemUnderTest, deadline: Instant) -> std::result::Result<(), String> {
    let text = |error: anyhow::Error| format!("{error:#}");
    // Runs are compared by ID, because the clock of a process may have been wrong when it recorded
    // the start of a run.
    let begun: HashSet<String> = ids(system)
        .await
        .map_err(text)?
        .into_iter()
        .map(|mut run| run.swap_remove(0))
        .collect();
    let mut last = "no pass began".to_owned();
    while Instant::now() < deadline {
        for run in ids(system)
            .await
            .map_err(text)?
            .iter()
            .filter(|run| run[1] != "running" && !begun.contains(&run[0]))
        {
            if run[1] == "clean"
                || (run[1] == "drift" && only_listed(system, &run[0]).await.map_err(text)?)
            {
                return Ok(());
            }
            last = format!(
                "a pass was {} {}: {}",
                run[1],
                run[2],
                findings(system, &run[0]).await
            );
        }
        pause(200).await;
    }
    Err(last)
}

/// Returns the contents of the tables, for the analysis of a failure.
pub async fn notes(system: &SystemUnderTest) -> String {
    let mut notes = String::new();
    for (name, sql) in [
        (
            "runs",
            "SELECT started_at, finished_at, triggered_by, status, applied, failed, COALESCE(error, ''), id FROM reconcile_runs WHERE status <> 'clean' ORDER BY started_at",
        ),
        (
            "findings",
            "SELECT MIN(created_at), MAX(created_at), COUNT(*), kind, COALESCE(drop_id, ''), COALESCE(slot, ''), COALESCE(user_id, ''), action, result, COALESCE(detail, '') FROM reconcile_findings GROUP BY 4, 5, 6, 7, 8, 9, 10 ORDER BY 1",
        ),
        (
            "failed claims",
            "SELECT failed_at, COALESCE(drop_id, ''), COALESCE(slot, ''), COALESCE(user_id, ''), reason, COALESCE(claimed_at, ''), COALESCE(resolved_at, ''), COALESCE(resolution, ''), COALESCE(source_partition, ''), COALESCE(source_offset, '') FROM failed_claims ORDER BY id",
        ),
        (
            "broken promises",
            "SELECT created_at, drop_id, COALESCE(slot, ''), user_id, reason, COALESCE(mended_at, '') FROM broken_promises",
        ),
        (
            "rows",
            "SELECT drop_id, slot, user_id, claimed_at, issued_at, issued_by FROM issued_coupons ORDER BY issued_at, drop_id, slot",
        ),
    ] {
        let _ = writeln!(notes, "--- {name}");
        match system.world.sql.rows(sql).await {
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

/// Whether a run found only drift that is left for an operator: failed claims of named users, the
/// number of further ones, users whom a rebuild did not restore, and positions that were moved,
/// which passes report for an hour. The checker judges the promises.
async fn only_listed(system: &SystemUnderTest, run: &str) -> Result<bool> {
    let sql = format!(
        "SELECT COUNT(*) FROM {} AND NOT (kind = 'failed_claim' AND user_id IS NOT NULL AND (needs_person OR EXISTS \
         (SELECT 1 FROM broken_promises b WHERE b.drop_id = f.drop_id AND b.user_id = f.user_id))) \
         AND NOT (kind = 'failed_claim' AND needs_person AND detail LIKE 'more failed claims%') \
         AND NOT (kind = 'redis_lost' AND needs_person AND action = 'report' AND f.drop_id IS NOT NULL) \
         AND NOT (kind = 'stalled' AND f.drop_id IS NULL AND EXISTS (SELECT 1 FROM topic_positions WHERE fault IS NOT NULL))",
        of_run(run)
    );
    Ok(number(system, &sql).await? == 0)
}

/// Selects the findings of a run: those that it wrote, and those that an earlier full pass wrote.
fn of_run(run: &str) -> String {
    format!(
        "reconcile_findings f JOIN reconcile_runs r ON r.id = '{run}' WHERE (f.run_id = r.id
         OR (f.seen_from <= r.number AND (f.seen_to IS NULL OR f.seen_to > r.number)))"
    )
}

async fn ids(system: &SystemUnderTest) -> Result<Vec<Vec<String>>> {
    system
        .world
        .sql
        .rows("SELECT id, status, COALESCE(error, '') FROM reconcile_runs")
        .await
}

async fn findings(system: &SystemUnderTest, run: &str) -> String {
    let sql = format!(
        "SELECT kind, COALESCE(slot, 0), COALESCE(user_id, ''), action, result, COALESCE(detail, '') FROM {} LIMIT 5",
        of_run(run)
    );
    match system.world.sql.rows(&sql).await {
        Ok(rows) => rows
            .iter()
            .map(|row| row.join(" "))
            .collect::<Vec<_>>()
            .join("; "),
        Err(error) => format!("its findings could not be read: {error:#}"),
    }
}

/// Whether the latest run holds back repairs until a person confirms them.
pub async fn waits_for_person(system: &SystemUnderTest) -> Result<bool> {
    let latest = "SELECT COUNT(*) FROM (SELECT status FROM reconcile_runs WHERE finished_at IS NOT NULL \
                  ORDER BY number DESC LIMIT 1) latest WHERE status = 'braked'";
    Ok(number(system, latest).await? > 0)
}

/// Returns the users whom the system lists: users who lost a promise, and users who got a different
/// slot than promised. If an older state was put into a running Redis, a user may also have claimed
/// another slot, and the dead letter of the first one names that user.
pub async fn listed(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    was_put_back: bool,
) -> Result<Vec<(String, Option<i64>)>> {
    let drop = coupon.drop;
    let broken =
        format!("SELECT user_id, COALESCE(slot, '') FROM broken_promises WHERE drop_id = {drop}");
    // One finding names a user who was moved because of a conflict, with the earlier slot. Another
    // names a user whose slot is taken while none is left, and leaves the claim for an operator.
    let moved = format!(
        "SELECT DISTINCT user_id, '' FROM reconcile_findings r WHERE drop_id = {drop} AND user_id IS NOT NULL
         AND ((kind IN ('slot_conflict', 'over_admitted') AND result = 'applied')
         OR (kind = 'failed_claim' AND needs_person AND EXISTS (SELECT 1 FROM failed_claims c
             WHERE c.drop_id = r.drop_id AND c.user_id = r.user_id AND c.resolved_at IS NULL))
         OR (kind = 'failed_claim' AND action = 'readmit' AND result = 'applied'))"
    );
    // A pass names the users of the first failed claims, and reports the number of further ones.
    let further = format!(
        "SELECT DISTINCT user_id, '' FROM failed_claims WHERE drop_id = {drop} AND user_id IS NOT NULL AND resolved_at IS NULL
         AND EXISTS (SELECT 1 FROM reconcile_findings WHERE drop_id = {drop} AND kind = 'failed_claim' AND needs_person
         AND detail LIKE 'more failed claims%')"
    );
    let mut listed = system.world.sql.rows(&broken).await?;
    listed.extend(system.world.sql.rows(&moved).await?);
    listed.extend(system.world.sql.rows(&further).await?);
    if was_put_back {
        let claimed_again = format!(
            "SELECT user_id, slot FROM failed_claims f WHERE drop_id = {drop} AND (resolution = 'duplicate'
             OR resolution = 'issued' AND EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = f.drop_id
             AND i.user_id = f.user_id AND i.slot <> f.slot))"
        );
        listed.extend(system.world.sql.rows(&claimed_again).await?);
    }
    Ok(listed
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().ok()))
        .collect())
}
