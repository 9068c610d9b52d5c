//! Allow lists of coupons. MySQL is the source of truth (docs/decisions/0012-revisions.md).

use std::time::Duration;

use diesel::QueryResult;
use diesel::result::Error::RollbackTransaction;

use super::ops_actions::{Operator, OperatorAct};
use super::runs::before;
use super::sql::read_as;
use super::{Conn, Db, DbError, DbResult, USERS, json, list};
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};
use crate::sql;

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

read_as!(AllowList {
    revision: u64,
    people: u32,
});

/// A coupon's list and how long ago it changed, in milliseconds by MySQL's clock; `None` if it
/// never changed.
pub type ListWithAge = (CouponId, AllowList, Option<i64>);

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
    pub async fn allow_lists(&self, ids: Vec<CouponId>) -> DbResult<Vec<ListWithAge>> {
        let query = "SELECT id, allow_list_revision, allow_list_people, \
                     TIMESTAMPDIFF(MICROSECOND, allow_list_changed_at, UTC_TIMESTAMP(6)) DIV 1000 \
                     FROM coupons WHERE id IN (?)";
        self.all("read allow lists", sql!(query, list(ids))).await
    }

    /// Reads a coupon's list with its users, both as of the same moment. Returns `None` if the coupon
    /// does not exist.
    pub async fn listed_users(&self, id: CouponId) -> DbResult<Option<(AllowList, Vec<UserId>)>> {
        let query = "SELECT c.allow_list_revision, c.allow_list_people, l.user_id \
                     FROM coupons c LEFT JOIN coupon_allow_list l ON l.coupon_id = c.id WHERE c.id = ?";
        let db = self.within(LONG);
        let rows: Vec<(AllowList, Option<UserId>)> =
            db.all("read an allow list", sql!(query, id)).await?;
        let list = rows.first().map(|(list, _)| *list);
        let users = rows.into_iter().filter_map(|(_, user)| user).collect();
        Ok(list.map(|list| (list, users)))
    }

    /// Deletes up to ten lists that have not changed for `kept`, of coupons whose drops were all
    /// sealed at least that long ago and that have no further days. An operator who adds days to
    /// such a coupon must upload the list again first. Returns how many were deleted.
    pub async fn delete_old_allow_lists(&self, kept: Duration) -> DbResult<usize> {
        let Some(before) = before(kept) else {
            return Ok(0);
        };
        let old = format!(
            "SELECT id FROM coupons c WHERE allow_list_people > 0 \
            AND COALESCE(allow_list_changed_at <= {before}, TRUE) \
            AND COALESCE(daily_until < CAST(UTC_DATE() - INTERVAL 1 DAY AS CHAR), TRUE) \
            AND EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id) \
            AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id \
            AND COALESCE(d.sealed_at > {before}, TRUE)) ORDER BY id LIMIT 10 FOR UPDATE OF c"
        );
        let db = self.within(LONG);
        db.transaction("delete old allow lists", async move |conn| {
            let old: Vec<CouponId> = sql!(old).all(conn).await?;
            for id in &old {
                let delete = sql!("DELETE FROM coupon_allow_list WHERE coupon_id = ?", *id);
                delete.run(conn).await?;
                set_list(conn, *id, 0, 0).await?;
            }
            Ok(old.len())
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
    let lock = "SELECT allow_list_revision, allow_list_people FROM coupons WHERE id = ? FOR UPDATE";
    sql!(lock, id).first(conn).await
}

/// Sets the coupon's next revision, which is also the list's, and the size of the list.
async fn set_list(conn: &mut Conn, id: CouponId, seen: u64, people: u32) -> QueryResult<AllowList> {
    // MySQL assigns from left to right, so the list gets the revision that was just set.
    let set = "UPDATE coupons SET revision = GREATEST(revision, ?) + 1, allow_list_revision = \
        revision, allow_list_people = ?, allow_list_changed_at = UTC_TIMESTAMP(3) WHERE id = ?";
    sql!(set, seen, people, id).run(conn).await?;
    let revision = sql!("SELECT allow_list_revision FROM coupons WHERE id = ?", id);
    Ok(AllowList {
        revision: revision.one(conn).await?,
        people,
    })
}

/// Changes the rows of a list, and returns how many. The caller holds the lock on the coupon's row,
/// so no other transaction changes them.
async fn apply(conn: &mut Conn, id: CouponId, change: &ListChange) -> QueryResult<u32> {
    let changed = match change {
        ListChange::Add(users) => {
            let insert = format!(
                "INSERT IGNORE INTO coupon_allow_list (coupon_id, user_id) SELECT ?, j.user_id \
                FROM {USERS}"
            );
            sql!(insert, id, json(users))
        }
        ListChange::Remove(users) => {
            let delete = format!(
                "DELETE l FROM {USERS} STRAIGHT_JOIN coupon_allow_list l ON l.coupon_id = ? \
                AND l.user_id = j.user_id"
            );
            sql!(delete, json(users), id)
        }
    };
    Ok(u32::try_from(changed.run(conn).await?).unwrap_or(u32::MAX))
}
