//! Revocations (docs/decisions/0013-revoking.md): claims that were given back or revoked, and that
//! are void wherever a copy still exists.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use diesel::dsl::{max, sql};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Unsigned};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::catalogue::LISTED;
use super::ids::draw_id;
use super::ops_actions::{Operator, OperatorAct};
use super::schema::{issued_coupons, revoked_coupons};
use super::sealed::rows_changed;
use super::{Conn, Db, DbError, json};
use crate::domain::{CouponId, DropId, OncePer, Slot, UserId};

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = revoked_coupons)]
pub struct Revocation {
    pub id: i64,
    pub coupon_id: i64,
    pub drop_id: i64,
    /// The user's slot, or `None` if there was none or it is unknown.
    pub slot: Option<Slot>,
    pub user_id: String,
    pub reason: String,
    pub revoked_by: String,
    pub may_claim_again: bool,
    pub revoked_at: NaiveDateTime,
    /// Claims admitted after this time, by Redis's clock, are valid again. `None` means that no
    /// claim is.
    pub again_from: Option<NaiveDateTime>,
}

impl Revocation {
    /// Converts `again_from` to Unix milliseconds.
    pub fn again_from_ms(&self) -> Option<i64> {
        self.again_from.map(|at| at.and_utc().timestamp_millis())
    }

    /// Whether it was begun within the last second, by this host's clock.
    pub fn is_young(&self) -> bool {
        let age = Utc::now().naive_utc() - self.revoked_at;
        age.abs() < TimeDelta::seconds(1)
    }

    /// Whether the revocation voids a claim of its user that was admitted at this time; `None` is
    /// an unknown time.
    pub fn voids(&self, admitted_at_ms: Option<i64>) -> bool {
        self.again_from_ms()
            .is_none_or(|from| admitted_at_ms.is_some_and(|at| at <= from))
    }

    /// Whether the user may claim again but the revocation has not ended yet.
    pub fn is_to_be_ended(&self) -> bool {
        self.may_claim_again && self.again_from.is_none()
    }
}

#[derive(QueryableByName)]
struct BannedRow {
    #[diesel(sql_type = BigInt)]
    coupon_id: i64,
    #[diesel(sql_type = Unsigned<BigInt>)]
    number: u64,
}

/// The claim to revoke.
#[derive(Debug, Clone)]
pub struct NewRevocation {
    pub coupon: CouponId,
    /// The drop of the claim, as stored in Redis.
    pub drop: DropId,
    pub slot: Option<Slot>,
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

impl NewRevocation {
    fn scope(&self) -> i64 {
        person_scope(self.once_per, self.drop.0)
    }
}

/// Returns the value of the column `person_scope`.
fn person_scope(once_per: OncePer, drop: i64) -> i64 {
    if once_per == OncePer::Drop { drop } else { 0 }
}

/// How often an id is drawn for a revocation. One in a million is taken if there is one a second.
const ATTEMPTS: usize = 10;

/// Maximum duration of a count of all revocations of some coupons.
const LONGEST_COUNT: Duration = Duration::from_secs(60);

const AGE_MS: &str = "TIMESTAMPDIFF(MICROSECOND, revoked_at, UTC_TIMESTAMP(6)) DIV 1000";

impl Db {
    /// Writes a revocation that voids all claims of its user in its scope, and moves the user's row
    /// into it, atomically. Returns the open revocation if there already is one.
    ///
    /// The revocation is inserted before the row is read: see `look` in `inserted.rs`.
    pub async fn revoke(&self, new: NewRevocation) -> Result<Revocation, DbError> {
        self.run("revoke", async move |conn| {
            conn.transaction(async |conn| revoke_in(conn, &new).await)
                .await
        })
        .await
    }

    /// Counts the banned users of these coupons, except for erased ones and revocations of the last
    /// second, which an API may not have written to Redis yet. Redis has a field for each of them.
    /// Reads every revocation of these coupons.
    pub async fn count_banned(
        &self,
        coupons: &[CouponId],
    ) -> Result<HashMap<CouponId, u64>, DbError> {
        let ids = coupons.to_vec();
        self.run_within(LONGEST_COUNT, "count banned users", async move |conn| {
            let query = format!(
                "SELECT r.coupon_id, CAST(COUNT(DISTINCT r.person_scope, r.user_id) AS UNSIGNED) AS number \
                 FROM ({LISTED}) w STRAIGHT_JOIN revoked_coupons r ON r.coupon_id = w.id \
                 WHERE r.revoked_at < UTC_TIMESTAMP(3) - INTERVAL 1 SECOND AND r.user_id NOT LIKE 'erased-%' \
                 GROUP BY r.coupon_id"
            );
            let found: Vec<BannedRow> = diesel::sql_query(query)
                .bind::<Text, _>(json(&ids)?)
                .load(conn)
                .await?;
            let of = |row: BannedRow| (CouponId(row.coupon_id), row.number);
            Ok(found.into_iter().map(of).collect())
        })
        .await
    }

    /// Moves the row of a claim that the revocation voids into the revocation, if the row exists.
    /// Rereads the revocation, because a later claim of its user is valid if it has ended.
    pub async fn take_out_row(&self, id: i64, once_per: OncePer) -> Result<(), DbError> {
        self.run("take out a revoked row", async move |conn| {
            conn.transaction(async |conn| {
                let current = revoked_coupons::table
                    .find(id)
                    .select(Revocation::as_select())
                    .for_update();
                let mut current: Revocation = current.first(conn).await?;
                let scope = person_scope(once_per, current.drop_id);
                if move_row(conn, &mut current, scope).await? {
                    rows_changed(conn, current.drop_id, -1).await?;
                }
                Ok(())
            })
            .await
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
    ) -> Result<Revocation, DbError> {
        let id = revocation.id;
        let at = DateTime::from_timestamp_millis(again_from_ms)
            .unwrap_or_default()
            .naive_utc();
        self.run("end a revocation", async move |conn| {
            let this = revoked_coupons::table
                .find(id)
                .filter(revoked_coupons::may_claim_again);
            let ends = diesel::update(this.filter(revoked_coupons::again_from.is_null()))
                .set(revoked_coupons::again_from.eq(at))
                .execute(conn)
                .await?;
            let stands = revoked_coupons::table.find(id);
            let stands = stands.select((Revocation::as_select(), sql::<BigInt>("person_scope")));
            let (stands, scope): (Revocation, i64) = stands.first(conn).await?;
            if ends > 0 {
                // Close a promise that a pass recorded as broken after the revocation was written.
                close_promises(conn, &stands, scope).await?;
            }
            Ok(stands)
        })
        .await
    }

    /// Reads the revocations of these users in a coupon, oldest first.
    pub async fn revocations_of_people(
        &self,
        coupon: CouponId,
        people: &[UserId],
    ) -> Result<Vec<Revocation>, DbError> {
        let mut found = Vec::new();
        for some in people.chunks(1_000) {
            let some = some.to_vec();
            let of_some = self.run("revocations of people", async move |conn| {
                of_people(conn, coupon, &some).await
            });
            found.extend(of_some.await?);
        }
        Ok(found)
    }

    /// Revocations read per statement.
    pub const REVOCATIONS_AT_ONCE: i64 = 1_000;

    /// Reads a page of revocations of a coupon or drop with ids above `after`, each with its age in
    /// milliseconds by MySQL's clock.
    pub async fn revocations_after(
        &self,
        coupon: CouponId,
        drop: Option<DropId>,
        after: i64,
    ) -> Result<Vec<(Revocation, i64)>, DbError> {
        self.run("read revocations", async move |conn| {
            let mut query = revoked_coupons::table
                .filter(
                    revoked_coupons::coupon_id
                        .eq(coupon.0)
                        .and(revoked_coupons::id.gt(after)),
                )
                .order(revoked_coupons::id)
                .limit(Self::REVOCATIONS_AT_ONCE)
                .select((Revocation::as_select(), sql::<BigInt>(AGE_MS)))
                .into_boxed();
            if let Some(drop) = drop {
                query = query.filter(revoked_coupons::drop_id.eq(drop.0));
            }
            query.load(conn).await
        })
        .await
    }
}

async fn revoke_in(conn: &mut Conn, new: &NewRevocation) -> QueryResult<Revocation> {
    let is_new = open_one(conn, new, false).await?.is_none();
    let mut revocation = insert(conn, new).await?;
    let is_moved = move_row(conn, &mut revocation, new.scope()).await?;
    close_promises(conn, &revocation, new.scope()).await?;
    if is_moved {
        rows_changed(conn, revocation.drop_id, -1).await?;
    }
    if let Some(operator) = new.operator.as_ref().filter(|_| is_new) {
        operator.did(conn, act(&revocation)).await?;
    }
    Ok(revocation)
}

/// Inserts the revocation, unless the user has an open one, and returns the open one.
async fn insert(conn: &mut Conn, new: &NewRevocation) -> QueryResult<Revocation> {
    for _ in 0..ATTEMPTS {
        // Redis keeps the revocation with the highest id of each user.
        let latest: Option<i64> = revoked_coupons::table
            .filter(revoked_coupons::coupon_id.eq(new.coupon.0))
            .filter(revoked_coupons::user_id.eq(new.user.as_str()))
            .select(max(revoked_coupons::id))
            .first(conn)
            .await?;
        let above = latest.unwrap_or(0).max(new.after) + 1;
        diesel::sql_query(
            "INSERT INTO revoked_coupons (id, coupon_id, drop_id, slot, user_id, reason, revoked_by, may_claim_again) \
             VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE id = id",
        )
        .bind::<BigInt, _>(draw_id(Utc::now()).max(above))
        .bind::<BigInt, _>(new.coupon.0)
        .bind::<BigInt, _>(new.drop.0)
        .bind::<Nullable<Unsigned<diesel::sql_types::Integer>>, _>(new.slot)
        .bind::<Text, _>(new.user.as_str())
        .bind::<Text, _>(&new.reason)
        .bind::<Text, _>(&new.by)
        .bind::<Bool, _>(new.may_claim_again)
        .execute(conn)
        .await?;
        // `None` means that another revocation has this id.
        if let Some(open) = open_one(conn, new, true).await? {
            return Ok(open);
        }
    }
    Err(diesel::result::Error::NotFound)
}

/// Reads the open revocation in this scope.
async fn open_one(
    conn: &mut Conn,
    new: &NewRevocation,
    lock: bool,
) -> QueryResult<Option<Revocation>> {
    let of_person = revoked_coupons::coupon_id
        .eq(new.coupon.0)
        .and(revoked_coupons::user_id.eq(new.user.as_str()));
    let open = revoked_coupons::table
        .filter(of_person.and(revoked_coupons::again_from.is_null()))
        .select(Revocation::as_select());
    let open = if lock {
        open.for_update().load(conn).await?
    } else {
        open.load(conn).await?
    };
    Ok(open
        .into_iter()
        .find(|one| new.once_per == OncePer::Coupon || one.drop_id == new.drop.0))
}

fn act(revocation: &Revocation) -> OperatorAct {
    let Revocation {
        coupon_id,
        drop_id,
        slot,
        user_id,
        reason,
        revoked_by,
        may_claim_again,
        ..
    } = revocation;
    OperatorAct {
        action: "revoke",
        coupon: Some(CouponId(*coupon_id)),
        drop: Some(DropId(*drop_id)),
        detail: json!({
            "user_id": user_id, "slot": slot, "reason": reason, "by": revoked_by, "may_claim_again": may_claim_again,
        }),
    }
}

/// Moves the user's row into the revocation, if the revocation voids it. Returns whether it did.
async fn move_row(conn: &mut Conn, revocation: &mut Revocation, scope: i64) -> QueryResult<bool> {
    type Row = (i64, Slot, String, NaiveDateTime, NaiveDateTime, String);
    let of_person = issued_coupons::coupon_id
        .eq(revocation.coupon_id)
        .and(issued_coupons::user_id.eq(&revocation.user_id));
    let rows: Vec<Row> = issued_coupons::table
        .filter(of_person)
        .select((
            issued_coupons::drop_id,
            issued_coupons::slot,
            issued_coupons::code,
            issued_coupons::claimed_at,
            issued_coupons::issued_at,
            issued_coupons::issued_by,
        ))
        .for_update()
        .load(conn)
        .await?;
    let is_void = |row: &Row| revocation.voids(Some(row.3.and_utc().timestamp_millis()));
    let void = rows
        .into_iter()
        .find(|row| (scope == 0 || row.0 == scope) && is_void(row));
    let Some(row) = void else {
        return Ok(false);
    };
    let (drop, slot, code, claimed_at, issued_at, issued_by) = row;
    diesel::update(revoked_coupons::table.find(revocation.id))
        .set((
            revoked_coupons::drop_id.eq(drop),
            revoked_coupons::slot.eq(slot),
            revoked_coupons::code.eq(code),
            revoked_coupons::claimed_at.eq(claimed_at),
            revoked_coupons::issued_at.eq(issued_at),
            revoked_coupons::issued_by.eq(issued_by),
        ))
        .execute(conn)
        .await?;
    revocation.drop_id = drop;
    revocation.slot = Some(slot);
    diesel::delete(issued_coupons::table.find((drop, slot)))
        .execute(conn)
        .await
        .map(|_| true)
}

/// Closes broken promises that the revocation voids.
async fn close_promises(conn: &mut Conn, revocation: &Revocation, scope: i64) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3) \
         WHERE coupon_id = ? AND user_id = ? AND mended_at IS NULL AND (? = 0 OR drop_id = ?)",
    )
    .bind::<BigInt, _>(revocation.coupon_id)
    .bind::<Text, _>(&revocation.user_id)
    .bind::<BigInt, _>(scope)
    .bind::<BigInt, _>(scope)
    .execute(conn)
    .await
    .map(|_| ())
}

pub(super) async fn of_people(
    conn: &mut Conn,
    coupon: CouponId,
    people: &[UserId],
) -> QueryResult<Vec<Revocation>> {
    // MySQL refuses to compare its ASCII column with other characters, and no revocation has them.
    let names = people
        .iter()
        .map(UserId::as_str)
        .filter(|name| name.is_ascii());
    revoked_coupons::table
        .filter(
            revoked_coupons::coupon_id
                .eq(coupon.0)
                .and(revoked_coupons::user_id.eq_any(names)),
        )
        .order(revoked_coupons::id)
        .select(Revocation::as_select())
        .load(conn)
        .await
}

/// The revocations in one coupon by user, which determine the void claims.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revocations(HashMap<String, Vec<Revocation>>);

impl Revocations {
    /// Keeps only the revocations in scope: those of `drop` if one coupon per drop is allowed.
    pub fn new(all: Vec<Revocation>, once_per: OncePer, drop: DropId) -> Self {
        let mut by_person: HashMap<String, Vec<Revocation>> = HashMap::new();
        for one in all
            .into_iter()
            .filter(|one| once_per == OncePer::Coupon || one.drop_id == drop.0)
        {
            by_person.entry(one.user_id.clone()).or_default().push(one);
        }
        Self(by_person)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the user has any revocation.
    pub fn name(&self, user: &UserId) -> bool {
        self.0.contains_key(user.as_str())
    }

    /// Whether a claim admitted at this time (Unix milliseconds) is void.
    pub fn voids(&self, user: &UserId, admitted_at_ms: Option<i64>) -> bool {
        self.voiding(user, admitted_at_ms).is_some()
    }

    /// Returns the first revocation that voids the claim.
    pub fn voiding(&self, user: &UserId, admitted_at_ms: Option<i64>) -> Option<&Revocation> {
        self.0
            .get(user.as_str())?
            .iter()
            .find(|one| one.voids(admitted_at_ms))
    }
}
