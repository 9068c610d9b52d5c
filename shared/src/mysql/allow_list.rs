//! Allow lists of coupons. MySQL is the source of truth (docs/decisions/0019-allow-list.md).

use std::collections::BTreeSet;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Unsigned};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::db::IdRow;
use super::ops_actions::{Operator, OperatorAct};
use super::runs::before;
use super::schema::{coupon_allow_list, coupons};
use super::{Conn, Db, DbError, MOST_VALUES};
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};

/// Time limit for a statement over a list of a million users.
const LONG: Duration = Duration::from_secs(60);

/// Users deleted in one transaction.
const DELETED_AT_ONCE: i64 = 10_000;

/// A change of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListChange {
    Add(Vec<UserId>),
    Remove(Vec<UserId>),
    /// Removes all users.
    Empty,
}

/// The result of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListChanged {
    /// The revision of the list before the change.
    pub before: u64,
    /// The list after the change, or the same list if nothing changed.
    pub now: AllowList,
    /// How many people were added or removed.
    pub changed: u32,
}

/// A coupon's list and how long ago it changed, in milliseconds by MySQL's clock.
pub type ListWithAge = (CouponId, AllowList, Option<i64>);

const AGE_MS: &str = "TIMESTAMPDIFF(MICROSECOND, allow_list_changed_at, UTC_TIMESTAMP(6)) DIV 1000";

impl Db {
    /// Changes a coupon's list in one transaction. The coupon gets a new revision that is also
    /// above `seen`. Returns `None` if the coupon does not exist, and an unchanged list if it
    /// already is as wanted. Pass at most a few thousand users per call.
    pub async fn change_allow_list(
        &self,
        id: CouponId,
        seen: u64,
        change: ListChange,
        by: Operator,
    ) -> Result<Option<ListChanged>, DbError> {
        let is_long = change == ListChange::Empty;
        let what = "change an allow list";
        let change = async move |conn: &mut Conn| {
            conn.transaction(async |conn| {
                let Some(list) = locked(conn, id).await? else {
                    return Ok(None);
                };
                let changed = match &change {
                    ListChange::Add(users) => insert(conn, id, users).await?,
                    ListChange::Remove(users) => remove(conn, id, users).await?,
                    ListChange::Empty => delete_all(conn, id).await?,
                };
                let changed = u32::try_from(changed).unwrap_or(u32::MAX);
                let (word, people) = match change {
                    ListChange::Add(_) => ("added", list.people.saturating_add(changed)),
                    ListChange::Remove(_) => ("removed", list.people.saturating_sub(changed)),
                    ListChange::Empty => ("removed", 0),
                };
                // Rows may have been removed manually without updating the count.
                let now = if changed == 0 && people == list.people {
                    list
                } else {
                    let act = OperatorAct {
                        action: "allow_list",
                        coupon: Some(id),
                        detail: json!({ word: changed, "people": people }),
                        ..OperatorAct::default()
                    };
                    by.did(conn, act).await?;
                    set_list(conn, id, seen, people).await?
                };
                Ok(Some(ListChanged {
                    before: list.revision,
                    now,
                    changed,
                }))
            })
            .await
        };
        if is_long {
            self.run_within(LONG, what, change).await
        } else {
            self.run(what, change).await
        }
    }

    /// Gives a coupon's list a new revision, also above `seen`.
    pub async fn renew_allow_list(
        &self,
        id: CouponId,
        seen: u64,
    ) -> Result<Option<AllowList>, DbError> {
        self.run("renew an allow list", async move |conn| {
            conn.transaction(async |conn| {
                let Some(list) = locked(conn, id).await? else {
                    return Ok(None);
                };
                set_list(conn, id, seen, list.people).await.map(Some)
            })
            .await
        })
        .await
    }

    /// Reads the revision and size of a coupon's list.
    pub async fn allow_list(&self, id: CouponId) -> Result<Option<AllowList>, DbError> {
        Ok(self
            .allow_lists(vec![id])
            .await?
            .into_iter()
            .next()
            .map(|(_, list, _)| list))
    }

    /// Reads the revisions and sizes of these coupons' lists.
    pub async fn allow_lists(&self, ids: Vec<CouponId>) -> Result<Vec<ListWithAge>, DbError> {
        self.run("read allow lists", async move |conn| {
            let mut found = Vec::with_capacity(ids.len());
            for some in ids.chunks(MOST_VALUES) {
                let rows: Vec<(i64, u64, u32, Option<i64>)> = coupons::table
                    .filter(coupons::id.eq_any(some.iter().map(|id| id.0)))
                    .select((
                        coupons::id,
                        coupons::allow_list_revision,
                        coupons::allow_list_people,
                        sql::<Nullable<BigInt>>(AGE_MS),
                    ))
                    .load(conn)
                    .await?;
                let list = |(id, revision, people, age_ms)| {
                    (CouponId(id), AllowList { revision, people }, age_ms)
                };
                found.extend(rows.into_iter().map(list));
            }
            Ok(found)
        })
        .await
    }

    /// Reads users on a coupon's list with ids above `after`, in order of id.
    pub async fn allowed_after(
        &self,
        id: CouponId,
        after: String,
        limit: i64,
    ) -> Result<Vec<UserId>, DbError> {
        self.run("people of an allow list", async move |conn| {
            page(conn, id, after, limit).await
        })
        .await
    }

    /// Whether a user is on a coupon's list.
    pub async fn is_allowed(&self, id: CouponId, user: &UserId) -> Result<bool, DbError> {
        let user = user.clone();
        self.run("find a person on an allow list", async move |conn| {
            let one = coupon_allow_list::table
                .find((id.0, user.as_str()))
                .select(coupon_allow_list::coupon_id);
            Ok(one.first::<i64>(conn).await.optional()?.is_some())
        })
        .await
    }

    /// Finds the coupons whose lists contain a user.
    pub async fn allow_lists_of_person(&self, user: &UserId) -> Result<Vec<CouponId>, DbError> {
        let user = user.to_string();
        self.run_within(LONG, "allow lists of a person", async move |conn| {
            // Uses the primary key: one lookup per coupon with a list.
            let found: Vec<IdRow> = diesel::sql_query(
                "SELECT l.coupon_id AS id FROM coupons c STRAIGHT_JOIN coupon_allow_list l \
                 ON l.coupon_id = c.id AND l.user_id = ? WHERE c.allow_list_revision > 0 ORDER BY l.coupon_id",
            )
            .bind::<Text, _>(&user)
            .load(conn)
            .await?;
            Ok(found.into_iter().map(|one| CouponId(one.id)).collect())
        })
        .await
    }

    /// Finds some coupons whose list has not changed for `kept` and whose drops were all sealed at
    /// least that long ago, each with its revision. An operator who adds days to such a coupon must
    /// upload the list again first.
    pub async fn old_allow_lists(&self, kept: Duration) -> Result<Vec<(CouponId, u64)>, DbError> {
        let Some(before) = before(kept) else {
            return Ok(Vec::new());
        };
        self.run_within(LONG, "old allow lists", async move |conn| {
            let found: Vec<Old> = diesel::sql_query(format!(
                "SELECT c.id, c.revision FROM coupons c WHERE c.allow_list_people > 0 \
                 AND (c.allow_list_changed_at IS NULL OR c.allow_list_changed_at <= {before}) \
                 AND EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id) \
                 AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id AND (d.sealed_at IS NULL OR d.sealed_at > {before})) \
                 ORDER BY c.id LIMIT 100"
            ))
            .load(conn)
            .await?;
            Ok(found.into_iter().map(|one| (CouponId(one.id), one.revision)).collect())
        })
        .await
    }

    /// Deletes part of a coupon's list if the coupon has this revision. Returns the new revision,
    /// and whether more is left, or `None` if the coupon was changed.
    pub async fn delete_some_of_allow_list(
        &self,
        id: CouponId,
        revision: u64,
    ) -> Result<Option<(u64, bool)>, DbError> {
        self.run("delete an allow list", async move |conn| {
            conn.transaction(async |conn| {
                let row = coupons::table
                    .find(id.0)
                    .select((coupons::revision, coupons::allow_list_people));
                let now: Option<(u64, u32)> = row.for_update().first(conn).await.optional()?;
                let Some((_, people)) = now.filter(|(now, _)| *now == revision) else {
                    return Ok(None);
                };
                let deleted =
                    diesel::sql_query("DELETE FROM coupon_allow_list WHERE coupon_id = ? LIMIT ?")
                        .bind::<BigInt, _>(id.0)
                        .bind::<BigInt, _>(DELETED_AT_ONCE)
                        .execute(conn)
                        .await?;
                // Recount only at the end, because the table may have been changed manually.
                let has_more = i64::try_from(deleted) == Ok(DELETED_AT_ONCE);
                let left = if has_more {
                    people
                        .saturating_sub(u32::try_from(deleted).unwrap_or(u32::MAX))
                        .max(1)
                } else {
                    u32::try_from(count(conn, id).await?).unwrap_or(u32::MAX)
                };
                // Keep the time of the last change, so that an interrupted deletion is continued.
                let revision = revision.saturating_add(1);
                let set = diesel::update(coupons::table.find(id.0)).set((
                    coupons::revision.eq(revision),
                    coupons::allow_list_revision.eq(revision),
                    coupons::allow_list_people.eq(left),
                ));
                set.execute(conn).await?;
                Ok(Some((revision, has_more)))
            })
            .await
        })
        .await
    }
}

#[derive(QueryableByName)]
struct Old {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Unsigned<BigInt>)]
    revision: u64,
}

/// Locks a coupon's list until the transaction ends.
async fn locked(conn: &mut Conn, id: CouponId) -> QueryResult<Option<AllowList>> {
    let lists = coupons::table
        .find(id.0)
        .select((coupons::allow_list_revision, coupons::allow_list_people));
    let found: Option<(u64, u32)> = lists.for_update().first(conn).await.optional()?;
    Ok(found.map(|(revision, people)| AllowList { revision, people }))
}

/// Sets the coupon's next revision, which is also the list's, and the size of the list.
async fn set_list(conn: &mut Conn, id: CouponId, seen: u64, people: u32) -> QueryResult<AllowList> {
    // MySQL assigns from left to right, so the list gets the revision that was just set.
    diesel::sql_query(
        "UPDATE coupons SET revision = GREATEST(revision, ?) + 1, allow_list_revision = revision, \
         allow_list_people = ?, allow_list_changed_at = UTC_TIMESTAMP(3) WHERE id = ?",
    )
    .bind::<Unsigned<BigInt>, _>(seen)
    .bind::<Unsigned<diesel::sql_types::Integer>, _>(people)
    .bind::<BigInt, _>(id.0)
    .execute(conn)
    .await?;
    let revision = coupons::table
        .find(id.0)
        .select(coupons::allow_list_revision)
        .first(conn)
        .await?;
    Ok(AllowList { revision, people })
}

/// Inserts users. The caller holds the lock on the coupon's row, so these users cannot be added
/// concurrently.
async fn insert(conn: &mut Conn, id: CouponId, people: &[UserId]) -> QueryResult<usize> {
    let mut inserted = 0;
    for some in people.chunks(MOST_VALUES) {
        let of_coupon = coupon_allow_list::table.filter(coupon_allow_list::coupon_id.eq(id.0));
        let these =
            of_coupon.filter(coupon_allow_list::user_id.eq_any(some.iter().map(UserId::as_str)));
        let there = these
            .select(coupon_allow_list::user_id)
            .load::<String>(conn)
            .await?;
        let there: BTreeSet<&str> = there.iter().map(String::as_str).collect();
        let new: BTreeSet<&str> = some.iter().map(UserId::as_str).collect();
        let new = new.difference(&there).copied();
        let row = |user: &str| {
            (
                coupon_allow_list::coupon_id.eq(id.0),
                coupon_allow_list::user_id.eq(user.to_owned()),
            )
        };
        let rows: Vec<_> = new.map(row).collect();
        inserted += diesel::insert_into(coupon_allow_list::table)
            .values(rows)
            .execute(conn)
            .await?;
    }
    Ok(inserted)
}

async fn remove(conn: &mut Conn, id: CouponId, people: &[UserId]) -> QueryResult<usize> {
    let mut removed = 0;
    for some in people.chunks(MOST_VALUES) {
        let of_coupon = coupon_allow_list::table.filter(coupon_allow_list::coupon_id.eq(id.0));
        let these =
            of_coupon.filter(coupon_allow_list::user_id.eq_any(some.iter().map(UserId::as_str)));
        removed += diesel::delete(these).execute(conn).await?;
    }
    Ok(removed)
}

async fn delete_all(conn: &mut Conn, id: CouponId) -> QueryResult<usize> {
    let all = coupon_allow_list::table.filter(coupon_allow_list::coupon_id.eq(id.0));
    diesel::delete(all).execute(conn).await
}

async fn count(conn: &mut Conn, id: CouponId) -> QueryResult<i64> {
    coupon_allow_list::table
        .filter(coupon_allow_list::coupon_id.eq(id.0))
        .count()
        .get_result(conn)
        .await
}

async fn page(
    conn: &mut Conn,
    id: CouponId,
    after: String,
    limit: i64,
) -> QueryResult<Vec<UserId>> {
    let names: Vec<String> = coupon_allow_list::table
        .filter(
            coupon_allow_list::coupon_id
                .eq(id.0)
                .and(coupon_allow_list::user_id.gt(after)),
        )
        .order(coupon_allow_list::user_id)
        .limit(limit)
        .select(coupon_allow_list::user_id)
        .load(conn)
        .await?;
    Ok(names.into_iter().map(UserId::from_store).collect())
}
