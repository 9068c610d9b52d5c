//! Reads Redis and MySQL at the end, directly instead of through the product or the proxies.

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use firstcome_harness::{MadeCoupon, try_rows};

use crate::clients::{ChaosUser, HeldSlot};
use crate::excuses::Excuses;
use crate::facts::{LeftFinding, OpenLetter, Owed};
use crate::fault::GarbagePlace::Garbled;
use crate::schedule::FaultSchedule;
use crate::system::SystemUnderTest;
use crate::wait::pause;

/// Fails unless MySQL and Redis have the same user on each slot 1..=quantity of the last drop of each
/// coupon, closed drops are sealed and no others, and every dead letter is resolved or excused. The
/// error names the difference. If a coupon has an allow list, both must have the same list, and there
/// may be fewer users than slots.
pub(crate) async fn exact(system: &SystemUnderTest, excuses: &Excuses) -> Result<()> {
    let owed = owed(system).await?;
    let letters = open_letters(system).await?;
    let (over, last) = system.by_end();
    for MadeCoupon { drop, .. } in over {
        // A pass seals a drop only once it is exact. Nobody reads its keys afterwards.
        let sealed =
            format!("SELECT COUNT(*) FROM drops WHERE id = {drop} AND sealed_at IS NOT NULL");
        let is_sealed = system.number(&sealed).await? == 1;
        let has_letter = letters.iter().any(|letter| letter.drop == Some(*drop));
        ensure!(
            is_sealed || has_letter,
            "the closed drop {drop} is not sealed"
        );
    }
    for coupon in last {
        let quantity = system
            .number(&format!(
                "SELECT quantity FROM drops WHERE id = {}",
                coupon.drop
            ))
            .await?;
        if has_list(coupon) {
            same_list(system, coupon).await?;
            if is_short_of_people(system, coupon, quantity, excuses).await? {
                continue;
            }
        }
        firstcome_harness::exact(
            &system.world.sql,
            &system.redis(),
            coupon,
            u32::try_from(quantity)?,
        )
        .await?;
    }
    let early = system.number(
        "SELECT COUNT(*) FROM drops WHERE sealed_at IS NOT NULL AND closes_at > UTC_TIMESTAMP()",
    );
    ensure!(
        early.await? == 0,
        "a drop is sealed while its window is open"
    );
    no_orphans(system).await?;
    for letter in letters {
        ensure!(
            excuses.open_letter(&letter, &owed),
            "a failed claim is not resolved: {letter:?}"
        );
    }
    Ok(())
}

/// Whether a dead letter lists unreadable offsets, or the broker has cut them off: garbled data that
/// is gone without a dead letter was cut off with its batch and all later ones.
pub(crate) async fn is_unreadable(system: &SystemUnderTest) -> Result<bool> {
    let listed = "SELECT COUNT(*) FROM failed_claims WHERE reason = 'unreadable'";
    let listed = system.number(listed).await?;
    let garbage = system.garbage.lock();
    Ok(listed > 0 || garbage.iter().any(|(_, it)| matches!(it, Garbled(_))))
}

/// Returns the users in `broken_promises`.
pub(crate) async fn owed(system: &SystemUnderTest) -> Result<Owed> {
    let rows = system
        .world
        .sql
        .rows("SELECT drop_id, user_id FROM broken_promises")
        .await?;
    let owed = rows
        .into_iter()
        .map(|row| Ok((row[0].parse()?, row[1].clone())));
    owed.collect()
}

/// Returns the rows that users see: of the last drop or, with one per coupon, of all drops.
pub(crate) async fn rows(
    system: &SystemUnderTest,
    schedule: &FaultSchedule,
) -> Result<HashMap<ChaosUser, HeldSlot>> {
    let numbers = (0..schedule.people).map(|number| (schedule.user_id(number), number));
    let numbers: HashMap<String, u32> = numbers.collect();
    let mut slots = HashMap::new();
    let coupons = system.coupons().len();
    let drops = system.drops().iter().enumerate();
    let earlier = system.by_end().0.len() * usize::from(schedule.once_per != "coupon");
    for (at, coupon) in drops.skip(earlier) {
        for (slot, user) in try_rows(&system.world.sql, coupon.drop).await? {
            let number = numbers.get(&user).context("a row of an unknown user")?;
            slots.insert((at % coupons, *number), (coupon.drop, slot.into()));
        }
    }
    Ok(slots)
}

async fn open_letters(system: &SystemUnderTest) -> Result<Vec<OpenLetter>> {
    let open = "SELECT drop_id, user_id FROM failed_claims WHERE resolved_at IS NULL";
    let rows = system.world.sql.rows(open).await?.into_iter();
    let letters = rows.map(|row| OpenLetter {
        drop: row[0].parse().ok(),
        user: known(&row[1]),
    });
    Ok(letters.collect())
}

/// Returns `None` for the text `NULL`, which stands for null, otherwise the text.
fn known(text: &str) -> Option<String> {
    (text != "NULL").then(|| text.to_owned())
}

/// Fails if a row or a drop's users in Redis have no drop in MySQL, or if a coupon has more rows of
/// one date than its drop of that date has slots.
async fn no_orphans(system: &SystemUnderTest) -> Result<()> {
    let rows = "SELECT COUNT(*) FROM issued_coupons i LEFT JOIN drops d ON d.id = i.drop_id WHERE d.id IS NULL";
    ensure!(system.number(rows).await? == 0, "rows without their drop");
    let days = "SELECT COUNT(*) FROM (SELECT d.coupon_id FROM drops d JOIN issued_coupons i ON i.drop_id = d.id \
                GROUP BY d.coupon_id, d.local_date HAVING COUNT(*) > MAX(d.quantity)) days";
    ensure!(system.number(days).await? == 0, "a day was given out twice");
    let redis = system.redis();
    let keys: Vec<String> = redis.try_command(&["KEYS", &redis.own("*:users")]).await?;
    for key in keys {
        let drop = key.rsplit(':').nth(1).unwrap_or_default();
        let known = format!("SELECT COUNT(*) FROM drops WHERE id = {drop}");
        ensure!(system.number(&known).await? == 1, "{key} has no drop");
    }
    Ok(())
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
    let listed = sql
        .rows(&format!(
            "SELECT user_id FROM coupon_allow_list WHERE coupon_id = {id}"
        ))
        .await?;
    let listed: HashSet<String> = listed.into_iter().flatten().collect();
    let allowed = redis.of_coupon(id, "allowed");
    let members: HashSet<String> = redis.try_command(&["SMEMBERS", &allowed]).await?;
    let differ = listed.symmetric_difference(&members).count();
    ensure!(
        differ == 0,
        "{differ} users are only on one of the allow lists of MySQL and Redis"
    );
    let state = format!(
        "SELECT CONCAT(allow_list_revision, ':', allow_list_people) FROM coupons WHERE id = {id}"
    );
    let state = sql.rows(&state).await?.swap_remove(0).swap_remove(0);
    let allow_list = redis.of_coupon(id, "allow_list");
    let known: Option<String> = redis.try_command(&["GET", &allow_list]).await?;
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
    excuses: &Excuses,
) -> Result<bool> {
    let redis = system.redis();
    let MadeCoupon { id, drop, .. } = coupon;
    let given = firstcome_harness::agreed(&system.world.sql, &redis, coupon)
        .await?
        .len() as u64;
    if given >= quantity {
        return Ok(false);
    }
    let counts = if coupon.body["once_per"] == "coupon" {
        format!("i.coupon_id = {id}")
    } else {
        format!("i.drop_id = {drop}")
    };
    let without = format!(
        "SELECT COUNT(*) FROM coupon_allow_list a WHERE a.coupon_id = {id}
         AND NOT EXISTS (SELECT 1 FROM issued_coupons i WHERE {counts} AND i.user_id = a.user_id)
         AND NOT EXISTS (SELECT 1 FROM revoked_coupons r WHERE r.coupon_id = {id} AND r.user_id = a.user_id)"
    );
    let without = system.number(&without).await?;
    let waiting: u64 = redis
        .try_command(&["ZCARD", &redis.of_drop(*id, *drop, "waiting")])
        .await?;
    ensure!(
        (without == 0 || excuses.no_slot()) && waiting == 0,
        "{given} of {quantity} slots are given, while {without} users on the allow list have none and {waiting} wait"
    );
    Ok(true)
}

/// Counts failed claims, and rows that the consumer did not write.
pub(crate) async fn not_by_consumer(system: &SystemUnderTest) -> Result<u64> {
    let others = "SELECT (SELECT COUNT(*) FROM issued_coupons WHERE issued_by <> 'consumer') + (SELECT COUNT(*) FROM failed_claims)";
    system.number(others).await
}

/// Returns the IDs of all passes that have begun. Passes are compared by ID, because the clock of a
/// process may have been wrong when it recorded the start of one.
pub(crate) async fn begun_passes(system: &SystemUnderTest) -> Result<HashSet<String>> {
    let begun = "SELECT id FROM reconcile_runs";
    let begun = system.world.sql.rows(begun).await?;
    Ok(begun.into_iter().flatten().collect())
}

/// Waits for a full pass that began after this call. Returns a description of the first pass with a
/// result that is not excused, except the `earlier` ones. Fails if no pass ends before the deadline.
pub(crate) async fn unclean_pass(
    system: &SystemUnderTest,
    earlier: &HashSet<String>,
    deadline: Instant,
    excuses: &Excuses,
) -> Result<Option<String>> {
    let begun = begun_passes(system).await?;
    // A pass that failed may have examined only some drops.
    let ended = "SELECT id, status, COALESCE(error, ''), \
                 drops_examined >= (SELECT COUNT(*) FROM drops WHERE sealed_at IS NULL) \
                 FROM reconcile_runs WHERE status <> 'running'";
    while Instant::now() < deadline {
        let ended = system.world.sql.rows(ended).await?;
        for run in ended.iter().filter(|run| !earlier.contains(&run[0])) {
            let [id, status, error] = [&run[0], &run[1], &run[2]];
            let is_drift = status == "drift";
            if status == "clean" || (is_drift && is_excused(system, id, excuses).await?) {
                continue;
            }
            let found = findings(system, id, "kind, slot, user_id, result, detail").await?;
            let found: Vec<String> = found.iter().take(5).map(|row| row.join(" ")).collect();
            let found = found.join("; ");
            return Ok(Some(format!("a pass was {status} {error}: {found}")));
        }
        if ended
            .iter()
            .any(|run| !begun.contains(&run[0]) && run[3] == "1")
        {
            return Ok(None);
        }
        pause(200).await;
    }
    bail!("no pass began and ended")
}

/// Returns the contents of the tables, for the analysis of a failure.
#[rustfmt::skip]
pub(crate) async fn notes(system: &SystemUnderTest) -> String {
    let mut notes = String::new();
    for (table, columns, others) in [
        ("reconcile_runs", "started_at, finished_at, triggered_by, status, applied, failed, error, id", "WHERE status <> 'clean' ORDER BY started_at"),
        ("reconcile_findings", "MIN(created_at), MAX(created_at), COUNT(*), kind, drop_id, slot, user_id, action, result, detail", "GROUP BY 4, 5, 6, 7, 8, 9, 10 ORDER BY 1"),
        ("failed_claims", "failed_at, drop_id, slot, user_id, reason, claimed_at, resolved_at, resolution, source_partition, source_offset", "ORDER BY id"),
        ("broken_promises", "created_at, drop_id, slot, user_id, reason, mended_at", ""),
        ("issued_coupons", "drop_id, slot, user_id, claimed_at, issued_at, issued_by", "ORDER BY issued_at, drop_id, slot"),
    ] {
        let sql = format!("SELECT {columns} FROM {table} {others}");
        let _ = writeln!(notes, "--- {table}");
        match system.world.sql.rows(&sql).await {
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

/// Whether a run has findings and all of them are excused.
async fn is_excused(system: &SystemUnderTest, run: &str, excuses: &Excuses) -> Result<bool> {
    let owed = owed(system).await?;
    let found = findings(system, run, "kind, f.drop_id, user_id").await?;
    let found = found.into_iter().map(|row| LeftFinding {
        kind: row[0].clone(),
        drop: row[1].parse().ok(),
        user: known(&row[2]),
    });
    Ok(excuses.findings(&found.collect::<Vec<_>>(), &owed))
}

/// Returns columns of the findings of a run, which an earlier run with the same result may have
/// written.
async fn findings(system: &SystemUnderTest, run: &str, columns: &str) -> Result<Vec<Vec<String>>> {
    let found = format!(
        "SELECT {columns} FROM reconcile_findings f JOIN reconcile_runs r ON r.id = '{run}' AND f.run_id = COALESCE(r.same_as, r.id)"
    );
    system.world.sql.rows(&found).await
}

/// Whether the latest run holds back repairs until an operator confirms them.
pub(crate) async fn waits_for_person(system: &SystemUnderTest) -> Result<bool> {
    let latest = "SELECT COUNT(*) FROM (SELECT status FROM reconcile_runs WHERE finished_at IS NOT NULL \
                  ORDER BY started_at DESC LIMIT 1) latest WHERE status = 'braked'";
    Ok(system.number(latest).await? > 0)
}

/// Returns the users whom the system lists by name, with the promised slot: those of
/// `broken_promises`, and those who claimed a second slot if this is excused.
pub(crate) async fn listed(
    system: &SystemUnderTest,
    coupon: &MadeCoupon,
    excuses: &Excuses,
) -> Result<Vec<(String, Option<i64>)>> {
    let drop = coupon.drop;
    let broken =
        format!("SELECT user_id, COALESCE(slot, '') FROM broken_promises WHERE drop_id = {drop}");
    let second_claims = format!(
        "SELECT user_id, slot FROM failed_claims f WHERE drop_id = {drop} AND (resolution = 'duplicate'
         OR resolution = 'issued' AND EXISTS (SELECT 1 FROM issued_coupons i WHERE i.drop_id = f.drop_id
         AND i.user_id = f.user_id AND i.slot <> f.slot))"
    );
    let mut listed = system.world.sql.rows(&broken).await?;
    let second_claims = system.world.sql.rows(&second_claims).await?;
    if !second_claims.is_empty() && excuses.second_claim() {
        listed.extend(second_claims);
    }
    Ok(listed
        .into_iter()
        .map(|row| (row[0].clone(), row[1].parse().ok()))
        .collect())
}
