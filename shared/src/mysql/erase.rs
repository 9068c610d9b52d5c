//! Erasing a person: their id gives way to a pseudonym wherever a table names it. The rows stay, so
//! that totals stay exact.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::ops_actions::{Act, Operator};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, UserId};

/// Findings and acts have no index of people.
const LONG: Duration = Duration::from_secs(120);

/// What was erased.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Erased {
    /// What stands in place of the id from now on.
    pub pseudonym: String,
    /// Rows by table.
    pub rows: Vec<(&'static str, usize)>,
}

/// The tables with a person, each with its texts that may name one.
const TABLES: [(&str, &[&str]); 5] = [
    ("issued_coupons", &[]),
    ("revoked_coupons", &["reason", "revoked_by"]),
    ("broken_promises", &["reason"]),
    ("failed_claims", &["error", "resolution_detail"]),
    ("reconcile_findings", &["detail"]),
];

/// An id as a regular expression that finds it alone, and not within another one.
fn alone(user: &UserId) -> String {
    let escaped: String =
        user.as_str().chars().flat_map(|c| (!c.is_ascii_alphanumeric()).then_some('\\').into_iter().chain([c])).collect();
    format!("(?<![A-Za-z0-9._@+|:=-]){escaped}(?![A-Za-z0-9._@+|:=-])")
}

#[derive(QueryableByName)]
struct Found {
    #[diesel(sql_type = BigInt)]
    id: i64,
}

impl Db {
    /// The coupons in which a person is named: by a row, a revocation, or a broken promise.
    pub async fn coupons_of_person(&self, user: &UserId) -> Result<Vec<CouponId>, DbError> {
        let user = user.to_string();
        self.run_within(LONG, "coupons of a person", async move |conn| {
            // By the unique key of each table, a look a coupon.
            let of = |table: &str| {
                format!("SELECT t.coupon_id AS id FROM coupons c STRAIGHT_JOIN {table} t ON t.coupon_id = c.id AND t.user_id = ?")
            };
            let all = ["issued_coupons", "revoked_coupons", "broken_promises"].map(of).join(" UNION ");
            let query = diesel::sql_query(format!("{all} ORDER BY id"));
            let query = query.bind::<Text, _>(&user).bind::<Text, _>(&user).bind::<Text, _>(&user);
            let found: Vec<Found> = query.load(conn).await?;
            Ok(found.into_iter().map(|one| CouponId(one.id)).collect())
        })
        .await
    }

    /// How many dead letters and promises of a person are still open.
    pub async fn open_of_person(&self, user: &UserId) -> Result<i64, DbError> {
        let user = user.to_string();
        self.run_within(LONG, "what is open of a person", async move |conn| {
            let sql = "SELECT (SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL AND user_id = ?) + \
                       (SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL AND user_id = ?) AS id";
            let query = diesel::sql_query(sql).bind::<Text, _>(&user).bind::<Text, _>(&user);
            query.get_result::<Found>(conn).await.map(|found| found.id)
        })
        .await
    }

    /// Erases a person in these coupons, and in everything that belongs to none. All of it, or
    /// nothing.
    pub async fn erase(
        &self,
        user: UserId,
        coupons: Vec<CouponId>,
        pseudonym: String,
        by: Operator,
    ) -> Result<Erased, DbError> {
        self.run_within(LONG, "erase a person", async move |conn| {
            conn.transaction(async |conn| {
                let mut rows = Vec::with_capacity(TABLES.len() + 1);
                for (table, texts) in TABLES {
                    rows.push((table, rename(conn, table, texts, &user, &coupons, &pseudonym).await?));
                }
                let update = "UPDATE ops_actions SET detail = CAST(REGEXP_REPLACE(CAST(detail AS CHAR), ?, ?, 1, 0, 'c') AS JSON) \
                              WHERE REGEXP_LIKE(CAST(detail AS CHAR), ?, 'c')";
                let expression = alone(&user);
                let update = diesel::sql_query(update).bind::<Text, _>(&expression).bind::<Text, _>(&pseudonym);
                rows.push(("ops_actions", update.bind::<Text, _>(&expression).execute(conn).await?));
                let detail = json!({"erased_as": pseudonym, "coupons": coupons.len()});
                by.did(conn, Act { action: "erase", detail, ..Act::default() }).await?;
                Ok(Erased { pseudonym, rows })
            })
            .await
        })
        .await
    }
}

/// Puts the pseudonym in place of the id in one table. Messages of dead letters go: they hold it in
/// a form of their own.
async fn rename(
    conn: &mut Conn,
    table: &str,
    texts: &[&str],
    user: &UserId,
    coupons: &[CouponId],
    pseudonym: &str,
) -> QueryResult<usize> {
    let of_coupons = match table {
        // By the unique key, which begins with the coupon.
        "issued_coupons" | "revoked_coupons" | "broken_promises" => {
            if coupons.is_empty() {
                return Ok(0);
            }
            format!("coupon_id IN ({}) AND ", super::dead_letters::list(coupons.iter().map(|coupon| coupon.0)))
        }
        _ => String::new(),
    };
    let payload = if table == "failed_claims" { ", payload = NULL" } else { "" };
    let texts: String = texts
        .iter()
        .map(|text| format!(", {text} = REGEXP_REPLACE({text}, '{}', '{pseudonym}', 1, 0, 'c')", alone(user).replace('\\', "\\\\")))
        .collect();
    let sql = format!("UPDATE {table} SET user_id = ?{payload}{texts} WHERE {of_coupons}user_id = ?");
    diesel::sql_query(sql).bind::<Text, _>(pseudonym).bind::<Text, _>(user.as_str()).execute(conn).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_found_alone_whatever_is_in_it() {
        let user: UserId = "a.b|c+1".parse().unwrap();
        assert_eq!(alone(&user), r"(?<![A-Za-z0-9._@+|:=-])a\.b\|c\+1(?![A-Za-z0-9._@+|:=-])");
    }
}
