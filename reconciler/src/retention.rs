//! Retention: deletes old records and allow lists, and replaces user ids by pseudonyms some time
//! after their drop was sealed. Open records (unresolved dead letters, firing alerts, mails that
//! may still be sent, open broken promises) are kept indefinitely.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;
use firstcome_shared::StoreError;
use firstcome_shared::columns::{At, Datetime};
use firstcome_shared::coupon::Drop;
use firstcome_shared::domain::{DropId, OncePer, Slot};
use firstcome_shared::mysql::{Db, DbError};
use firstcome_shared::redis::refusing::unless_missed;
use firstcome_shared::schema::issued_coupons;
use firstcome_shared::tuning::Tuning;

use crate::context::Stores;

/// Retention if `RETENTION_DAYS` is not set: a year, so that records of the last run of a yearly
/// campaign still exist.
const RETENTION_DAYS: u32 = 366;

/// How long an allow list is kept after its coupon is over.
pub(crate) const LISTS_KEPT: Duration = Duration::from_secs(7 * 86_400);

fn days_of(tuning: Tuning, days: u32) -> Duration {
    Duration::from_secs(tuning.or(u64::from(days) * 86_400))
}

/// A kind of old rows: the setting of its retention, the most days of that, and the statement that
/// deletes them. The statement uses the order of an index. A thousand rows per statement keep locks
/// short, and still allow deleting millions within a day.
type Old = (Tuning, u32, &'static str);

/// Records past their retention.
pub(crate) const OLD_RECORDS: [Old; 8] = [
    // Runs that have ended and are neither the last clean one nor one that another run or a level
    // refers to; first those that repeat the result of another run.
    (
        Tuning::CleanRunsKeptSeconds,
        1,
        "DELETE FROM reconcile_runs \
        WHERE started_at < ? AND same_as IS NOT NULL \
        AND status <> 'running' AND NOT id <=> (SELECT id FROM (SELECT id FROM reconcile_runs \
            WHERE status = 'clean' AND NOT dry_run ORDER BY started_at DESC LIMIT 1) l) \
        AND id NOT IN (SELECT same_as FROM (SELECT DISTINCT same_as FROM reconcile_runs \
            WHERE same_as IS NOT NULL) s) \
        AND id NOT IN (SELECT run_id FROM levels) ORDER BY started_at LIMIT 1000",
    ),
    (
        Tuning::RunsKeptSeconds,
        u32::MAX,
        "DELETE FROM reconcile_runs \
        WHERE started_at < ? \
        AND status <> 'running' AND NOT id <=> (SELECT id FROM (SELECT id FROM reconcile_runs \
            WHERE status = 'clean' AND NOT dry_run ORDER BY started_at DESC LIMIT 1) l) \
        AND id NOT IN (SELECT same_as FROM (SELECT DISTINCT same_as FROM reconcile_runs \
            WHERE same_as IS NOT NULL) s) \
        AND id NOT IN (SELECT run_id FROM levels) ORDER BY started_at LIMIT 1000",
    ),
    // Runs are deleted before their findings.
    (
        Tuning::RunsKeptSeconds,
        u32::MAX,
        "DELETE FROM reconcile_findings \
        WHERE created_at < ? \
        AND run_id NOT IN (SELECT id FROM reconcile_runs) ORDER BY created_at LIMIT 1000",
    ),
    (
        Tuning::AlertsKeptSeconds,
        90,
        "DELETE FROM told WHERE ended_at < ? \
        ORDER BY ended_at LIMIT 1000",
    ),
    (
        Tuning::MailsKeptSeconds,
        30,
        "DELETE FROM outbox WHERE sent_at < ? \
        ORDER BY sent_at LIMIT 1000",
    ),
    (
        Tuning::MailsKeptSeconds,
        30,
        "DELETE FROM outbox WHERE given_up_at < ? \
        AND sent_at IS NULL ORDER BY given_up_at LIMIT 1000",
    ),
    (
        Tuning::MailsKeptSeconds,
        30,
        "DELETE FROM repairs WHERE repaired_at < ? \
        ORDER BY repaired_at LIMIT 1000",
    ),
    (
        Tuning::RunsKeptSeconds,
        u32::MAX,
        "DELETE FROM ops_actions WHERE at < ? \
        ORDER BY at LIMIT 1000",
    ),
];

/// Resolved promises and dead letters past their retention.
pub(crate) const OLD_ENDS: [Old; 2] = [
    (
        Tuning::MendedPromisesKeptSeconds,
        u32::MAX,
        "DELETE FROM broken_promises \
        WHERE mended_at < ? \
        AND drop_id NOT IN (SELECT id FROM drops WHERE sealed_at IS NULL) \
        ORDER BY mended_at LIMIT 1000",
    ),
    (
        Tuning::FailedClaimsKeptSeconds,
        30,
        "DELETE FROM failed_claims \
        WHERE resolved_at < ? ORDER BY resolved_at LIMIT 1000",
    ),
];

/// Deletes what is past its retention, and at most `days` old.
pub(crate) async fn delete_old(db: &Db, old: &[Old], days: Option<u32>) -> Result<(), DbError> {
    let days = days.unwrap_or(RETENTION_DAYS);
    for (tuning, most, statement) in old {
        let before = db.time_before(days_of(*tuning, days.min(*most))).await?;
        let delete = sql_query(*statement).bind::<Datetime, _>(At(before));
        db.write("delete what is old", delete).await?;
    }
    Ok(())
}

/// Drops read at once.
const DROPS_AT_ONCE: i64 = 500;

/// A run reads no further page of drops once it has erased users in this many drops, or erased this
/// many users.
const DROPS_AT_MOST: usize = 10_000;
const USERS_AT_MOST: usize = 1_000_000;

/// Replaces the users and codes of drops sealed more than `days` ago by random texts, once neither
/// admission nor Redis needs the ids. If codes expire, they and the users stay for `days` after
/// that, too. If a coupon allows one per user in total, its rows keep their users until the coupon
/// is over, because they show who already has one. A run that reaches its limits leaves the rest to
/// the next one.
pub(crate) async fn erase_old_users(stores: &Stores, days: u32) -> Result<(), StoreError> {
    let db = &stores.db;
    let before = db
        .time_before(days_of(Tuning::PeopleKeptSeconds, days))
        .await?;
    let redis = &stores.redis;
    let mut over = HashMap::new();
    let mut after = DropId(0);
    let mut drops = 0;
    let mut users = 0;
    while drops < DROPS_AT_MOST && users < USERS_AT_MOST {
        let page = old_drops_with_users(db, before, after).await?;
        let Some(last) = page.last() else { break };
        after = last.drop.id;
        for OldDrop { drop, once_per } in page {
            let id = drop.id;
            let coupon = drop.coupon_id;
            let is_over = if let Some(known) = over.get(&coupon) {
                *known
            } else {
                let found = db.coupon(coupon).await?;
                found.is_some_and(|(coupon, drops)| coupon.is_over_for_good(&drops, Utc::now()))
            };
            over.insert(coupon, is_over);
            // A hash slot that is being moved is left to the next run.
            let state = unless_missed(redis.drop_state(&redis.keys(coupon, id)).await)?;
            let has_keys = state.is_none_or(|state| state.has_keys);
            if !has_keys && (is_over || once_per == OncePer::Drop) {
                // A drop of a coupon that goes on may keep ids and have nothing to erase for years.
                let erased = erase_holders(db, id).await? + erase_others(db, id, is_over).await?;
                drops += usize::from(erased > 0);
                users += erased;
            }
        }
    }
    if users > 0 {
        tracing::info!(drops, users, "users of drops that are long over are erased");
    }
    Ok(())
}

/// Slots processed per statement.
const SLOTS_AT_ONCE: Slot = 2_000;

/// Finds the next drops after `after` that closed and were sealed before this time, and are not
/// marked as erased. If codes expire, they must have expired before it, too, because a shop may ask
/// late about an order. A drop that a clock dates before its own closing counts from that.
async fn old_drops_with_users(
    db: &Db,
    before: DateTime<Utc>,
    after: DropId,
) -> Result<Vec<OldDrop>, DbError> {
    let old = sql_query(
        "SELECT d.*, c.once_per FROM drops d JOIN coupons c ON c.id = d.coupon_id \
         WHERE d.id > ? AND d.codes_erased_at IS NULL \
         AND GREATEST(d.sealed_at, COALESCE(d.closes_at, d.sealed_at)) \
             + INTERVAL COALESCE(c.valid_days, 0) DAY < ? \
         AND (c.valid_until IS NULL OR c.valid_until < ?) \
         ORDER BY d.id LIMIT ?",
    )
    .bind::<BigInt, _>(after)
    .bind::<Datetime, _>(At(before))
    .bind::<Datetime, _>(At(before))
    .bind::<BigInt, _>(DROPS_AT_ONCE);
    db.rows("old drops with people", old).await
}

/// A drop with the scope in which a user may hold one coupon.
#[derive(QueryableByName)]
struct OldDrop {
    #[diesel(embed)]
    drop: Drop,
    #[diesel(sql_type = Text)]
    once_per: OncePer,
}

/// Replaces the user ids and the codes in a sealed drop's rows by random texts. Each row gets
/// different ones, so that rows of the same user cannot be linked. Returns how many rows changed.
/// A code is derived from the id, so an attacker with the key could try ids until one matches. The
/// whole id is compared, because the id of a user may begin like a pseudonym.
async fn erase_holders(db: &Db, drop: DropId) -> Result<usize, DbError> {
    let last = issued_coupons::table
        .filter(issued_coupons::drop_id.eq(drop))
        .select(max(issued_coupons::slot));
    let last: Option<Slot> = db.row("last slot of a drop", last).await?.flatten();
    let mut erased = 0;
    for from in (0..last.unwrap_or(0)).step_by(SLOTS_AT_ONCE as usize) {
        // Skip a drop that a restored, older MySQL does not know as sealed: passes compare it with
        // Redis.
        let erase = sql_query(
            "UPDATE issued_coupons i JOIN drops d ON d.id = i.drop_id \
             SET i.user_id = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10)))), \
                 i.code = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10)))) \
             WHERE i.drop_id = ? AND i.slot > ? AND i.slot <= ? AND d.sealed_at IS NOT NULL \
             AND NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$')",
        )
        .bind::<BigInt, _>(drop)
        .bind::<Unsigned<Integer>, _>(from)
        .bind::<Unsigned<Integer>, _>(from.saturating_add(SLOTS_AT_ONCE));
        erased += db.write("erase holders", erase).await?;
    }
    Ok(erased)
}

/// Erases the ids in a drop's resolved broken promises and, if the coupon has ended, in its
/// revocations. Marks the drop as erased once no revocation names a user.
async fn erase_others(db: &Db, drop: DropId, coupon_is_over: bool) -> Result<usize, DbError> {
    db.transaction("erase people of a drop", async move |conn| {
        let promises = sql_query(
            "UPDATE broken_promises \
             SET user_id = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10)))), reason = 'erased' \
             WHERE drop_id = ? AND mended_at IS NOT NULL \
             AND NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$')",
        )
        .bind::<BigInt, _>(drop);
        let mut erased = promises.execute(conn).await?;
        if coupon_is_over {
            let revocations = sql_query(
                "UPDATE revoked_coupons \
                 SET user_id = CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10)))), reason = 'erased', \
                     code = IF(code IS NULL, NULL, CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))))), \
                     revoked_by = 'erased' \
                 WHERE drop_id = ? \
                 AND NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$')",
            )
            .bind::<BigInt, _>(drop);
            erased += revocations.execute(conn).await?;
        }
        let mark = sql_query(
            "UPDATE drops SET codes_erased_at = UTC_TIMESTAMP(3) \
             WHERE id = ? AND sealed_at IS NOT NULL AND NOT EXISTS (SELECT 1 FROM revoked_coupons \
                 WHERE drop_id = drops.id \
                 AND NOT (user_id LIKE 'erased-%' AND user_id REGEXP '^erased-[0-9a-f]{20}$'))",
        )
        .bind::<BigInt, _>(drop);
        mark.execute(conn).await?;
        Ok(erased)
    })
    .await
}
