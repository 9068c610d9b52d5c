//! Promises to users: the rows that fulfil them, and the promises that could not be kept yet
//! (`broken_promises`).

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde_json::json;

use super::issued::{IssuedRow, of_people};
use super::ops_actions::{Operator, OperatorAct};
use super::revoked;
use super::sql::row;
use super::{Conn, Db, DbResult, list};
use crate::domain::{CouponId, DropId, NamedDrop, UserId};
use crate::model::Revocation;
use crate::sql;

/// A user's rows, revocations and promises that could not be kept when they were due.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonRecord {
    /// The user's rows, oldest claim first.
    pub rows: Vec<IssuedRow>,
    /// When a shop used the code of the user's row, by drop. Empty if the record was read as
    /// [`Db::person`] reads it.
    pub used_at: HashMap<i64, DateTime<Utc>>,
    /// The user's broken promises, including resolved ones, oldest first.
    pub broken: Vec<BrokenPromiseRow>,
    /// The user's revocations, oldest first.
    pub revoked: Vec<Revocation>,
}

row! {
    /// A promise that could not be kept when it was due.
    #[derive(Default, PartialEq, Eq)]
    pub struct BrokenPromiseRow {
        pub drop_id: DropId,
        /// The promised slot, if known.
        pub slot: Option<i64>,
        pub reason: String,
        pub run_id: String,
        pub created_at: DateTime<Utc>,
        pub mended_at: Option<DateTime<Utc>>,
    }
}

/// Time limit of a look-up in every coupon.
const LONG: Duration = Duration::from_secs(120);

const MEND: &str = "UPDATE broken_promises SET mended_at = UTC_TIMESTAMP(3) \
                    WHERE drop_id = ? AND user_id IN (?) AND mended_at IS NULL";

impl Db {
    /// Marks these users' broken promises as resolved, because the users now have rows.
    pub async fn mend_broken_promises(&self, drop: DropId, people: &[UserId]) -> DbResult<()> {
        for some in people.chunks(Self::PROMISES_AT_ONCE) {
            let mend = sql!(MEND, drop, list(some));
            self.execute("mend broken promises", mend).await?;
        }
        Ok(())
    }

    /// Marks a drop's broken promise to a user as resolved, because an operator confirms that the
    /// user was informed. Returns 1, or 0 if there is no unresolved one. The user stays at the head
    /// of the drop's waiting list: if passes removed everybody there without an open promise, they
    /// would also remove users whose promise MySQL has lost in a failover.
    pub async fn give_up_promises(
        &self,
        NamedDrop { coupon, drop }: NamedDrop,
        user: &UserId,
        by: Operator,
    ) -> DbResult<usize> {
        let user = user.clone();
        self.transaction("give up broken promises", async move |conn| {
            let given_up = sql!(MEND, drop, &user).run(conn).await?;
            if given_up > 0 {
                let detail = json!({"user_id": user, "promises": given_up});
                let act = OperatorAct::new("give_up_promise", Some(coupon), Some(drop), detail);
                by.did(conn, act).await?;
            }
            Ok(given_up)
        })
        .await
    }

    /// Maximum number of broken promises that one statement reads or changes.
    pub const PROMISES_AT_ONCE: usize = 1_000;

    /// Reads the drops with unresolved broken promises.
    pub async fn drops_with_broken_promises(&self) -> DbResult<HashSet<DropId>> {
        let drops = sql!("SELECT DISTINCT drop_id FROM broken_promises WHERE mended_at IS NULL");
        self.all("drops with broken promises", drops).await
    }

    /// Reads a page of a drop's unresolved broken promises: users with ids above `after`, in order
    /// of id, each with the slot. An unknown slot is `i64::MAX`.
    pub async fn open_promises(&self, drop: DropId, after: String) -> DbResult<Vec<(UserId, i64)>> {
        let page = sql!(
            "SELECT user_id, COALESCE(slot, 9223372036854775807) FROM broken_promises \
                    WHERE mended_at IS NULL AND drop_id = ? AND user_id > ? ORDER BY user_id LIMIT ?",
            drop,
            after,
            Self::PROMISES_AT_ONCE as u64
        );
        self.all("read broken promises", page).await
    }

    /// Finds the coupons in which a user has a row, a revocation, or a broken promise.
    pub async fn coupons_of_person(&self, user: &UserId) -> DbResult<Vec<CouponId>> {
        // Each table has an index that begins with coupon and user: one lookup per coupon.
        let of = |table| {
            format!(
                "SELECT t.coupon_id AS id FROM coupons c \
                STRAIGHT_JOIN {table} t ON t.coupon_id = c.id AND t.user_id = ?"
            )
        };
        let all = ["issued_coupons", "revoked_coupons", "broken_promises"]
            .map(of)
            .join(" UNION ");
        let all = sql!(format!("{all} ORDER BY id"), user, user, user);
        self.within(LONG).all("coupons of a person", all).await
    }

    /// Reads everything recorded about `user` in any drop of `coupon`.
    pub async fn person(&self, coupon: CouponId, user: &UserId) -> DbResult<PersonRecord> {
        let user = user.clone();
        self.run("read a person", async move |conn| {
            read_person(conn, coupon, user).await
        })
        .await
    }

    /// Reads what determines the status of a user's claim: the rows that no open revocation voids,
    /// with one statement, if one of them belongs to the drop `only` (`None`: to any drop);
    /// otherwise everything, as [`Db::person`] does. After a rush, all winners ask for their codes
    /// at about the same time.
    pub async fn person_with_row(
        &self,
        coupon: CouponId,
        only: Option<DropId>,
        user: &UserId,
    ) -> DbResult<PersonRecord> {
        let user = user.clone();
        self.run("read a user's rows", async move |conn| {
            let standing = "SELECT {i.columns}, u.used_at FROM issued_coupons i \
                            LEFT JOIN coupon_uses u ON u.drop_id = i.drop_id \
                            AND u.slot = i.slot AND u.claimed_at = i.claimed_at \
                            AND u.in_use = 1 \
                            WHERE i.coupon_id = ? AND i.user_id = ? AND NOT EXISTS \
                            (SELECT 1 FROM revoked_coupons r WHERE r.coupon_id = i.coupon_id \
                            AND r.user_id = i.user_id AND r.open_scope = i.person_scope) \
                            ORDER BY i.claimed_at, i.slot";
            let found: Vec<(IssuedRow, Option<DateTime<Utc>>)> =
                sql!(standing, coupon, &user).all(conn).await?;
            let mut record = PersonRecord::default();
            for (row, used_at) in found {
                record.used_at.extend(used_at.map(|at| (row.drop_id, at)));
                record.rows.push(row);
            }
            if !record
                .rows
                .iter()
                .any(|row: &IssuedRow| only.is_none_or(|only| only.0 == row.drop_id))
            {
                return read_person(conn, coupon, user).await;
            }
            Ok(record)
        })
        .await
    }
}

async fn read_person(conn: &mut Conn, coupon: CouponId, user: UserId) -> QueryResult<PersonRecord> {
    let broken = "SELECT {columns} FROM broken_promises \
                  WHERE coupon_id = ? AND user_id = ? ORDER BY created_at";
    Ok(PersonRecord {
        broken: sql!(broken, coupon, &user).all(conn).await?,
        rows: of_people(coupon, &[user.as_str()]).all(conn).await?,
        revoked: revoked::of_people(coupon, &[user]).all(conn).await?,
        used_at: HashMap::new(),
    })
}
