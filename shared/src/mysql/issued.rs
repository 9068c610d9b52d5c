//! The table of issued coupons.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use diesel::QueryResult;
use diesel_async::SimpleAsyncConnection as _;

use super::codes::CodeKey;
use super::slot_limits::SlotLimits;
use super::sql::row;
use super::take_out::take_out;
pub use super::take_out::{TakenOut, TakenOutRows};
use super::{Columns, Conn, Db, DbResult, Sql, list, of_users};
use crate::claim::{Claim, IssuedBy};
use crate::domain::{ClaimOfSlot, CouponId, DropId, Slot, UserId};
use crate::sql;

row! {
    #[derive(PartialEq, Eq)]
    pub struct IssuedRow {
        pub drop_id: i64,
        pub slot: u32,
        pub coupon_id: i64,
        /// The user id in full.
        pub user_id: String,
        pub code: String,
        /// When the user was admitted (UTC).
        pub claimed_at: DateTime<Utc>,
        /// When the row was written (UTC).
        pub issued_at: DateTime<Utc>,
        /// `consumer`, `api` or `reconciler`.
        pub issued_by: String,
    }
}

/// Inserts claims with one multi-row statement, atomically, then deletes the rows that must not
/// stay, and returns them. Must be called in a transaction.
///
/// The statement is text, not prepared: for a thousand rows, a prepared statement has several
/// thousand parameters, each of which MySQL describes in a separate packet before the values are
/// sent, although the statement is used only once (measurements: docs/PERFORMANCE.md).
pub async fn insert(
    conn: &mut Conn,
    claims: &[Claim],
    key: &CodeKey,
    by: IssuedBy,
) -> QueryResult<TakenOutRows> {
    if claims.is_empty() {
        return Ok(TakenOutRows::default());
    }
    let now = Utc::now();
    let limits = SlotLimits::read(conn, claims).await?;
    conn.batch_execute(&statement(claims, key, &limits, by, now))
        .await?;
    take_out(conn, claims, by).await
}

/// Builds the statement. Its values are numbers, timestamps, and strings without characters that
/// have a meaning in SQL (see [`push_text`]).
fn statement(
    claims: &[Claim],
    key: &CodeKey,
    limits: &SlotLimits,
    by: IssuedBy,
    now: DateTime<Utc>,
) -> String {
    let issued_at = instant(now);
    let mut sql = String::with_capacity(256 + claims.len() * 180);
    sql.push_str(
        "INSERT INTO issued_coupons (drop_id, slot, coupon_id, user_id, code, claimed_at, \
        issued_at, issued_by, person_scope, slot_limit) VALUES ",
    );
    for (i, claim) in claims.iter().enumerate() {
        if i > 0 {
            sql.push(',');
        }
        let drop = claim.drop_id;
        let slot = claim.slot;
        let coupon = claim.coupon_id;
        // Writing to a `String` does not fail.
        let _ = write!(sql, "({drop},{slot},{coupon},");
        push_text(&mut sql, claim.user_id.as_str());
        let claimed_at = claim.claimed_at.unwrap_or(now);
        let code = key.code(claim, claimed_at);
        let claimed_at = instant(claimed_at);
        let (limit, scope) = limits.for_claim(claim);
        let by = <&str>::from(by);
        let _ = write!(
            sql,
            ",'{code}','{claimed_at}','{issued_at}','{by}',{scope},{limit})"
        );
    }
    sql
}

/// Appends a user id as a literal. Ids written manually may contain anything, even quotes, so
/// invalid ids are written in hexadecimal and cannot terminate the literal.
fn push_text(sql: &mut String, text: &str) {
    if UserId::has_form(text) {
        sql.push('\'');
        sql.push_str(text);
        sql.push('\'');
    } else {
        sql.push_str("_utf8mb4 X'");
        for byte in text.bytes() {
            // Writing to a `String` does not fail.
            let _ = write!(sql, "{byte:02X}");
        }
        sql.push('\'');
    }
}

/// Truncates the time to microseconds, the highest precision that MySQL reads. MySQL rounds the
/// result to the precision of the column.
fn instant(at: DateTime<Utc>) -> NaiveDateTime {
    at.naive_utc().trunc_subsecs(6)
}

/// Selects the rows on these slots of one drop.
pub fn on_slots(drop: DropId, slots: &[Slot]) -> Sql {
    let on = "SELECT {columns} FROM issued_coupons WHERE drop_id = ? AND slot IN (?)";
    sql!(on, drop, list(slots.iter().copied()))
}

/// Selects the rows of these users in any drop of a coupon. For a list of 200 or more values, MySQL
/// only estimates the number of rows (`eq_range_index_dive_limit`), and with stale statistics it
/// may scan the whole table; hence the join.
pub fn of_people(coupon: CouponId, users: &[&str]) -> Sql {
    let users: BTreeSet<&str> = users.iter().copied().collect();
    let own = " STRAIGHT_JOIN issued_coupons i FORCE INDEX (issued_coupons_one_each) \
               ON i.coupon_id = ? AND i.user_id = j.user_id ORDER BY i.claimed_at, i.slot";
    let own = sql!(own, coupon);
    of_users("SELECT {i.columns} FROM ", users.into_iter(), own)
}

/// Slots counted per statement, which takes MySQL about 50 ms.
const SLOTS_COUNTED_AT_ONCE: i64 = 200_000;

impl Db {
    /// Counts the rows of a drop, at least up to the slot `upper`, in ranges of slots, so that no
    /// statement takes longer for a larger drop.
    pub async fn count_rows(&self, drop: DropId, upper: i64) -> DbResult<u64> {
        let mut rows = 0;
        let mut from = 0;
        while from <= upper {
            let count =
                "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = ? AND slot >= ? AND slot < ?";
            let part = sql!(count, drop, from, from + SLOTS_COUNTED_AT_ONCE);
            from += SLOTS_COUNTED_AT_ONCE;
            rows += self.first::<u64>("count rows", part).await?.unwrap_or(0);
        }
        Ok(rows)
    }

    /// Reads the highest slot with a row, by drop.
    pub async fn highest_slots(&self, drops: &[DropId]) -> DbResult<HashMap<DropId, Slot>> {
        let highest =
            "SELECT drop_id, MAX(slot) FROM issued_coupons WHERE drop_id IN (?) GROUP BY drop_id";
        let highest = sql!(highest, list(drops.iter().copied()));
        self.all("highest slots", highest).await
    }

    /// Reads slot, user and time of admission of the rows in a range of slots, in order.
    pub async fn rows_on_slots(
        &self,
        drop: DropId,
        slots: RangeInclusive<Slot>,
    ) -> DbResult<Vec<ClaimOfSlot>> {
        self.all("rows on slots", rows_between(drop, &slots)).await
    }

    /// Reads the rows of these users in a coupon.
    pub async fn rows_of_people(
        &self,
        coupon: CouponId,
        people: &[UserId],
    ) -> DbResult<Vec<IssuedRow>> {
        let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
        self.all("rows of people", of_people(coupon, &names)).await
    }

    /// Reads slot, user and time of admission of the rows in a range of slots, in order, unless the
    /// coupon has begun an era above `era`.
    pub async fn rows_in_era(
        &self,
        (coupon, era): (CouponId, u64),
        drop: DropId,
        slots: RangeInclusive<Slot>,
    ) -> DbResult<Option<Vec<ClaimOfSlot>>> {
        let db = self.of_primary();
        db.transaction("rows in an era", async move |conn| {
            if has_later_era(conn, coupon, era).await? {
                return Ok(None);
            }
            rows_between(drop, &slots).all(conn).await.map(Some)
        })
        .await
    }
}

/// Whether the coupon has begun an era above `era`. Holds the era's lock until the end of the
/// transaction, so that a new era, and whatever is read in it, waits for the rows of this
/// transaction. Only a primary's answer counts ([`Db::of_primary`]).
pub async fn has_later_era(conn: &mut Conn, coupon: CouponId, era: u64) -> QueryResult<bool> {
    let lock = sql!("SELECT era FROM coupons WHERE id = ? FOR SHARE", coupon);
    let now: Option<u64> = lock.first(conn).await?;
    Ok(now.is_some_and(|now| now > era))
}

fn rows_between(drop: DropId, slots: &RangeInclusive<Slot>) -> Sql {
    let rows = "SELECT slot, user_id, claimed_at FROM issued_coupons \
                WHERE drop_id = ? AND slot BETWEEN ? AND ? ORDER BY slot";
    sql!(rows, drop, *slots.start(), *slots.end())
}

impl Columns for ClaimOfSlot {
    type Sql = <(Slot, UserId, DateTime<Utc>) as Columns>::Sql;
    type Raw = <(Slot, UserId, DateTime<Utc>) as Columns>::Raw;

    fn from_raw((slot, user, at): Self::Raw) -> Self {
        Self {
            slot,
            user: UserId::from_raw(user),
            at_ms: Some(at.and_utc().timestamp_millis()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn user_id_cannot_terminate_its_sql_literal(text in ".{0,80}", signs in "['\"`\\\\;#-]{0,9}") {
            for text in [text.clone(), signs.clone(), format!("{text}{signs}"), format!("u{signs}")] {
                let mut sql = String::new();
                push_text(&mut sql, &text);
                let inner = sql.strip_suffix('\'').unwrap();
                let inner = inner.strip_prefix("_utf8mb4 X'").or_else(|| inner.strip_prefix('\'')).unwrap();
                prop_assert!(inner.bytes().all(|b| b.is_ascii_alphanumeric() || b"._@+-|:=/".contains(&b)), "{}", sql);
            }
        }
    }
}
