//! Erases a user: replaces the id in every table by a pseudonym and the codes by random text, and
//! deletes the free text in those rows. The rows remain, so that totals stay exact.

use std::time::Duration;

use diesel::QueryResult;
use serde_json::{Value, json};

use super::ops_actions::{Operator, OperatorAct};
use super::{Conn, Db, DbResult, list};
use crate::domain::{CouponId, UserId};
use crate::sql;

/// Time limit. It is long because findings and operators' actions have no index on users.
const LONG: Duration = Duration::from_secs(120);

/// Replaces a string that may contain a user id.
pub(super) const GONE: &str = "erased";

/// SQL for a random text per row that replaces an id or code. A code is derived from the id, so an
/// attacker with the key could try ids until one matches.
pub(super) const RANDOM: &str = "CONCAT('erased-', LOWER(HEX(RANDOM_BYTES(10))))";

/// Number of rows by table.
pub type RowsByTable = Vec<(&'static str, usize)>;

impl Db {
    /// Finds the coupons in which a user has a row, a revocation, or a broken promise.
    pub async fn coupons_of_person(&self, user: &UserId) -> DbResult<Vec<CouponId>> {
        // Uses the unique key of each table: one lookup per coupon.
        let of = |table| {
            format!(
                "SELECT t.coupon_id AS id FROM coupons c STRAIGHT_JOIN {table} t ON t.coupon_id = c.id AND t.user_id = ?"
            )
        };
        let all = ["issued_coupons", "revoked_coupons", "broken_promises"]
            .map(of)
            .join(" UNION ");
        let all = sql!(format!("{all} ORDER BY id"), user, user, user);
        self.within(LONG).all("coupons of a person", all).await
    }

    /// Counts the open dead letters and promises of a user.
    pub async fn open_of_person(&self, user: &UserId) -> DbResult<i64> {
        let user = user.clone();
        let db = self.within(LONG);
        db.run("what is open of a person", async move |conn| {
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
    ) -> DbResult<Option<RowsByTable>> {
        let db = self.within(LONG);
        db.transaction("erase a person", async move |conn| {
            // Lock the drops, so that none is unsealed in the meantime.
            let lock = "SELECT sealed_at IS NOT NULL FROM drops WHERE coupon_id IN (?) FOR SHARE";
            let sealed: Vec<bool> = sql!(lock, list(coupons.iter().copied())).all(conn).await?;
            if sealed.contains(&false) || open(conn, &user).await? > 0 {
                return Ok(None);
            }
            let mut rows = RowsByTable::new();
            for (table, texts) in [
                ("issued_coupons", format!("code = {RANDOM}, traceparent = NULL")),
                (
                    "revoked_coupons",
                    format!("code = IF(code IS NULL, NULL, {RANDOM}), reason = '{GONE}', revoked_by = '{GONE}'"),
                ),
                ("broken_promises", format!("reason = '{GONE}'")),
            ] {
                // Uses the unique key, which begins with the coupon.
                let rename = format!("UPDATE {table} SET user_id = ?, {texts} WHERE coupon_id IN (?) AND user_id = ?");
                let rename = sql!(rename, &pseudonym, list(coupons.iter().copied()), &user);
                rows.push((table, rename.run(conn).await?));
            }
            // The hash covers the message, which contains the id.
            let letters = "UPDATE failed_claims SET user_id = ?, payload = NULL, source_hash = NULL, error = NULL, \
                           resolution_detail = NULL, traceparent = NULL WHERE resolved_at IS NOT NULL AND user_id = ?";
            let letters = sql!(letters, &pseudonym, &user).run(conn).await?;
            rows.push(("failed_claims", letters));
            let detail = json!({"erased_as": pseudonym, "coupons": coupons.len()});
            by.did(conn, OperatorAct::new("erase", None, None, detail)).await?;
            Ok(Some(rows))
        })
        .await
    }

    /// Replaces the id in findings of passes and actions of operators. Safe to repeat.
    pub async fn erase_records(&self, user: UserId, pseudonym: String) -> DbResult<RowsByTable> {
        let db = self.within(LONG);
        db.run("erase a person in records", async move |conn| {
            let rename = "UPDATE reconcile_findings SET user_id = ?, detail = 'erased' WHERE user_id = ?";
            let findings = sql!(rename, &pseudonym, &user).run(conn).await?;
            if findings > 0 {
                // Runs and alerts have a hash of data that includes the id, so it could confirm a
                // guessed id. A firing alert is mailed once more because of this.
                let runs = sql!("UPDATE reconcile_runs SET content = 0 WHERE content IS NOT NULL");
                runs.run(conn).await?;
                sql!("UPDATE alerts SET content = 0").run(conn).await?;
            }
            // JSON_SEARCH treats `_` and `%` as wildcards.
            let pattern = user.as_str().replace('_', "\\_");
            let named = "SELECT id, CAST(detail AS CHAR) FROM ops_actions WHERE JSON_SEARCH(detail, 'one', ?) IS NOT NULL";
            let acts: Vec<(i64, String)> = sql!(named, pattern).all(conn).await?;
            let mut changed = 0;
            for (id, detail) in acts {
                let Ok(mut detail) = serde_json::from_str::<Value>(&detail) else {
                    continue;
                };
                replace(&mut detail, user.as_str(), &pseudonym);
                let update = sql!("UPDATE ops_actions SET detail = ? WHERE id = ?", detail.to_string(), id);
                changed += update.run(conn).await?;
            }
            Ok(vec![("reconcile_findings", findings), ("ops_actions", changed)])
        })
        .await
    }
}

async fn open(conn: &mut Conn, user: &UserId) -> QueryResult<i64> {
    let query = "SELECT (SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL AND user_id = ?) + \
                 (SELECT COUNT(*) FROM broken_promises WHERE mended_at IS NULL AND user_id = ?)";
    sql!(query, user, user).one(conn).await
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
