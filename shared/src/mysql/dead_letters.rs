//! The dead-letter table `failed_claims`: claims that did not become a row. The reconciler or an
//! operator resolves them.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::sql::{row, values};
use super::{Conn, Db, DbResult, Sql, Value, list};
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::model::DeadLetterReason;
use crate::sql;

mod keep;
mod operators;

pub use keep::{FailedClaim, KEPT_OF_MESSAGE, MessageOrigin, keep};
pub use operators::{Correction, DeadLetterQuery, Payload};

row! {
    /// A claim that the consumer could not turn into a row, a message that it could not read, or a
    /// claim that was inserted by hand.
    #[derive(Serialize, Deserialize, ToSchema)]
    #[schema(as = ListedFailedClaim)]
    pub struct DeadLetterRow {
        pub id: i64,
        pub coupon_id: Option<i64>,
        pub drop_id: Option<i64>,
        /// The slot, even if invalid.
        pub slot: Option<i64>,
        /// The user id in full, if known.
        #[schema(example = "u-37")]
        pub user_id: Option<String>,
        /// When the user was admitted, if known.
        pub claimed_at: Option<DateTime<Utc>>,
        #[schema(example = "slot_taken")]
        pub reason: String,
        #[schema(example = "another user holds the slot")]
        pub error: Option<String>,
        pub failed_at: DateTime<Utc>,
        pub resolved_at: Option<DateTime<Utc>>,
        #[schema(example = "issued")]
        pub resolution: Option<String>,
        #[schema(example = "its user holds slot 12")]
        pub resolution_detail: Option<String>,
        /// Partition of its message; null if it did not come from a message.
        pub partition as source_partition: Option<i32>,
        pub offset as source_offset: Option<i64>,
    }
}

impl DeadLetterRow {
    /// Whether its only evidence is a message, which any client with write access to the topic can
    /// send. All other dead letters were written or confirmed (`corrected`) by an operator.
    pub fn is_of_message(&self) -> bool {
        self.partition.is_some() && self.reason != DeadLetterReason::Corrected.as_str()
    }

    /// Whether its message has no valid signature of this installation.
    pub fn is_forged(&self) -> bool {
        self.reason == DeadLetterReason::Forged.as_str()
    }
}

impl Db {
    /// Reads the unresolved dead letters of a drop in a range of slots, in order of slot. At most a
    /// hundred per slot are read, because at most one of them is issued and a flood must not delay
    /// other slots. Older ones come first, but those whose only evidence is a message come last, so
    /// that they cannot displace others.
    pub async fn dead_letters_on_slots(
        &self,
        coupon: CouponId,
        drop: DropId,
        slots: RangeInclusive<i64>,
    ) -> DbResult<Vec<DeadLetterRow>> {
        let first = sql!(
            "SELECT {f.columns} FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY slot \
            ORDER BY source_partition IS NOT NULL AND reason <> 'corrected', id) AS place \
            FROM failed_claims WHERE resolved_at IS NULL AND drop_id = ? AND slot BETWEEN ? \
            AND ? AND COALESCE(coupon_id = ?, TRUE)) w JOIN failed_claims f ON f.id = w.id \
            WHERE w.place <= 100 ORDER BY f.slot, w.place",
            drop,
            *slots.start(),
            *slots.end(),
            coupon
        );
        let db = self.within(LONG);
        db.all("read dead letters", first).await
    }

    /// Reads the unresolved dead letters of a drop that name none of its slots: at most a thousand
    /// with a user, and a few without one.
    pub async fn dead_letters_beside_slots(
        &self,
        coupon: CouponId,
        drop: DropId,
        quantity: Slot,
    ) -> DbResult<Vec<DeadLetterRow>> {
        let beside = "SELECT {columns} FROM failed_claims WHERE resolved_at IS NULL AND drop_id = ? \
                      AND (slot IS NULL OR slot < 1 OR slot > ?) AND COALESCE(coupon_id = ?, TRUE)";
        let beside = |which| sql!(beside, drop, quantity, coupon).and(sql!(which));
        let named = sql!("(").and(beside(" AND user_id IS NOT NULL LIMIT 1000) UNION ALL ("));
        let all = named.and(beside(" AND user_id IS NULL LIMIT 10)"));
        self.within(LONG)
            .all("read dead letters beside the slots", all)
            .await
    }

    /// Returns those of these dead letters that are unresolved.
    pub async fn open_dead_letters(&self, ids: Vec<i64>) -> DbResult<HashSet<i64>> {
        let open = "SELECT id FROM failed_claims WHERE id IN (?) AND resolved_at IS NULL";
        self.all("read open dead letters", sql!(open, list(ids)))
            .await
    }

    /// Counts the unresolved dead letters that name no drop in which a pass could issue them, or a
    /// sealed drop and no user, optionally of one coupon or drop. Also reads up to ten of them, each
    /// with a description of what it names.
    pub async fn loose_dead_letters(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
    ) -> DbResult<(u64, Vec<(String, DeadLetterRow)>)> {
        let loose = sql!(LOOSE)
            .and(coupon.map_or(sql!(""), |id| {
                sql!(" AND (f.coupon_id = ? OR d.coupon_id = ?)", id, id)
            }))
            .and(drop.map_or(sql!(""), |id| sql!(" AND f.drop_id = ?", id)));
        let db = self.within(LONG);
        let count = sql!("SELECT COUNT(*)").and(loose.clone());
        let number = db.first("count loose dead letters", count).await?;
        let some = sql!(WITH_REASON).and(loose).and(sql!(" LIMIT 10"));
        let some = db.all("read loose dead letters", some).await?;
        Ok((number.unwrap_or(0), some))
    }

    /// Reads a user's dead letters of one coupon: the open ones, then resolved ones, each newest
    /// first.
    pub async fn dead_letters_of_person(
        &self,
        coupon: CouponId,
        user: &UserId,
        limit: u32,
    ) -> DbResult<Vec<DeadLetterRow>> {
        let own = "SELECT {columns} FROM failed_claims WHERE coupon_id = ? AND user_id = ? \
            ORDER BY resolved_at IS NULL DESC, id DESC LIMIT ?";
        let what = "read a person's dead letters";
        self.all(what, sql!(own, coupon, user, limit)).await
    }
}

/// Time limit of a read or a count over many dead letters.
const LONG: Duration = Duration::from_secs(30);

const LOOSE: &str = " FROM failed_claims f LEFT JOIN drops d ON d.id = f.drop_id \
    WHERE f.resolved_at IS NULL AND (d.id IS NULL OR f.coupon_id <> d.coupon_id \
    OR d.sealed_at IS NOT NULL AND f.user_id IS NULL)";

const WITH_REASON: &str = "SELECT CASE WHEN f.drop_id IS NULL THEN 'no drop' WHEN d.id IS NULL \
    THEN 'a drop that does not exist' WHEN f.coupon_id <> d.coupon_id THEN 'a drop of another \
    coupon' ELSE 'a sealed drop and no user' END, {f.columns}";

/// The resolution of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub id: i64,
    /// One word: `issued`, `duplicate`, `revoked`, `owed`.
    pub how: &'static str,
    pub detail: String,
}

/// Resolves many dead letters in one statement.
pub async fn resolve(conn: &mut Conn, resolutions: &[Resolution], run_id: &str) -> QueryResult<()> {
    if resolutions.is_empty() {
        return Ok(());
    }
    let rows = vec!["ROW(?, ?, ?)"; resolutions.len()].join(", ");
    let update = format!(
        "UPDATE (VALUES {rows}) AS v (id, how, detail) \
        STRAIGHT_JOIN failed_claims f FORCE INDEX (PRIMARY) ON f.id = v.id \
        SET f.resolved_at = UTC_TIMESTAMP(3), f.resolution = v.how, f.resolution_detail = \
        v.detail, f.resolved_by_run = ? WHERE f.resolved_at IS NULL"
    );
    let mut values: Vec<Value> = resolutions
        .iter()
        .flat_map(|it| values![it.id, it.how, &it.detail])
        .collect();
    values.push(run_id.into());
    Sql::new(update, values).run(conn).await.map(|_| ())
}
