//! The dead-letter table `failed_claims`: claims that did not become a row, kept until the
//! reconciler or an operator has resolved them. It is also the fallback for claims that Kafka did
//! not accept (reason `unpublished`).

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::NaiveDateTime;
use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection as _;

use super::literal::push_text;
use super::sql::row;
use super::{Conn, Db, DbResult, list};
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::sql;

mod keep;
mod look;

pub use keep::{CORRECTED, FailedClaim, MessageOrigin, UNREADABLE, keep};
pub use look::{Correction, DeadLetterQuery, Payload};

row! {
    /// A row of the table, as the reconciler reads it.
    pub struct DeadLetterRow {
        pub id: i64,
        pub coupon_id: Option<i64>,
        pub drop_id: Option<i64>,
        /// The slot, even if invalid.
        pub slot: Option<i64>,
        /// The user id in full, if known.
        pub user_id: Option<String>,
        /// When the user was admitted (UTC), if known.
        pub claimed_at: Option<NaiveDateTime>,
        pub reason: String,
        pub error: Option<String>,
        /// When it was written (UTC).
        pub failed_at: NaiveDateTime,
        /// When it was resolved (UTC).
        pub resolved_at: Option<NaiveDateTime>,
        pub resolution: Option<String>,
        pub resolution_detail: Option<String>,
        pub source_partition: Option<i32>,
        pub source_offset: Option<i64>,
    }
}

impl DeadLetterRow {
    /// Whether its only evidence is a message, which any client with write access to the topic can
    /// send. All other dead letters were written or confirmed (`corrected`) by an operator.
    pub fn is_of_message(&self) -> bool {
        self.source_partition.is_some() && self.reason != CORRECTED
    }
}

impl Db {
    /// Counts the unresolved dead letters of each drop, except those that name another coupon.
    /// Omits drops without dead letters.
    pub async fn count_dead_letters(&self, drops: Vec<DropId>) -> DbResult<HashMap<DropId, u64>> {
        let count = "SELECT f.drop_id, COUNT(*) FROM failed_claims f JOIN drops d ON d.id = f.drop_id \
                     WHERE f.resolved_at IS NULL AND f.drop_id IN (?) \
                     AND (f.coupon_id IS NULL OR f.coupon_id = d.coupon_id) GROUP BY f.drop_id";
        let db = self.within(LONG);
        db.by_drop("count dead letters", count, &drops).await
    }

    /// Reads the unresolved dead letters of a drop in a range of slots, in order of slot. At most
    /// the oldest hundred per slot are read, because at most one of them is issued and a flood must
    /// not delay other slots. Dead letters whose only evidence is a message come last, so that they
    /// cannot displace others.
    pub async fn dead_letters_on_slots(
        &self,
        coupon: CouponId,
        drop: DropId,
        slots: RangeInclusive<i64>,
    ) -> DbResult<Vec<DeadLetterRow>> {
        let first = "SELECT {f.columns} FROM (SELECT id, ROW_NUMBER() OVER (PARTITION BY slot \
                     ORDER BY source_partition IS NOT NULL AND reason <> 'corrected', id) AS place \
                     FROM failed_claims WHERE resolved_at IS NULL AND drop_id = ? AND slot BETWEEN ? AND ? \
                     AND COALESCE(coupon_id = ?, TRUE)) w JOIN failed_claims f ON f.id = w.id \
                     WHERE w.place <= 100 ORDER BY f.slot, w.place";
        let first = sql!(first, drop, *slots.start(), *slots.end(), coupon);
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

    /// Reads the unresolved dead letters that name no drop in which a pass could issue them, or a
    /// sealed drop and no user, optionally of one coupon or drop. They are counted by reason, each
    /// with a few examples. If there are only a few dead letters, the examples include all of them.
    pub async fn loose_dead_letters(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
    ) -> DbResult<Vec<LooseDeadLetters>> {
        let of_coupon = |id| sql!(" AND (g.coupon_id = ? OR d.coupon_id = ?)", id, id);
        let of_drop = |id| sql!(" AND g.drop_id = ?", id);
        let groups = sql!(LOOSE)
            .and(coupon.map_or(sql!(""), of_coupon))
            .and(drop.map_or(sql!(""), of_drop))
            .and(sql!(" GROUP BY why"));
        let db = self.within(LONG);
        let groups: Vec<(String, u64, String)> = db.all("count loose dead letters", groups).await?;
        let mut loose = Vec::with_capacity(groups.len());
        for (why, number, first_ids) in groups {
            let first: Vec<&str> = first_ids.split(',').take(EXAMPLES).collect();
            let examples = "SELECT {f.columns} FROM failed_claims e STRAIGHT_JOIN failed_claims f \
                            ON f.drop_id <=> e.drop_id AND f.coupon_id <=> e.coupon_id AND f.resolved_at IS NULL \
                            AND (f.user_id IS NULL) = (e.user_id IS NULL) WHERE e.id IN (?) LIMIT 10";
            let examples = sql!(examples, list(first));
            let examples = db.all("read loose dead letters", examples).await?;
            loose.push(LooseDeadLetters {
                why,
                number,
                examples,
            });
        }
        Ok(loose)
    }

    /// Reads a user's dead letters of one coupon, including resolved ones, oldest first; at most a
    /// thousand.
    pub async fn dead_letters_of_person(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> DbResult<Vec<DeadLetterRow>> {
        let own = "SELECT {columns} FROM failed_claims WHERE coupon_id = ? AND user_id = ? ORDER BY id LIMIT 1000";
        let what = "read a person's dead letters";
        self.all(what, sql!(own, coupon, user)).await
    }
}

/// Maximum duration of counting all unresolved dead letters from the index.
const LONG: Duration = Duration::from_secs(30);

/// Maximum number of dead letters listed as examples; the rest is only counted.
const EXAMPLES: usize = 10;

/// Groups by coupon and drop before looking up drops, because millions of dead letters may name
/// only a few drops.
const LOOSE: &str = "SELECT CASE WHEN g.drop_id IS NULL THEN 'no drop' \
         WHEN d.id IS NULL THEN 'a drop that does not exist' \
         WHEN g.coupon_id <> d.coupon_id THEN 'a drop of another coupon' \
         ELSE 'a sealed drop and no user' END AS why, \
     SUM(g.number), GROUP_CONCAT(g.first_id ORDER BY g.first_id) \
     FROM (SELECT drop_id, coupon_id, user_id IS NULL AS is_nameless, COUNT(*) AS number, MIN(id) AS first_id \
           FROM failed_claims WHERE resolved_at IS NULL GROUP BY drop_id, coupon_id, is_nameless) g \
     LEFT JOIN drops d ON d.id = g.drop_id \
     WHERE (d.id IS NULL OR g.coupon_id <> d.coupon_id OR d.sealed_at IS NOT NULL AND g.is_nameless)";

/// Dead letters that no pass can resolve.
#[derive(Debug, Clone)]
pub struct LooseDeadLetters {
    /// Describes the drop that they name, for example `no drop` or `a sealed drop and no user`.
    pub why: String,
    pub number: u64,
    pub examples: Vec<DeadLetterRow>,
}

/// The resolution of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolution {
    pub id: i64,
    /// One word: `issued`, `duplicate`, `readmitted`.
    pub how: &'static str,
    pub detail: String,
}

/// Resolves many dead letters in one statement.
pub async fn resolve(conn: &mut Conn, resolutions: &[Resolution], run_id: &str) -> QueryResult<()> {
    if resolutions.is_empty() {
        return Ok(());
    }
    let mut sql = String::from("UPDATE (VALUES ");
    for (i, Resolution { id, how, detail }) in resolutions.iter().enumerate() {
        // Writing to a `String` does not fail.
        let _ = write!(sql, "{}ROW({id},", if i > 0 { "," } else { "" });
        push_text(&mut sql, how);
        sql.push(',');
        push_text(&mut sql, detail);
        sql.push(')');
    }
    sql.push_str(
        ") AS v (id, how, detail) STRAIGHT_JOIN failed_claims f FORCE INDEX (PRIMARY) ON f.id = v.id \
         SET f.resolved_at = UTC_TIMESTAMP(3), f.resolution = v.how, f.resolution_detail = v.detail, f.resolved_by_run = ",
    );
    push_text(&mut sql, run_id);
    sql.push_str(" WHERE f.resolved_at IS NULL");
    conn.batch_execute(&sql).await
}
