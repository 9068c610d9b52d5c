//! Erases a user: replaces the id in every table by a pseudonym and the codes by random text, and
//! deletes the free text in those rows. The rows remain, so that totals stay exact.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::{Value, json};

use super::db::IdRow;
use super::dead_letters::list;
use super::ops_actions::{Operator, OperatorAct};
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, UserId};

/// Time limit. It is long because findings and operators' actions have no index on users.
const LONG: Duration = Duration::from_secs(120);

/// Replaces a string that may contain a user id.
pub(super) const GONE: &str = "erased";

/// SQL for a random text per row that replaces an id or code. A code is derived from the id, so an
/// attacker with the key could try ids until one matches.
pub(super) const RANDOM: &str = "CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))))";

/// Number of rows by table.
pub type RowsByTable = Vec<(&'static str, usize)>;

#[derive(QueryableByName)]
struct FoundAct {
    #[diesel(sql_type = BigInt)]
    id: i64,
    #[diesel(sql_type = Text)]
    detail: String,
}

impl Db {
    /// Finds the coupons in which a user has a row, a revocation, or a broken promise.
    pub async fn coupons_of_person(&self, user: &UserId) -> Result<Vec<CouponId>, DbError> {
        let user = user.to_string();
        self.run_within(LONG, "coupons of a person", async move |conn| {
            // Uses the unique key of each table: one lookup per coupon.
            let of = |table: &str| {
                format!(
                    "SELECT t.coupon_id AS id FROM coupons c STRAIGHT_JOIN {table} t \
                     ON t.coupon_id = c.id AND t.user_id = ?"
                )
            };
            let all = ["issued_coupons", "revoked_coupons", "broken_promises"]
                .map(of)
                .join(" UNION ");
            let query = diesel::sql_query(format!("{all} ORDER BY id"));
            let query = query
                .bind::<Text, _>(&user)
                .bind::<Text, _>(&user)
                .bind::<Text, _>(&user);
            let found: Vec<IdRow> = query.load(conn).await?;
            Ok(found.into_iter().map(|one| CouponId(one.id)).collect())
        })
        .await
    }

    /// Counts the open dead letters and promises of a user.
    pub async fn open_of_person(&self, user: &UserId) -> Result<i64, DbError> {
        let user = user.clone();
        self.run_within(LONG, "what is open of a person", async move |conn| {
            open(conn, &user).await
        })
        .await
    }

    /// Replaces a user's id by the pseudonym in the rows of these coupons, atomically. Returns
    /// `None` if one of the drops is no longer sealed, or if the user has an open dead letter or
    /// promise.
    pub async fn erase(
        &self,
        user: UserId,
        coupons: Vec<CouponId>,
        pseudonym: String,
        by: Operator,
    ) -> Result<Option<RowsByTable>, DbError> {
        self.run_within(LONG, "erase a person", async move |conn| {
            conn.transaction(async |conn| {
                let ids = list(coupons.iter().map(|coupon| coupon.0));
                if !coupons.is_empty() {
                    // Lock the drops, so that none is unsealed in the meantime.
                    let lock = format!(
                        "SELECT CAST(COALESCE(SUM(sealed_at IS NULL), 0) AS SIGNED) AS id FROM \
                         (SELECT sealed_at FROM drops WHERE coupon_id IN ({ids}) FOR SHARE) d"
                    );
                    if diesel::sql_query(lock).get_result::<IdRow>(conn).await?.id > 0 {
                        return Ok(None);
                    }
                }
                if open(conn, &user).await? > 0 {
                    return Ok(None);
                }
                let mut rows = RowsByTable::new();
                if !coupons.is_empty() {
                    let code = format!(", code = {RANDOM}, traceparent = NULL");
                    let revoked_code =
                        format!(", code = IF(code IS NULL, NULL, {RANDOM}), reason = '{GONE}', revoked_by = '{GONE}'");
                    for (table, texts) in [
                        ("issued_coupons", &*code),
                        ("revoked_coupons", &*revoked_code),
                        ("broken_promises", ", reason = 'erased'"),
                    ] {
                        // Uses the unique key, which begins with the coupon.
                        let which = format!("coupon_id IN ({ids}) AND");
                        rows.push((table, rename(conn, table, texts, &which, &user, &pseudonym).await?));
                    }
                }
                // The hash covers the message, which contains the id.
                let texts =
                    ", payload = NULL, source_hash = NULL, error = NULL, resolution_detail = NULL, traceparent = NULL";
                let dealt_with = "resolved_at IS NOT NULL AND";
                rows.push((
                    "failed_claims",
                    rename(conn, "failed_claims", texts, dealt_with, &user, &pseudonym).await?,
                ));
                let detail = json!({"erased_as": pseudonym, "coupons": coupons.len()});
                by.did(conn, OperatorAct { action: "erase", detail, ..OperatorAct::default() }).await?;
                Ok(Some(rows))
            })
            .await
        })
        .await
    }

    /// Replaces the id in findings of passes and actions of operators. Safe to repeat.
    pub async fn erase_records(
        &self,
        user: UserId,
        pseudonym: String,
    ) -> Result<RowsByTable, DbError> {
        self.run_within(LONG, "erase a person in records", async move |conn| {
            let texts = ", detail = 'erased'";
            let findings = rename(conn, "reconcile_findings", texts, "", &user, &pseudonym).await?;
            if findings > 0 {
                // Runs and alerts have a hash of data that includes the id, so it could confirm a
                // guessed id. A firing alert is mailed once more because of this.
                diesel::sql_query(
                    "UPDATE reconcile_runs SET content = 0 WHERE content IS NOT NULL",
                )
                .execute(conn)
                .await?;
                diesel::sql_query("UPDATE alerts SET content = 0")
                    .execute(conn)
                    .await?;
            }
            // JSON_SEARCH treats `_` and `%` as wildcards.
            let pattern = user.as_str().replace('_', "\\_");
            let named = "SELECT id, CAST(detail AS CHAR) AS detail FROM ops_actions \
                         WHERE JSON_SEARCH(detail, 'one', ?) IS NOT NULL";
            let acts: Vec<FoundAct> = diesel::sql_query(named)
                .bind::<Text, _>(pattern)
                .load(conn)
                .await?;
            let mut changed = 0;
            for FoundAct { id, detail } in acts {
                let Ok(mut detail) = serde_json::from_str::<Value>(&detail) else {
                    continue;
                };
                replace(&mut detail, user.as_str(), &pseudonym);
                let update = diesel::sql_query("UPDATE ops_actions SET detail = ? WHERE id = ?");
                changed += update
                    .bind::<Text, _>(detail.to_string())
                    .bind::<BigInt, _>(id)
                    .execute(conn)
                    .await?;
            }
            Ok(vec![
                ("reconcile_findings", findings),
                ("ops_actions", changed),
            ])
        })
        .await
    }
}

async fn open(conn: &mut Conn, user: &UserId) -> QueryResult<i64> {
    let sql = "SELECT (SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL AND user_id = ?) + \
               (SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL AND user_id = ?) AS id";
    let query = diesel::sql_query(sql)
        .bind::<Text, _>(user.as_str())
        .bind::<Text, _>(user.as_str());
    query.get_result::<IdRow>(conn).await.map(|found| found.id)
}

async fn rename(
    conn: &mut Conn,
    table: &str,
    texts: &str,
    which: &str,
    user: &UserId,
    pseudonym: &str,
) -> QueryResult<usize> {
    let sql = format!("UPDATE {table} SET user_id = ?{texts} WHERE {which} user_id = ?");
    diesel::sql_query(sql)
        .bind::<Text, _>(pseudonym)
        .bind::<Text, _>(user.as_str())
        .execute(conn)
        .await
}

/// Replaces strings that equal the user's id, and erases the free texts next to them.
fn replace(value: &mut Value, user: &str, pseudonym: &str) {
    match value {
        Value::String(text) if text == user => pseudonym.clone_into(text),
        Value::Array(parts) => parts
            .iter_mut()
            .for_each(|part| replace(part, user, pseudonym)),
        Value::Object(parts) => {
            for (name, part) in parts {
                match part {
                    Value::String(text) if ["reason", "why"].contains(&name.as_str()) => {
                        GONE.clone_into(text);
                    }
                    part => replace(part, user, pseudonym),
                }
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erasure_replaces_only_the_user_id_and_free_text_of_an_action() {
        let mut detail = json!({
            "user_id": "7", "slot": 7, "7": "8", "by": "77", "body": {"by": "7", "reason": "7 is a script"}, "list": ["7", 7],
        });
        replace(&mut detail, "7", "erased-1");
        let expected = json!({
            "user_id": "erased-1", "slot": 7, "7": "8", "by": "77", "body": {"by": "erased-1", "reason": "erased"},
            "list": ["erased-1", 7],
        });
        assert_eq!(detail, expected);
    }
}
