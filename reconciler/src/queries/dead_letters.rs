//! Dead letters, as passes read and resolve them.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::RunQueryDsl;
use firstcome_shared::domain::{CouponId, DropId, UserId};
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::{Conn, Db, DbResult, json};
use firstcome_shared::schema::{drops, failed_claims};
use serde::Serialize;

use super::Scope;

/// Reads the unresolved dead letters of a drop in a range of slots, in order of slot. At most a
/// hundred per slot are read, because at most one of them is issued and a flood must not delay
/// other slots. Older ones come first, but those whose only evidence is a message come last, so
/// that they cannot displace others.
pub(crate) async fn dead_letters_on_slots(
    db: &Db,
    coupon: CouponId,
    drop: DropId,
    slots: RangeInclusive<i64>,
) -> DbResult<Vec<DeadLetterRow>> {
    let first = sql_query(
        "SELECT f.id, f.coupon_id, f.drop_id, f.slot, f.user_id, f.claimed_at, f.reason, \
             f.error, f.failed_at, f.resolved_at, f.resolution, f.resolution_detail, \
             f.source_partition, f.source_offset \
         FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY slot \
                 ORDER BY source_partition IS NOT NULL AND reason <> 'corrected', id) AS place \
             FROM failed_claims WHERE resolved_at IS NULL AND drop_id = ? \
             AND slot BETWEEN ? AND ? AND COALESCE(coupon_id = ?, TRUE)) w \
         JOIN failed_claims f ON f.id = w.id WHERE w.place <= 100 ORDER BY f.slot, w.place",
    )
    .bind::<BigInt, _>(drop)
    .bind::<BigInt, _>(*slots.start())
    .bind::<BigInt, _>(*slots.end())
    .bind::<BigInt, _>(coupon);
    let db = db.within(LONG);
    db.rows("read dead letters", first).await
}

/// Reads the unresolved dead letters of a drop that name no slot: at most a thousand with a user,
/// and a few without one.
pub(crate) async fn dead_letters_beside_slots(
    db: &Db,
    coupon: CouponId,
    drop: DropId,
) -> DbResult<Vec<DeadLetterRow>> {
    let has_no_slot = failed_claims::slot
        .is_null()
        .or(failed_claims::slot.lt(Some(1)));
    let beside = failed_claims::table
        .filter(failed_claims::resolved_at.is_null())
        .filter(failed_claims::drop_id.eq(drop))
        .filter(has_no_slot)
        .filter(
            failed_claims::coupon_id
                .is_null()
                .or(failed_claims::coupon_id.eq(coupon)),
        )
        .select(DeadLetterRow::as_select());
    let named = beside
        .filter(failed_claims::user_id.is_not_null())
        .limit(1_000);
    let nameless = beside.filter(failed_claims::user_id.is_null()).limit(10);
    let db = db.within(LONG);
    let what = "read dead letters beside the slots";
    let mut all: Vec<DeadLetterRow> = db.rows(what, named).await?;
    all.extend(db.rows::<DeadLetterRow, _>(what, nameless).await?);
    Ok(all)
}

/// Returns those of these dead letters that are unresolved.
pub(crate) async fn open_dead_letters(db: &Db, ids: Vec<i64>) -> DbResult<HashSet<i64>> {
    let open = failed_claims::table
        .filter(failed_claims::id.eq_any(ids))
        .filter(failed_claims::resolved_at.is_null())
        .select(failed_claims::id);
    let open = db.rows("read open dead letters", open).await?;
    Ok(open.into_iter().collect())
}

/// Counts the unresolved dead letters that name no drop in which a pass could issue them, or a
/// sealed drop and no user. Also reads up to ten of them.
pub(crate) async fn loose_dead_letters(
    db: &Db,
    scope: Scope,
) -> DbResult<(u64, Vec<DeadLetterRow>)> {
    let loose = || {
        let is_loose = drops::id
            .nullable()
            .is_null()
            .or(failed_claims::coupon_id
                .ne(drops::coupon_id.nullable())
                .assume_not_null())
            .or(drops::sealed_at
                .is_not_null()
                .and(failed_claims::user_id.is_null()));
        let mut loose = failed_claims::table
            .left_join(drops::table.on(drops::id.nullable().eq(failed_claims::drop_id)))
            .filter(failed_claims::resolved_at.is_null())
            .filter(is_loose)
            .into_boxed();
        if let Some(coupon) = scope.coupon {
            let names_it = failed_claims::coupon_id
                .eq(Some(coupon))
                .or(drops::coupon_id.nullable().eq(Some(coupon)));
            loose = loose.filter(names_it);
        }
        if let Some(drop) = scope.drop {
            loose = loose.filter(failed_claims::drop_id.eq(Some(drop)));
        }
        loose
    };
    let db = db.within(LONG);
    let number: Option<i64> = db.row("count loose dead letters", loose().count()).await?;
    let some = loose().limit(10).select(DeadLetterRow::as_select());
    let some = db.rows("read loose dead letters", some).await?;
    Ok((number.unwrap_or(0).cast_unsigned(), some))
}

/// Reads a user's dead letters of one coupon: the open ones, then resolved ones, each newest
/// first.
pub(crate) async fn dead_letters_of_user(
    db: &Db,
    coupon: CouponId,
    user: &UserId,
    limit: u32,
) -> DbResult<Vec<DeadLetterRow>> {
    let own = failed_claims::table
        .filter(failed_claims::coupon_id.eq(coupon))
        .filter(failed_claims::user_id.eq(user.clone()))
        .order((
            failed_claims::resolved_at.is_null().desc(),
            failed_claims::id.desc(),
        ))
        .limit(limit.into())
        .select(DeadLetterRow::as_select());
    db.rows("read a person's dead letters", own).await
}

/// Time limit of a read or a count over many dead letters.
const LONG: Duration = Duration::from_secs(30);

/// The resolution of a dead letter, with the claim that was judged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Resolution {
    pub(crate) id: i64,
    pub(crate) slot: Option<i64>,
    pub(crate) user: Option<UserId>,
    /// One word: `issued`, `duplicate`, `revoked`, `owed`.
    pub(crate) how: &'static str,
    pub(crate) detail: String,
}

/// Locks dead letters of a drop, and returns those that are still as they were judged: an operator
/// may have corrected or discarded others meanwhile.
pub(crate) async fn lock_judged(
    conn: &mut Conn,
    drop: DropId,
    judged: &[&Resolution],
) -> QueryResult<HashSet<i64>> {
    if judged.is_empty() {
        return Ok(HashSet::new());
    }
    let open: Vec<LockedLetter> = sql_query(
        "SELECT f.id FROM JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$.id', \
             slot BIGINT PATH '$.slot', \
             user VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin PATH '$.user')) v \
         STRAIGHT_JOIN failed_claims f FORCE INDEX (PRIMARY) ON f.id = v.id \
         WHERE f.resolved_at IS NULL AND f.drop_id = ? AND f.slot <=> v.slot \
             AND f.user_id <=> v.user FOR UPDATE OF f",
    )
    .bind::<Text, _>(json(&judged))
    .bind::<BigInt, _>(drop)
    .load(conn)
    .await?;
    Ok(open.into_iter().map(|letter| letter.id).collect())
}

#[derive(QueryableByName)]
#[diesel(table_name = failed_claims)]
struct LockedLetter {
    id: i64,
}

/// Resolves many dead letters, which the transaction has locked, in one statement.
pub(crate) async fn resolve(
    conn: &mut Conn,
    resolutions: &[&Resolution],
    run_id: &str,
) -> QueryResult<()> {
    if resolutions.is_empty() {
        return Ok(());
    }
    sql_query(
        "UPDATE JSON_TABLE(?, '$[*]' COLUMNS (id BIGINT PATH '$.id', how VARCHAR(64) PATH '$.how', \
             detail TEXT PATH '$.detail')) v \
         STRAIGHT_JOIN failed_claims f FORCE INDEX (PRIMARY) ON f.id = v.id \
         SET f.resolved_at = UTC_TIMESTAMP(3), f.resolution = v.how, \
             f.resolution_detail = v.detail, f.resolved_by_run = ?",
    )
    .bind::<Text, _>(json(&resolutions))
    .bind::<Text, _>(run_id)
    .execute(conn)
    .await
    .map(|_| ())
}
