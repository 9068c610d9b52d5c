//! Revocations (docs/decisions/0013-revoking.md): claims that were given back or revoked, and that
//! are void wherever a copy still exists.

use chrono::{DateTime, Utc};
use diesel::dsl::{DuplicatedKeys, max};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;

use super::ids::{draw_id, may_be_drawn};
use super::ops_actions::{Operator, OperatorAct};
use super::sealed::rows_changed;
use super::uses::is_in_use;
use super::{Conn, Db, DbError, DbResult, Prepared, ascii};
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};
use crate::model::Revocation;
use crate::redis::revoking::KnownRevocation;
use crate::schema::{issued_coupons, revoked_coupons};

/// The claim to revoke.
#[derive(Debug, Clone)]
pub struct NewRevocation {
    pub coupon: CouponId,
    /// The drop of the claim, as stored in Redis.
    pub drop: DropId,
    pub slot: Option<Slot>,
    /// When the slot was given, if Redis knows it.
    pub claimed_at: Option<DateTime<Utc>>,
    pub user: UserId,
    pub reason: String,
    pub by: String,
    pub may_claim_again: bool,
    pub once_per: OncePer,
    /// The operator, or `None` if the user gave the claim back.
    pub operator: Option<Operator>,
    /// The id of the user's last revocation in Redis.
    pub after: i64,
}

/// A shop uses the coupon's code, so that it can be neither returned nor revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CouponInUse;

/// The open revocation of a user, after an attempt to insert one.
struct InsertedRevocation {
    id: i64,
    /// Whether the attempt inserted it. Only the insert can tell, because an open one that was read
    /// earlier may have ended since.
    is_new: bool,
}

/// Maximum number of ids drawn for a revocation. With one revocation per second, one id in a million
/// is taken.
const ATTEMPTS: usize = 10;

/// Revocations looked up per statement.
const LOOKED_UP_AT_ONCE: usize = 1_000;

impl Db {
    /// Writes a revocation that voids all claims of its user in its scope, and moves the user's row
    /// into it, atomically. Changes nothing if a shop uses the coupon. If there already is an open
    /// revocation, moves the row into that one instead, even if a shop uses the coupon, and returns
    /// it.
    ///
    /// The revocation is inserted before the row is read: see `read_windows` in `take_out.rs`.
    pub async fn revoke(&self, new: NewRevocation) -> DbResult<Result<Revocation, CouponInUse>> {
        let revoked = self.transaction("revoke", async move |conn| {
            let InsertedRevocation { id, is_new } = insert(conn, &new).await?;
            let row = lock_void_row(conn, id).await?;
            // Under an earlier revocation, a row is void and must be removed even if its code is
            // used: it was inserted by hand, for example.
            if is_new && is_used(conn, &new, row.as_ref()).await? {
                return Err(diesel::result::Error::RollbackTransaction);
            }
            move_row(conn, id, row).await?;
            close_promises(conn, id).await?;
            let revocation = read(conn, id).await?;
            if let Some(operator) = new.operator.as_ref().filter(|_| is_new) {
                operator.did(conn, act(&revocation)).await?;
            }
            Ok(revocation)
        });
        match revoked.await {
            Err(DbError::Query {
                source: diesel::result::Error::RollbackTransaction,
                ..
            }) => Ok(Err(CouponInUse)),
            other => other.map(Ok),
        }
    }

    /// Returns which of these revocations MySQL has lost. A revocation is in MySQL before it is in
    /// Redis, and is never deleted.
    pub async fn lost_revocations(
        &self,
        mut all: Vec<KnownRevocation>,
    ) -> DbResult<Vec<KnownRevocation>> {
        let now = Utc::now();
        all.retain(|one| may_be_drawn(one.id, now));
        let mut lost = Vec::new();
        for some in all.chunks(LOOKED_UP_AT_ONCE) {
            let ids: Vec<i64> = some.iter().map(|one| one.id).collect();
            let known = revoked_coupons::table
                .filter(revoked_coupons::id.eq_any(ids))
                .select(revoked_coupons::id);
            let known: Vec<i64> = self.rows("known revocations", known).await?;
            let unknown = some.iter().filter(|one| !known.contains(&one.id));
            lost.extend(unknown.cloned());
        }
        Ok(lost)
    }

    /// Writes a revocation that MySQL has lost, and moves the row that it voids into it, as
    /// [`Db::revoke`] did. Returns whether it was written: the user may have another open one.
    pub async fn adopt_revocation(
        &self,
        coupon: CouponId,
        drop: DropId,
        once_per: OncePer,
        known: KnownRevocation,
    ) -> DbResult<bool> {
        self.transaction("adopt a revocation", async move |conn| {
            let KnownRevocation {
                id,
                user,
                may_claim_again,
                again_from,
                ..
            } = known;
            diesel::insert_into(revoked_coupons::table)
                .values((
                    revoked_coupons::id.eq(id),
                    revoked_coupons::coupon_id.eq(coupon),
                    revoked_coupons::drop_id.eq(drop),
                    revoked_coupons::user_id.eq(user),
                    revoked_coupons::reason.eq("known to Redis"),
                    revoked_coupons::revoked_by.eq("reconciler"),
                    revoked_coupons::may_claim_again.eq(may_claim_again),
                    revoked_coupons::again_from.eq(again_from),
                    revoked_coupons::once_per.eq(once_per),
                ))
                .on_conflict(DuplicatedKeys)
                .do_nothing()
                .execute(conn)
                .await?;
            let written = revoked_coupons::table.find(id).select(revoked_coupons::id);
            if written.get_result::<i64>(conn).await.optional()?.is_none() {
                return Ok(false);
            }
            let row = lock_void_row(conn, id).await?;
            move_row(conn, id, row).await?;
            close_promises(conn, id).await?;
            Ok(true)
        })
        .await
    }

    /// Moves the row of a claim that the revocation voids into the revocation, if the row exists.
    pub async fn take_out_row(&self, id: i64) -> DbResult<()> {
        let what = "take out a revoked row";
        self.transaction(what, async move |conn| {
            let row = lock_void_row(conn, id).await?;
            move_row(conn, id, row).await
        })
        .await
    }

    /// Ends a revocation that lets its user claim again: admissions after this time, by Redis's
    /// clock, are valid. Returns the recorded revocation, because another process may have ended it
    /// already.
    pub async fn end_revocation(
        &self,
        revocation: &Revocation,
        again_from_ms: i64,
    ) -> DbResult<Revocation> {
        let id = revocation.id;
        let at = DateTime::from_timestamp_millis(again_from_ms).unwrap_or_default();
        self.transaction("end a revocation", async move |conn| {
            let unended = revoked_coupons::table
                .find(id)
                .filter(revoked_coupons::may_claim_again)
                .filter(revoked_coupons::again_from.is_null());
            let ended = diesel::update(unended)
                .set(revoked_coupons::again_from.eq(Some(at)))
                .execute(conn)
                .await?;
            if ended > 0 {
                // Close a promise that a pass recorded as broken after the revocation was written.
                close_promises(conn, id).await?;
            }
            read(conn, id).await
        })
        .await
    }
}

/// Inserts the revocation, unless the user has an open one, and returns the open one, locked.
async fn insert(conn: &mut Conn, new: &NewRevocation) -> QueryResult<InsertedRevocation> {
    for _ in 0..ATTEMPTS {
        // Redis keeps the revocation with the highest id of each user.
        let latest: Option<i64> = revoked_coupons::table
            .filter(revoked_coupons::coupon_id.eq(new.coupon))
            .filter(revoked_coupons::user_id.eq(&new.user))
            .select(max(revoked_coupons::id))
            .get_result(conn)
            .await?;
        let above = latest.unwrap_or(0).max(new.after) + 1;
        let id = draw_id(Utc::now()).max(above);
        diesel::insert_into(revoked_coupons::table)
            .values((
                revoked_coupons::id.eq(id),
                revoked_coupons::coupon_id.eq(new.coupon),
                revoked_coupons::drop_id.eq(new.drop),
                revoked_coupons::slot.eq(new.slot),
                revoked_coupons::user_id.eq(&new.user),
                revoked_coupons::reason.eq(&new.reason),
                revoked_coupons::revoked_by.eq(&new.by),
                revoked_coupons::may_claim_again.eq(new.may_claim_again),
                revoked_coupons::once_per.eq(new.once_per),
            ))
            .on_conflict(DuplicatedKeys)
            .do_nothing()
            .execute(conn)
            .await?;
        // `None` means that another revocation has this id.
        if let Some(open) = locked_open(conn, new).await? {
            let is_new = open == id;
            // An erased drop names a user again.
            rows_changed(conn, new.drop.0, 0).await?;
            return Ok(InsertedRevocation { id: open, is_new });
        }
    }
    Err(diesel::result::Error::NotFound)
}

/// Reads the id of the open revocation in this scope, and locks it.
async fn locked_open(conn: &mut Conn, new: &NewRevocation) -> QueryResult<Option<i64>> {
    let scope = match new.once_per {
        OncePer::Drop => new.drop.0,
        OncePer::Coupon => 0,
    };
    revoked_coupons::table
        .filter(revoked_coupons::coupon_id.eq(new.coupon))
        .filter(revoked_coupons::user_id.eq(&new.user))
        .filter(revoked_coupons::again_from.is_null())
        .filter(revoked_coupons::person_scope.eq(scope))
        .select(revoked_coupons::id)
        .for_update()
        .get_result(conn)
        .await
        .optional()
}

async fn read(conn: &mut Conn, id: i64) -> QueryResult<Revocation> {
    revoked_coupons::table
        .find(id)
        .select(Revocation::as_select())
        .get_result(conn)
        .await
}

fn act(of: &Revocation) -> OperatorAct {
    let detail = serde_json::json!({
        "user_id": of.user_id, "slot": of.slot, "reason": of.reason, "by": of.revoked_by,
        "may_claim_again": of.may_claim_again,
    });
    let coupon = CouponId(of.coupon_id);
    let drop = DropId(of.drop_id);
    OperatorAct::new("revoke", Some(coupon), Some(drop), detail)
}

/// A row that a revocation voids.
#[derive(QueryableByName)]
#[diesel(table_name = issued_coupons)]
struct VoidRow {
    drop_id: i64,
    slot: Slot,
    claimed_at: DateTime<Utc>,
}

/// Locks the user's row, if the revocation voids it, so that no shop can begin to use its code.
/// Also locks the revocation, because a later claim of its user is valid once it has ended.
async fn lock_void_row(conn: &mut Conn, id: i64) -> QueryResult<Option<VoidRow>> {
    sql_query(
        "SELECT i.drop_id, i.slot, i.claimed_at FROM revoked_coupons r \
         STRAIGHT_JOIN issued_coupons i ON i.coupon_id = r.coupon_id AND i.user_id = r.user_id \
             AND r.person_scope IN (0, i.drop_id) \
             AND (r.again_from IS NULL OR i.claimed_at <= r.again_from) \
         WHERE r.id = ? FOR UPDATE",
    )
    .bind::<BigInt, _>(id)
    .get_result(conn)
    .await
    .optional()
}

/// Whether a shop uses the coupon: by its row or, if that is missing, by the claim in Redis.
async fn is_used(conn: &mut Conn, new: &NewRevocation, row: Option<&VoidRow>) -> QueryResult<bool> {
    if let Some(row) = row {
        return is_in_use(conn, row.drop_id, row.slot, row.claimed_at).await;
    }
    match (new.slot, new.claimed_at) {
        (Some(slot), Some(at)) => is_in_use(conn, new.drop.0, slot, at).await,
        _ => Ok(false),
    }
}

/// Moves a locked row into the revocation.
async fn move_row(conn: &mut Conn, id: i64, row: Option<VoidRow>) -> QueryResult<()> {
    let Some(VoidRow {
        drop_id: drop,
        slot,
        ..
    }) = row
    else {
        return Ok(());
    };
    sql_query(
        "UPDATE revoked_coupons r JOIN issued_coupons i ON i.drop_id = ? AND i.slot = ? \
         SET r.drop_id = i.drop_id, r.slot = i.slot, r.code = i.code, r.claimed_at = i.claimed_at, \
             r.issued_at = i.issued_at, r.issued_by = i.issued_by WHERE r.id = ?",
    )
    .bind::<BigInt, _>(drop)
    .bind::<Unsigned<Integer>, _>(slot)
    .bind::<BigInt, _>(id)
    .execute(conn)
    .await?;
    diesel::delete(issued_coupons::table.find((drop, slot)))
        .execute(conn)
        .await?;
    rows_changed(conn, drop, -1).await
}

/// Closes broken promises that the revocation voids.
async fn close_promises(conn: &mut Conn, id: i64) -> QueryResult<()> {
    sql_query(
        "UPDATE revoked_coupons r STRAIGHT_JOIN broken_promises p ON p.coupon_id = r.coupon_id \
             AND p.user_id = r.user_id AND r.person_scope IN (0, p.drop_id) \
         SET p.mended_at = UTC_TIMESTAMP(3) WHERE r.id = ? AND p.mended_at IS NULL",
    )
    .bind::<BigInt, _>(id)
    .execute(conn)
    .await
    .map(|_| ())
}

pub async fn of_users(
    conn: &mut Conn,
    coupon: CouponId,
    people: &[UserId],
) -> QueryResult<Vec<Revocation>> {
    Prepared(
        sql_query(
            "SELECT r.* FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id VARCHAR(128) \
                 CHARACTER SET ascii COLLATE ascii_bin PATH '$')) j \
             STRAIGHT_JOIN revoked_coupons r ON r.coupon_id = ? AND r.user_id = j.user_id \
             ORDER BY r.id",
        )
        .bind::<Text, _>(ascii(people.iter().map(UserId::as_str)))
        .bind::<BigInt, _>(coupon),
    )
    .load(conn)
    .await
}
