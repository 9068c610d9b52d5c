//! Allow lists of coupons. MySQL is the source of truth (docs/decisions/0019-allow-list.md).

use std::time::Duration;

use diesel::dsl::{exists, sql};
use diesel::prelude::*;
use diesel::result::Error::RollbackTransaction;
use diesel::sql_types::{BigInt, Nullable, Text, Unsigned};
use diesel_async::{AsyncConnection as _, RunQueryDsl};

use super::db::IdRow;
use super::ops_actions::{Operator, OperatorAct};
use super::runs::before;
use super::schema::{coupon_allow_list, coupons};
use super::{Conn, Db, DbError, MOST_VALUES, json};
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};

/// Maximum number of users on a list. The whole list is read, and written to Redis, at once.
pub const MAX_LISTED: u32 = 200_000;

/// Time limit for a statement over a whole list.
const LONG: Duration = Duration::from_secs(60);

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
pub enum ListChanged {
    Yes {
        /// The list after the change, or the same list if nothing changed.
        now: AllowList,
        /// How many users were added or removed.
        changed: u32,
    },
    /// The list would have more than [`MAX_LISTED`] users; nothing was changed.
    TooLong,
    NoCoupon,
}

/// A coupon's list and how long ago it changed, in milliseconds by MySQL's clock.
pub type ListWithAge = (CouponId, AllowList, Option<i64>);

const AGE_MS: &str = "TIMESTAMPDIFF(MICROSECOND, allow_list_changed_at, UTC_TIMESTAMP(6)) DIV 1000";

#[derive(QueryableByName)]
struct ListedRow {
    #[diesel(sql_type = Unsigned<BigInt>)]
    revision: u64,
    #[diesel(sql_type = Unsigned<diesel::sql_types::Integer>)]
    people: u32,
    #[diesel(sql_type = Nullable<Text>)]
    user_id: Option<String>,
}

impl Db {
    /// Changes a coupon's list in one transaction. The coupon gets a new revision that is also
    /// above `seen`, unless the list already is as wanted.
    pub async fn change_allow_list(
        &self,
        id: CouponId,
        seen: u64,
        change: ListChange,
        by: Operator,
    ) -> Result<ListChanged, DbError> {
        let done = self.run_within(LONG, "change an allow list", async move |conn| {
            conn.transaction(async |conn| change_list(conn, id, seen, &change, &by).await)
                .await
        });
        match done.await {
            Err(DbError::Query {
                source: RollbackTransaction,
                ..
            }) => Ok(ListChanged::TooLong),
            done => done,
        }
    }

    /// Gives a coupon's list a new revision, also above `seen`.
    pub async fn renew_allow_list(&self, id: CouponId, seen: u64) -> Result<(), DbError> {
        self.run("renew an allow list", async move |conn| {
            conn.transaction(async |conn| {
                if let Some(list) = locked(conn, id).await? {
                    set_list(conn, id, seen, list.people).await?;
                }
                Ok(())
            })
            .await
        })
        .await
    }

    /// Reads the revisions and sizes of these coupons' lists.
    pub async fn allow_lists(&self, ids: Vec<CouponId>) -> Result<Vec<ListWithAge>, DbError> {
        self.run("read allow lists", async move |conn| {
            let rows: Vec<(i64, u64, u32, Option<i64>)> = coupons::table
                .filter(coupons::id.eq_any(ids.iter().map(|id| id.0)))
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
            Ok(rows.into_iter().map(list).collect())
        })
        .await
    }

    /// Reads a coupon's list with its users, both of one moment. Returns `None` if the coupon does
    /// not exist.
    pub async fn listed_users(
        &self,
        id: CouponId,
    ) -> Result<Option<(AllowList, Vec<UserId>)>, DbError> {
        self.run_within(LONG, "read an allow list", async move |conn| {
            let rows: Vec<ListedRow> = diesel::sql_query(
                "SELECT c.allow_list_revision AS revision, c.allow_list_people AS people, l.user_id \
                 FROM coupons c LEFT JOIN coupon_allow_list l ON l.coupon_id = c.id WHERE c.id = ?",
            )
            .bind::<BigInt, _>(id.0)
            .load(conn)
            .await?;
            let list = rows.as_slice().first().map(|row| AllowList {
                revision: row.revision,
                people: row.people,
            });
            let users = rows.into_iter().filter_map(|row| row.user_id);
            let users = users.map(UserId::from_store).collect();
            Ok(list.map(|list| (list, users)))
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
        self.run("page of an allow list", async move |conn| {
            let page = coupon_allow_list::table
                .filter(coupon_allow_list::coupon_id.eq(id.0))
                .filter(coupon_allow_list::user_id.gt(after))
                .order(coupon_allow_list::user_id)
                .limit(limit)
                .select(coupon_allow_list::user_id);
            let names: Vec<String> = page.load(conn).await?;
            Ok(names.into_iter().map(UserId::from_store).collect())
        })
        .await
    }

    /// Whether a user is on a coupon's list.
    pub async fn is_allowed(&self, id: CouponId, user: &UserId) -> Result<bool, DbError> {
        let user = user.to_string();
        self.run("find a user on an allow list", async move |conn| {
            let row = coupon_allow_list::table.find((id.0, user));
            diesel::select(exists(row)).get_result(conn).await
        })
        .await
    }

    /// Finds the coupons whose lists contain a user.
    pub async fn allow_lists_of_person(&self, user: &UserId) -> Result<Vec<CouponId>, DbError> {
        let user = user.to_string();
        self.run_within(LONG, "allow lists of a user", async move |conn| {
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
    /// least that long ago. An operator who adds days to such a coupon must upload the list again
    /// first.
    pub async fn old_allow_lists(&self, kept: Duration) -> Result<Vec<CouponId>, DbError> {
        let Some(before) = before(kept) else {
            return Ok(Vec::new());
        };
        self.run_within(LONG, "old allow lists", async move |conn| {
            let found: Vec<IdRow> = diesel::sql_query(format!(
                "SELECT c.id FROM coupons c WHERE c.allow_list_people > 0 \
                 AND (c.allow_list_changed_at IS NULL OR c.allow_list_changed_at <= {before}) \
                 AND EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id) \
                 AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id AND (d.sealed_at IS NULL OR d.sealed_at > {before})) \
                 ORDER BY c.id LIMIT 100"
            ))
            .load(conn)
            .await?;
            Ok(found.into_iter().map(|one| CouponId(one.id)).collect())
        })
        .await
    }

    /// Deletes the list of a coupon that is over.
    pub async fn delete_allow_list(&self, id: CouponId) -> Result<(), DbError> {
        self.run_within(LONG, "delete an allow list", async move |conn| {
            conn.transaction(async |conn| {
                if locked(conn, id).await?.is_some() {
                    delete_all(conn, id).await?;
                    set_list(conn, id, 0, 0).await?;
                }
                Ok(())
            })
            .await
        })
        .await
    }
}

async fn change_list(
    conn: &mut Conn,
    id: CouponId,
    seen: u64,
    change: &ListChange,
    by: &Operator,
) -> QueryResult<ListChanged> {
    let Some(list) = locked(conn, id).await? else {
        return Ok(ListChanged::NoCoupon);
    };
    let changed = match change {
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
    if people > MAX_LISTED {
        return Err(RollbackTransaction);
    }
    // Rows may have been removed manually without updating the count.
    if changed == 0 && people == list.people {
        return Ok(ListChanged::Yes { now: list, changed });
    }
    let act = OperatorAct {
        action: "allow_list",
        coupon: Some(id),
        detail: serde_json::json!({ word: changed, "people": people }),
        ..OperatorAct::default()
    };
    by.did(conn, act).await?;
    let now = set_list(conn, id, seen, people).await?;
    Ok(ListChanged::Yes { now, changed })
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
        .select(coupons::allow_list_revision);
    let revision = revision.first(conn).await?;
    Ok(AllowList { revision, people })
}

/// The users of a statement, as a table.
const GIVEN: &str = "JSON_TABLE(?, '$[*]' COLUMNS (id VARCHAR(128) CHARACTER SET ascii COLLATE ascii_bin PATH '$')) j";

/// Inserts the users who are not on the list, and returns how many. The form of the ids is checked
/// and the coupon's row is locked, so that only repetitions are ignored.
async fn insert(conn: &mut Conn, id: CouponId, users: &[UserId]) -> QueryResult<usize> {
    let query = format!(
        "INSERT IGNORE INTO coupon_allow_list (coupon_id, user_id) \
         SELECT c.id, j.id FROM {GIVEN} STRAIGHT_JOIN coupons c ON c.id = ?"
    );
    for_users(conn, &query, id, users).await
}

async fn remove(conn: &mut Conn, id: CouponId, users: &[UserId]) -> QueryResult<usize> {
    let query = format!(
        "DELETE l FROM {GIVEN} STRAIGHT_JOIN coupon_allow_list l ON l.coupon_id = ? AND l.user_id = j.id"
    );
    for_users(conn, &query, id, users).await
}

async fn for_users(
    conn: &mut Conn,
    query: &str,
    id: CouponId,
    users: &[UserId],
) -> QueryResult<usize> {
    let mut changed = 0;
    for some in users.chunks(MOST_VALUES) {
        let query = diesel::sql_query(query).bind::<Text, _>(json(&some)?);
        changed += query.bind::<BigInt, _>(id.0).execute(conn).await?;
    }
    Ok(changed)
}

async fn delete_all(conn: &mut Conn, id: CouponId) -> QueryResult<usize> {
    let all = coupon_allow_list::table.filter(coupon_allow_list::coupon_id.eq(id.0));
    diesel::delete(all).execute(conn).await
}
