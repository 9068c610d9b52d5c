//! The table of issued coupons.

use std::fmt::Write as _;

use chrono::{DateTime, NaiveDateTime, SubsecRound as _, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};

use super::codes::CodeKey;
use super::slot_limits::SlotLimits;
pub use super::take_out::InsertOutcome;
use super::take_out::take_out;
use super::{Conn, Prepared, ascii, json};
use crate::claim::{Claim, IssuedBy};
use crate::domain::{CouponId, DropId, Slot, UserId};
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

/// Inserts claims with one multi-row statement, atomically, then deletes the rows that must not
/// stay, and returns the outcome of each claim, in the order of the claims. Must be called in a
/// transaction.
///
/// The rows are inserted in the order of the primary key: of two processes that write the same
/// rows, one then waits for the other instead of deadlocking with it.
///
/// The statement is text, not prepared: for a thousand rows, a prepared statement has several
/// thousand parameters, each of which MySQL describes in a separate packet before the values are
/// sent, although the statement is used only once (measurements: docs/PERFORMANCE.md).
pub async fn insert(
    conn: &mut Conn,
    claims: &[&Claim],
    key: &CodeKey,
    by: IssuedBy,
) -> QueryResult<Vec<InsertOutcome>> {
    if claims.is_empty() {
        return Ok(Vec::new());
    }
    let now = Utc::now();
    let limits = SlotLimits::read(conn, claims).await?;
    let mut sorted = claims.to_vec();
    sorted.sort_unstable_by_key(|claim| (claim.drop_id, claim.slot));
    conn.batch_execute(&statement(&sorted, key, &limits, by, now))
        .await?;
    take_out(conn, claims, by).await
}

/// Builds the statement. Its values are numbers, timestamps, and strings without characters that
/// have a meaning in SQL (see [`push_text`]).
fn statement(
    claims: &[&Claim],
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
        let limit = limits.for_claim(claim);
        let scope = limit.person_scope;
        let limit = limit.slot_limit;
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
pub async fn of_users(
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

/// Whether the coupon has begun an era above `era`. Holds the era's lock until the end of the
/// transaction, so that a new era, and whatever is read in it, waits for the rows of this
/// transaction. Only a primary's answer counts (`Db::of_primary`).
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
