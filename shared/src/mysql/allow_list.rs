//! Allow lists of coupons. MySQL is the source of truth (docs/decisions/0019-allow-list.md).

use std::time::Duration;

use diesel::QueryResult;
use serde_json::json;

use super::ops_actions::{Operator, OperatorAct};
use super::runs::before;
use super::{Conn, Db, DbError, USERS, json, list};
use crate::coupon::AllowList;
use crate::domain::{CouponId, UserId};
use crate::sql;

/// Time limit for a statement over a list of a million users.
const LONG: Duration = Duration::from_secs(60);

/// Users deleted in one transaction.
const DELETED_AT_ONCE: u32 = 10_000;

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
        let db = if change == ListChange::Empty {
            self.within(LONG)
        } else {
            self.clone()
        };
        db.transaction("change an allow list", async move |conn| {
            let Some(list) = locked(conn, id).await? else {
                return Ok(None);
            };
            let changed = apply(conn, id, &change).await?;
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
            let before = list.revision;
            Ok(Some(ListChanged {
                before,
                now,
                changed,
            }))
        })
        .await
    }

    /// Gives a coupon's list a new revision, also above `seen`.
    pub async fn renew_allow_list(
        &self,
        id: CouponId,
        seen: u64,
    ) -> Result<Option<AllowList>, DbError> {
        self.transaction("renew an allow list", async move |conn| {
            let Some(list) = locked(conn, id).await? else {
                return Ok(None);
            };
            set_list(conn, id, seen, list.people).await.map(Some)
        })
        .await
    }

    /// Reads the revision and size of a coupon's list.
    pub async fn allow_list(&self, id: CouponId) -> Result<Option<AllowList>, DbError> {
        let lists = self.allow_lists(vec![id]).await?;
        Ok(lists.into_iter().next().map(|(_, list, _)| list))
    }

    /// Reads the revisions and sizes of these coupons' lists.
    pub async fn allow_lists(&self, ids: Vec<CouponId>) -> Result<Vec<ListWithAge>, DbError> {
        let query = "SELECT id, allow_list_revision, allow_list_people, \
                     TIMESTAMPDIFF(MICROSECOND, allow_list_changed_at, UTC_TIMESTAMP(6)) DIV 1000 \
                     FROM coupons WHERE id IN (?)";
        let found: Vec<(i64, u64, u32, Option<i64>)> =
            self.all("read allow lists", sql!(query, list(ids))).await?;
        let list =
            |(id, revision, people, age_ms)| (CouponId(id), AllowList { revision, people }, age_ms);
        Ok(found.into_iter().map(list).collect())
    }

    /// Reads users on a coupon's list with ids above `after`, in order of id.
    pub async fn allowed_after(
        &self,
        id: CouponId,
        after: String,
        limit: i64,
    ) -> Result<Vec<UserId>, DbError> {
        let page = "SELECT user_id FROM coupon_allow_list WHERE coupon_id = ? AND user_id > ? ORDER BY user_id LIMIT ?";
        let page = sql!(page, id, after, limit);
        let names: Vec<String> = self.all("people of an allow list", page).await?;
        Ok(names.into_iter().map(UserId::from_store).collect())
    }

    /// Whether a user is on a coupon's list.
    pub async fn is_allowed(&self, id: CouponId, user: &UserId) -> Result<bool, DbError> {
        let query = "SELECT coupon_id FROM coupon_allow_list WHERE coupon_id = ? AND user_id = ?";
        let query = sql!(query, id, user);
        let found = self.first::<i64>("find a person on an allow list", query);
        Ok(found.await?.is_some())
    }

    /// Finds the coupons whose lists contain a user.
    pub async fn allow_lists_of_person(&self, user: &UserId) -> Result<Vec<CouponId>, DbError> {
        // Uses the primary key: one lookup per coupon with a list.
        let query = "SELECT l.coupon_id FROM coupons c STRAIGHT_JOIN coupon_allow_list l \
                     ON l.coupon_id = c.id AND l.user_id = ? WHERE c.allow_list_revision > 0 ORDER BY l.coupon_id";
        let db = self.within(LONG);
        let found: Vec<i64> = db.all("allow lists of a person", sql!(query, user)).await?;
        Ok(found.into_iter().map(CouponId).collect())
    }

    /// Finds some coupons whose list has not changed for `kept` and whose drops were all sealed at
    /// least that long ago, each with its revision. An operator who adds days to such a coupon must
    /// upload the list again first.
    pub async fn old_allow_lists(&self, kept: Duration) -> Result<Vec<(CouponId, u64)>, DbError> {
        let Some(before) = before(kept) else {
            return Ok(Vec::new());
        };
        let old = format!(
            "SELECT c.id, c.revision FROM coupons c WHERE c.allow_list_people > 0 \
             AND COALESCE(c.allow_list_changed_at <= {before}, TRUE) \
             AND EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id) \
             AND NOT EXISTS (SELECT 1 FROM drops d WHERE d.coupon_id = c.id AND COALESCE(d.sealed_at > {before}, TRUE)) \
             ORDER BY c.id LIMIT 100"
        );
        let db = self.within(LONG);
        let found: Vec<(i64, u64)> = db.all("old allow lists", sql!(old)).await?;
        Ok(found
            .into_iter()
            .map(|(id, revision)| (CouponId(id), revision))
            .collect())
    }

    /// Deletes part of a coupon's list if the coupon has this revision. Returns the new revision,
    /// and whether more is left, or `None` if the coupon was changed.
    pub async fn delete_some_of_allow_list(
        &self,
        id: CouponId,
        revision: u64,
    ) -> Result<Option<(u64, bool)>, DbError> {
        self.transaction("delete an allow list", async move |conn| {
            let lock = "SELECT allow_list_people FROM coupons WHERE id = ? AND revision = ? FOR UPDATE";
            let people: Option<u32> = sql!(lock, id, revision).first(conn).await?;
            let Some(people) = people else { return Ok(None) };
            let delete = "DELETE FROM coupon_allow_list WHERE coupon_id = ? LIMIT ?";
            let deleted = sql!(delete, id, DELETED_AT_ONCE).run(conn).await?;
            let has_more = deleted == DELETED_AT_ONCE as usize;
            let left = if has_more { people.saturating_sub(DELETED_AT_ONCE).max(1) } else { 0 };
            // Keep the time of the last change, so that an interrupted deletion is continued.
            let revision = revision.saturating_add(1);
            let set = "UPDATE coupons SET revision = ?, allow_list_revision = ?, allow_list_people = ? WHERE id = ?";
            sql!(set, revision, revision, left, id).run(conn).await?;
            Ok(Some((revision, has_more)))
        })
        .await
    }
}

/// Locks a coupon's list until the transaction ends.
async fn locked(conn: &mut Conn, id: CouponId) -> QueryResult<Option<AllowList>> {
    let lock = "SELECT allow_list_revision, allow_list_people FROM coupons WHERE id = ? FOR UPDATE";
    let found: Option<(u64, u32)> = sql!(lock, id).first(conn).await?;
    Ok(found.map(|(revision, people)| AllowList { revision, people }))
}

/// Sets the coupon's next revision, which is also the list's, and the size of the list.
async fn set_list(conn: &mut Conn, id: CouponId, seen: u64, people: u32) -> QueryResult<AllowList> {
    // MySQL assigns from left to right, so the list gets the revision that was just set.
    let set = "UPDATE coupons SET revision = GREATEST(revision, ?) + 1, allow_list_revision = revision, \
               allow_list_people = ?, allow_list_changed_at = UTC_TIMESTAMP(3) WHERE id = ?";
    sql!(set, seen, people, id).run(conn).await?;
    let revision = sql!("SELECT allow_list_revision FROM coupons WHERE id = ?", id);
    Ok(AllowList {
        revision: revision.one(conn).await?,
        people,
    })
}

/// Changes the rows of a list, and returns how many. The caller holds the lock on the coupon's row,
/// so nobody else changes them.
async fn apply(conn: &mut Conn, id: CouponId, change: &ListChange) -> QueryResult<u32> {
    let changed = match change {
        ListChange::Add(users) => {
            let insert = format!(
                "INSERT INTO coupon_allow_list (coupon_id, user_id) SELECT DISTINCT ?, j.user_id FROM {USERS} \
                 LEFT JOIN coupon_allow_list l ON l.coupon_id = ? AND l.user_id = j.user_id WHERE l.user_id IS NULL"
            );
            sql!(insert, id, json(users)?, id)
        }
        ListChange::Remove(users) => {
            let delete = format!(
                "DELETE l FROM {USERS} STRAIGHT_JOIN coupon_allow_list l ON l.coupon_id = ? AND l.user_id = j.user_id"
            );
            sql!(delete, json(users)?, id)
        }
        ListChange::Empty => sql!("DELETE FROM coupon_allow_list WHERE coupon_id = ?", id),
    };
    Ok(u32::try_from(changed.run(conn).await?).unwrap_or(u32::MAX))
}
