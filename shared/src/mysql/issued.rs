//! The table of issued coupons.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::ops::RangeInclusive;

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use diesel::dsl::max;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};

use super::codes::CodeKey;
use super::slot_limits::SlotLimits;
use super::take_out::take_out;
pub use super::take_out::{TakenOut, TakenOutRows};
use super::{Conn, Count, Db, DbResult, Prepared, ascii, json};
use crate::claim::{Claim, IssuedBy};
use crate::domain::{ClaimOfSlot, CouponId, DropId, Slot, UserId};
use crate::schema::{coupons, issued_coupons};

#[derive(Debug, Clone, PartialEq, Eq, Queryable, Selectable, QueryableByName)]
#[diesel(table_name = issued_coupons)]
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

/// A row, as passes compare it.
#[derive(Queryable, Selectable)]
#[diesel(table_name = issued_coupons)]
struct ClaimRow {
    slot: Slot,
    user_id: UserId,
    claimed_at: DateTime<Utc>,
}

impl From<ClaimRow> for ClaimOfSlot {
    fn from(row: ClaimRow) -> Self {
        Self {
            slot: row.slot,
            user: row.user_id,
            at_ms: Some(row.claimed_at.timestamp_millis()),
        }
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

/// Reads the rows on these slots of one drop. The list of slots is one value, because MySQL
/// describes each parameter of a statement in a packet.
pub async fn on_slots(
    conn: &mut Conn,
    drop: DropId,
    slots: &[Slot],
) -> QueryResult<Vec<IssuedRow>> {
    Prepared(
        sql_query(
            "SELECT i.* FROM JSON_TABLE(?, '$[*]' COLUMNS (slot INT UNSIGNED PATH '$')) j \
             STRAIGHT_JOIN issued_coupons i ON i.drop_id = ? AND i.slot = j.slot",
        )
        .bind::<Text, _>(json(&slots))
        .bind::<BigInt, _>(drop),
    )
    .load(conn)
    .await
}

/// Reads the rows of these users in any drop of a coupon. For a list of 200 or more values, MySQL
/// only estimates the number of rows (`eq_range_index_dive_limit`), and with stale statistics it
/// may scan the whole table; hence the join.
pub async fn of_people(
    conn: &mut Conn,
    coupon: CouponId,
    users: &[&str],
) -> QueryResult<Vec<IssuedRow>> {
    Prepared(
        sql_query(
            "SELECT i.* FROM JSON_TABLE(?, '$[*]' COLUMNS (user_id VARCHAR(128) \
                 CHARACTER SET ascii COLLATE ascii_bin PATH '$')) j \
             STRAIGHT_JOIN issued_coupons i FORCE INDEX (issued_coupons_one_each) \
                 ON i.coupon_id = ? AND i.user_id = j.user_id ORDER BY i.claimed_at, i.slot",
        )
        .bind::<Text, _>(ascii(users.iter().copied()))
        .bind::<BigInt, _>(coupon),
    )
    .load(conn)
    .await
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
            let upper_end = from + SLOTS_COUNTED_AT_ONCE;
            let part = sql_query(
                "SELECT COUNT(*) AS number FROM issued_coupons \
                 WHERE drop_id = ? AND slot >= ? AND slot < ?",
            )
            .bind::<BigInt, _>(drop)
            .bind::<BigInt, _>(from)
            .bind::<BigInt, _>(upper_end);
            from = upper_end;
            let part: Option<Count> = self.row("count rows", part).await?;
            rows += part.map_or(0, |part| part.number.cast_unsigned());
        }
        Ok(rows)
    }

    /// Reads the highest slot with a row, by drop.
    pub async fn highest_slots(&self, drops: &[DropId]) -> DbResult<HashMap<DropId, Slot>> {
        let highest = issued_coupons::table
            .filter(issued_coupons::drop_id.eq_any(drops.to_vec()))
            .group_by(issued_coupons::drop_id)
            .select((
                issued_coupons::drop_id,
                max(issued_coupons::slot).assume_not_null(),
            ));
        let highest = self.rows("highest slots", highest).await?;
        Ok(highest.into_iter().collect())
    }

    /// Reads slot, user and time of admission of the rows in a range of slots, in order.
    pub async fn rows_on_slots(
        &self,
        drop: DropId,
        slots: RangeInclusive<Slot>,
    ) -> DbResult<Vec<ClaimOfSlot>> {
        let rows = async move |conn: &mut Conn| rows_between(conn, drop, &slots).await;
        self.run("rows on slots", rows).await
    }

    /// Reads the rows of these users in a coupon.
    pub async fn rows_of_people(
        &self,
        coupon: CouponId,
        people: &[UserId],
    ) -> DbResult<Vec<IssuedRow>> {
        let people = people.to_vec();
        self.run("rows of people", async move |conn| {
            let names: Vec<&str> = people.iter().map(UserId::as_str).collect();
            of_people(conn, coupon, &names).await
        })
        .await
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
            rows_between(conn, drop, &slots).await.map(Some)
        })
        .await
    }
}

/// Whether the coupon has begun an era above `era`. Holds the era's lock until the end of the
/// transaction, so that a new era, and whatever is read in it, waits for the rows of this
/// transaction. Only a primary's answer counts ([`Db::of_primary`]).
pub async fn has_later_era(conn: &mut Conn, coupon: CouponId, era: u64) -> QueryResult<bool> {
    let now: Option<u64> = coupons::table
        .find(coupon)
        .select(coupons::era)
        .for_share()
        .get_result(conn)
        .await
        .optional()?;
    Ok(now.is_some_and(|now| now > era))
}

async fn rows_between(
    conn: &mut Conn,
    drop: DropId,
    slots: &RangeInclusive<Slot>,
) -> QueryResult<Vec<ClaimOfSlot>> {
    let rows: Vec<ClaimRow> = issued_coupons::table
        .filter(issued_coupons::drop_id.eq(drop))
        .filter(issued_coupons::slot.between(*slots.start(), *slots.end()))
        .order(issued_coupons::slot)
        .select(ClaimRow::as_select())
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(ClaimOfSlot::from).collect())
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
