//! Allow lists of coupons. MySQL is the source of truth (docs/decisions/0012-revisions.md).

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel::result::Error::RollbackTransaction;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;

use super::ops_actions::{Operator, OperatorAct};
use super::{Conn, Db, DbError, DbResult, json};
use crate::columns::{At, Datetime, MysqlTime, now};
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};
use crate::schema::{coupon_allow_list, coupons};

/// Maximum number of users on a list. After each change, the whole list is read and written to
/// Redis again.
pub const MAX_LISTED: u32 = 200_000;

/// Time limit for a statement over a whole list.
const LONG: Duration = Duration::from_secs(60);

/// A change of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListChange {
    Add(Vec<UserId>),
    Remove(Vec<UserId>),
}

/// Whether a change of an allow list was made, and if not, why.
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

/// A coupon's list and when it changed, if ever.
#[derive(Debug, Clone, Queryable, Selectable)]
#[diesel(table_name = coupons)]
pub struct StoredList {
    #[diesel(column_name = id)]
    pub coupon: CouponId,
    #[diesel(embed)]
    pub list: AllowList,
    #[diesel(column_name = allow_list_changed_at)]
    changed_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = now(), select_expression_type = MysqlTime)]
    now: DateTime<Utc>,
}

impl StoredList {
    /// How long ago it changed, by MySQL's clock.
    pub fn age(&self) -> Option<TimeDelta> {
        self.changed_at.map(|at| self.now - at)
    }
}

impl Db {
    /// Changes a coupon's list in one transaction. The coupon gets a new revision that is also
    /// above `seen`, the highest one in Redis, unless the list already is as wanted.
    pub async fn change_allow_list(
        &self,
        id: CouponId,
        seen: u64,
        change: ListChange,
        by: Operator,
    ) -> DbResult<ListChanged> {
        let db = self.within(LONG);
        let changed = db.transaction("change an allow list", async move |conn| {
            change_list(conn, id, seen, &change, &by).await
        });
        match changed.await {
            Err(DbError::Query {
                source: RollbackTransaction,
                ..
            }) => Ok(ListChanged::TooLong),
            changed => changed,
        }
    }

    /// Gives a coupon's list a new revision, also above `seen`.
    pub async fn renew_allow_list(&self, id: CouponId, seen: u64) -> DbResult<()> {
        self.transaction("renew an allow list", async move |conn| {
            if let Some(list) = locked(conn, id).await? {
                set_list(conn, id, seen, list.people).await?;
            }
            Ok(())
        })
        .await
    }

    /// Reads the revisions and sizes of these coupons' lists.
    pub async fn allow_lists(&self, ids: Vec<CouponId>) -> DbResult<Vec<StoredList>> {
        let lists = coupons::table
            .filter(coupons::id.eq_any(ids))
            .select(StoredList::as_select());
        self.rows("read allow lists", lists).await
    }

    /// Reads a coupon's list with its users, both as of the same moment. Returns `None` if the coupon
    /// does not exist.
    pub async fn listed_users(&self, id: CouponId) -> DbResult<Option<(AllowList, Vec<UserId>)>> {
        let listed = coupons::table
            .left_join(coupon_allow_list::table)
            .filter(coupons::id.eq(id))
            .select((
                AllowList::as_select(),
                coupon_allow_list::user_id.nullable(),
            ));
        let db = self.within(LONG);
        let rows: Vec<(AllowList, Option<UserId>)> = db.rows("read an allow list", listed).await?;
        let list = rows.iter().map(|(list, _)| *list).next();
        let users = rows.into_iter().filter_map(|(_, user)| user).collect();
        Ok(list.map(|list| (list, users)))
    }

    /// Deletes up to ten lists that have not changed for `kept`, of coupons whose drops were all
    /// sealed at least that long ago and that have no further days. An operator who adds days to
    /// such a coupon must upload the list again first. Returns how many were deleted.
    pub async fn delete_old_allow_lists(&self, kept: Duration) -> DbResult<usize> {
        let before = self.time_before(kept).await?;
        let db = self.within(LONG);
        db.transaction("delete old allow lists", async move |conn| {
            let old: Vec<OldList> = sql_query(
                "SELECT c.id FROM coupons c WHERE c.allow_list_people > 0 \
                 AND COALESCE(c.allow_list_changed_at <= ?, TRUE) \
                 AND COALESCE(c.daily_until < CAST(DATE(?) AS CHAR), TRUE) \
                 AND EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id) \
                 AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id \
                     AND COALESCE(GREATEST(d.sealed_at, COALESCE(d.closes_at, d.sealed_at)) > ?, TRUE)) \
                 ORDER BY c.id LIMIT 10 FOR UPDATE OF c",
            )
            .bind::<Datetime, _>(At(before))
            .bind::<Datetime, _>(At(before))
            .bind::<Datetime, _>(At(before))
            .load(conn)
            .await?;
            for list in &old {
                let own = coupon_allow_list::table.filter(coupon_allow_list::coupon_id.eq(list.id));
                diesel::delete(own).execute(conn).await?;
                set_list(conn, list.id, 0, 0).await?;
            }
            Ok(old.len())
        })
        .await
    }
}

/// The coupon of a list to delete.
#[derive(QueryableByName)]
#[diesel(table_name = coupons)]
struct OldList {
    id: CouponId,
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
    let changed = apply(conn, id, change).await?;
    let (word, people) = match change {
        ListChange::Add(_) => ("added", list.people.saturating_add(changed)),
        ListChange::Remove(_) => ("removed", list.people.saturating_sub(changed)),
    };
    if people > MAX_LISTED {
        return Err(RollbackTransaction);
    }
    if changed == 0 {
        return Ok(ListChanged::Yes { now: list, changed });
    }
    let detail = serde_json::json!({ word: changed, "people": people });
    let act = OperatorAct::new("allow_list", Some(id), None, detail);
    by.did(conn, act).await?;
    let now = set_list(conn, id, seen, people).await?;
    Ok(ListChanged::Yes { now, changed })
}

/// Locks a coupon's list until the transaction ends.
async fn locked(conn: &mut Conn, id: CouponId) -> QueryResult<Option<AllowList>> {
    coupons::table
        .find(id)
        .select(AllowList::as_select())
        .for_update()
        .get_result(conn)
        .await
        .optional()
}

/// Sets the coupon's next revision, which is also the list's, and the size of the list.
async fn set_list(conn: &mut Conn, id: CouponId, seen: u64, people: u32) -> QueryResult<AllowList> {
    // MySQL assigns from left to right, so the list gets the revision that was just set.
    sql_query(
        "UPDATE coupons SET revision = GREATEST(revision, ?) + 1, allow_list_revision = revision, \
         allow_list_people = ?, allow_list_changed_at = UTC_TIMESTAMP(3) WHERE id = ?",
    )
    .bind::<Unsigned<BigInt>, _>(seen)
    .bind::<Unsigned<Integer>, _>(people)
    .bind::<BigInt, _>(id)
    .execute(conn)
    .await?;
    coupons::table
        .find(id)
        .select(AllowList::as_select())
        .get_result(conn)
        .await
}

/// Changes the rows of a list, and returns how many. The caller holds the lock on the coupon's row,
/// so no other transaction changes them.
async fn apply(conn: &mut Conn, id: CouponId, change: &ListChange) -> QueryResult<u32> {
    let changed = match change {
        ListChange::Add(users) => {
            sql_query(
                "INSERT IGNORE INTO coupon_allow_list (coupon_id, user_id) SELECT ?, j.user_id \
                 FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id VARCHAR(128) CHARACTER SET ascii \
                     COLLATE ascii_bin PATH '$')) j",
            )
            .bind::<BigInt, _>(id)
            .bind::<Text, _>(json(users))
            .execute(conn)
            .await
        }
        ListChange::Remove(users) => {
            sql_query(
                "DELETE l FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id VARCHAR(128) \
                     CHARACTER SET ascii COLLATE ascii_bin PATH '$')) j \
                 STRAIGHT_JOIN coupon_allow_list l ON l.coupon_id = ? AND l.user_id = j.user_id",
            )
            .bind::<Text, _>(json(users))
            .bind::<BigInt, _>(id)
            .execute(conn)
            .await
        }
    };
    Ok(u32::try_from(changed?).unwrap_or(u32::MAX))
}
