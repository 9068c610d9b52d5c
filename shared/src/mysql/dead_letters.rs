//! The dead-letter table `failed_claims`: claims that did not become a row, kept until the
//! reconciler or an operator has resolved them. It is also the fallback for claims that Kafka did
//! not accept (reason [`UNPUBLISHED`]).

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text, Unsigned};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};

use super::literal::push_text;
use super::schema::failed_claims;
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId, Slot, UserId};

mod keep;
mod look;

pub use keep::{
    CORRECTED, FailedClaim, MessageOrigin, UNPUBLISHED, UNREADABLE, Unpublished, keep,
    keep_unpublished,
};
pub use look::{Correction, DeadLetterQuery, Payload};

/// A row of the table, as the reconciler reads it.
#[derive(Debug, Clone, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = failed_claims)]
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
    /// The span of the claim in W3C format, if it has a trace.
    pub traceparent: Option<String>,
}

impl DeadLetterRow {
    /// Whether its only evidence is a message, which any client with write access to the topic can
    /// send. All other dead letters were written by an API or an operator.
    pub fn is_of_message(&self) -> bool {
        self.source_partition.is_some() && self.reason != CORRECTED
    }
}

impl Db {
    /// Counts the unresolved dead letters of each drop, except those that name another coupon.
    /// Omits drops without dead letters.
    pub async fn count_dead_letters(
        &self,
        drops: Vec<DropId>,
    ) -> Result<HashMap<DropId, u64>, DbError> {
        self.run_within(LONG, "count dead letters", async move |conn| {
            let mut counts = HashMap::new();
            for some in drops.chunks(DROPS_AT_ONCE) {
                let found: Vec<Counted> = diesel::sql_query(format!(
                    "SELECT f.drop_id AS id, COUNT(*) AS number FROM failed_claims f JOIN drops d ON d.id = f.drop_id \
                     WHERE f.resolved_at IS NULL AND f.drop_id IN ({}) \
                     AND (f.coupon_id IS NULL OR f.coupon_id = d.coupon_id) GROUP BY f.drop_id",
                    list(some.iter().map(|drop| drop.0))
                ))
                .load(conn)
                .await?;
                let found = found.into_iter();
                counts.extend(found.map(|of| (DropId(of.id), u64::try_from(of.number).unwrap_or(0))));
            }
            Ok(counts)
        })
        .await
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
    ) -> Result<Vec<DeadLetterRow>, DbError> {
        let mut found = Vec::new();
        let (mut next, high) = slots.into_inner();
        // `high` may be the highest number there is.
        let mut is_over = false;
        while next <= high && !is_over {
            let mut some = self
                .some_dead_letters(coupon, drop, next..=high, false)
                .await?;
            let last = some.last().and_then(|letter| letter.slot).unwrap_or(high);
            if some.len() < LETTERS_AT_ONCE {
                is_over = true;
            } else if last == next {
                some.extend(
                    self.some_dead_letters(coupon, drop, next..=next, true)
                        .await?,
                );
                is_over = last == high;
                next = last.saturating_add(1);
            } else {
                // The last slot may have more: read it again at the start of the next page.
                some.retain(|letter| letter.slot != Some(last));
                next = last;
            }
            some.sort_unstable_by_key(|letter| (letter.slot, letter.is_of_message(), letter.id));
            some.dedup_by_key(|letter| letter.id);
            found.extend(
                some.chunk_by(|a, b| a.slot == b.slot)
                    .flat_map(|on| on.iter().take(OF_A_SLOT))
                    .cloned(),
            );
        }
        Ok(found)
    }

    /// Reads the first dead letters in order of slot, including or excluding those that have only a
    /// message as evidence.
    async fn some_dead_letters(
        &self,
        coupon: CouponId,
        drop: DropId,
        slots: RangeInclusive<i64>,
        is_trusted: bool,
    ) -> Result<Vec<DeadLetterRow>, DbError> {
        let (low, high) = slots.into_inner();
        self.run("read dead letters", async move |conn| {
            let of_drop = failed_claims::resolved_at
                .is_null()
                .and(failed_claims::drop_id.eq(drop.0));
            let of_coupon = failed_claims::coupon_id
                .is_null()
                .or(failed_claims::coupon_id.eq(coupon.0));
            let mut query = failed_claims::table
                .filter(
                    of_drop
                        .and(failed_claims::slot.between(low, high))
                        .and(of_coupon),
                )
                .order(failed_claims::slot)
                .limit(i64::try_from(LETTERS_AT_ONCE).unwrap_or(i64::MAX))
                .select(DeadLetterRow::as_select())
                .into_boxed();
            if is_trusted {
                query = query.filter(
                    failed_claims::source_partition
                        .is_null()
                        .or(failed_claims::reason.eq(CORRECTED)),
                );
            }
            query.load(conn).await
        })
        .await
    }

    /// Reads the unresolved dead letters of a drop that name none of its slots: at most a thousand
    /// with a user, and a few without one.
    pub async fn dead_letters_beside_slots(
        &self,
        coupon: CouponId,
        drop: DropId,
        quantity: Slot,
    ) -> Result<Vec<DeadLetterRow>, DbError> {
        self.run_within(LONG, "read dead letters beside the slots", async move |conn| {
            let mut found = Vec::new();
            for (person, most) in [("f.user_id IS NOT NULL", 1_000), ("f.user_id IS NULL", EXAMPLES)] {
                found.extend(
                    diesel::sql_query(format!(
                        "SELECT {COLUMNS} FROM failed_claims f WHERE f.resolved_at IS NULL AND f.drop_id = {drop} \
                         AND (f.slot IS NULL OR f.slot < 1 OR f.slot > {quantity}) \
                         AND (f.coupon_id IS NULL OR f.coupon_id = {coupon}) AND {person} LIMIT {most}"
                    ))
                    .load::<DeadLetterRow>(conn)
                    .await?,
                );
            }
            Ok(found)
        })
        .await
    }

    /// Returns the users of those of these dead letters that are unresolved.
    pub async fn users_of_open_dead_letters(
        &self,
        ids: Vec<i64>,
    ) -> Result<HashMap<i64, Option<String>>, DbError> {
        self.run("read users of dead letters", async move |conn| {
            let open = failed_claims::resolved_at.is_null();
            let found: Vec<(i64, Option<String>)> = failed_claims::table
                .filter(failed_claims::id.eq_any(ids).and(open))
                .select((failed_claims::id, failed_claims::user_id))
                .load(conn)
                .await?;
            Ok(found.into_iter().collect())
        })
        .await
    }

    /// Reads the unresolved dead letters that name no drop in which a pass could issue them, or a
    /// sealed drop and no user, optionally of one coupon or drop. They are counted by reason.
    pub async fn loose_dead_letters(
        &self,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
    ) -> Result<Vec<LooseDeadLetters>, DbError> {
        self.run_within(LONG, "count loose dead letters", async move |conn| {
            let of_coupon = coupon
                .map(|CouponId(id)| format!(" AND (g.coupon_id = {id} OR d.coupon_id = {id})"));
            let of_drop = drop.map(|DropId(id)| format!(" AND g.drop_id = {id}"));
            let which = [of_coupon, of_drop].map(Option::unwrap_or_default).concat();
            let groups: Vec<LooseGroup> = diesel::sql_query(format!("{LOOSE}{which} GROUP BY why"))
                .load(conn)
                .await?;
            Ok(groups.into_iter().map(Into::into).collect())
        })
        .await
    }

    /// Deletes dead letters that were resolved longer than `kept` ago, including payloads, in small
    /// statements. Returns their number. Unresolved ones are kept indefinitely.
    pub async fn delete_resolved_dead_letters(&self, kept: Duration) -> Result<usize, DbError> {
        const STATEMENTS: usize = 20;
        let mut deleted = 0;
        for _ in 0..STATEMENTS {
            let seconds = kept.as_secs();
            let some = self.run("delete resolved dead letters", async move |conn| {
                let delete = "DELETE FROM failed_claims WHERE resolved_at < UTC_TIMESTAMP(3) - INTERVAL ? SECOND";
                diesel::sql_query(format!("{delete} ORDER BY resolved_at LIMIT {DELETED_AT_ONCE}"))
                    .bind::<Unsigned<BigInt>, _>(seconds)
                    .execute(conn)
                    .await
            });
            let some = some.await?;
            deleted += some;
            if some < DELETED_AT_ONCE {
                break;
            }
        }
        Ok(deleted)
    }

    /// Reads a user's dead letters of one coupon, including resolved ones, oldest first; at most a
    /// thousand.
    pub async fn dead_letters_of_person(
        &self,
        coupon: CouponId,
        user: &UserId,
    ) -> Result<Vec<DeadLetterRow>, DbError> {
        let name = user.as_str().to_owned();
        self.run("read a person's dead letters", async move |conn| {
            failed_claims::table
                .filter(
                    failed_claims::user_id
                        .eq(name)
                        .and(failed_claims::coupon_id.eq(coupon.0)),
                )
                .order(failed_claims::id)
                .limit(1_000)
                .select(DeadLetterRow::as_select())
                .load(conn)
                .await
        })
        .await
    }

    /// Finds users with a dead letter on a slot of a drop; reads at most a hundred dead letters.
    pub async fn people_of_dead_letters_on(
        &self,
        drop: DropId,
        slot: i64,
    ) -> Result<Vec<UserId>, DbError> {
        self.run("dead letters on a slot", async move |conn| {
            let names: Vec<Option<String>> = failed_claims::table
                .filter(
                    failed_claims::drop_id
                        .eq(drop.0)
                        .and(failed_claims::slot.eq(slot)),
                )
                .limit(100)
                .select(failed_claims::user_id)
                .load(conn)
                .await?;
            Ok(names
                .into_iter()
                .flatten()
                .filter_map(|name| name.parse().ok())
                .collect())
        })
        .await
    }
}

/// Maximum duration of counting all unresolved dead letters from the index.
const LONG: Duration = Duration::from_secs(30);

/// Drops per statement.
const DROPS_AT_ONCE: usize = 1_000;

const LETTERS_AT_ONCE: usize = 2_000;

/// Maximum number of dead letters on one slot that a pass processes.
const OF_A_SLOT: usize = 100;

const DELETED_AT_ONCE: usize = 500;

/// Maximum number of dead letters listed as examples; the rest is only counted.
const EXAMPLES: usize = 10;

const COLUMNS: &str = "f.id, f.coupon_id, f.drop_id, f.slot, f.user_id, f.claimed_at, f.reason, f.error, f.failed_at, \
                       f.resolved_at, f.resolution, f.resolution_detail, f.source_partition, f.source_offset, f.traceparent";

/// Groups by coupon and drop before looking up drops, because millions of dead letters may name
/// only a few drops.
const LOOSE: &str = "SELECT CASE WHEN g.drop_id IS NULL THEN 'no drop' \
         WHEN d.id IS NULL THEN 'a drop that does not exist' \
         WHEN g.coupon_id <> d.coupon_id THEN 'a drop of another coupon' \
         ELSE 'a sealed drop and no user' END AS why, \
     CAST(SUM(g.number) AS SIGNED) AS number, MIN(g.first_id) AS first_id \
     FROM (SELECT drop_id, coupon_id, user_id IS NULL AS is_nameless, COUNT(*) AS number, MIN(id) AS first_id \
           FROM failed_claims WHERE resolved_at IS NULL GROUP BY drop_id, coupon_id, is_nameless) g \
     LEFT JOIN drops d ON d.id = g.drop_id \
     WHERE (d.id IS NULL OR g.coupon_id <> d.coupon_id OR d.sealed_at IS NOT NULL AND g.is_nameless)";

#[derive(QueryableByName)]
struct Counted {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = BigInt)]
    number: i64,
}

#[derive(QueryableByName)]
struct LooseGroup {
    #[diesel(sql_type = Text)]
    why: String,
    #[diesel(sql_type = BigInt)]
    number: i64,
    #[diesel(sql_type = BigInt)]
    first_id: i64,
}

/// Dead letters that no pass can resolve.
#[derive(Debug, Clone)]
pub struct LooseDeadLetters {
    /// Describes the drop that they name, for example `no drop` or `a sealed drop and no user`.
    pub why: String,
    pub number: u64,
    /// The id of one of them.
    pub first: i64,
}

impl From<LooseGroup> for LooseDeadLetters {
    fn from(group: LooseGroup) -> Self {
        Self {
            why: group.why,
            number: u64::try_from(group.number).unwrap_or(0),
            first: group.first_id,
        }
    }
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

/// Formats numbers as an SQL list.
pub(super) fn list(numbers: impl Iterator<Item = i64>) -> String {
    numbers
        .map(|number| number.to_string())
        .collect::<Vec<_>>()
        .join(",")
}
