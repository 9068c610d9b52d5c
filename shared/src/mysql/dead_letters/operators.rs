//! Dead letters for operators: list, read, correct, discard.

use std::time::Duration;

use diesel::QueryResult;
use serde_json::json;

use super::{DeadLetterRow, KEPT_OF_MESSAGE};
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::model::DeadLetterReason;
use crate::mysql::ops_actions::{Operator, OperatorAct};
use crate::mysql::sql::read_as;
use crate::mysql::{Conn, Db, DbResult};
use crate::sql;

/// Time limit of a list. With a filter by reason, it may read every open or every resolved dead
/// letter.
const LONG_LOOK: Duration = Duration::from_secs(10);

/// The claim of a dead letter as corrected by an operator.
#[derive(Debug, Clone)]
pub struct Correction {
    pub coupon: CouponId,
    pub drop: DropId,
    pub slot: Slot,
    pub user: UserId,
}

/// The filter of a list of dead letters.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterQuery {
    /// True selects resolved ones, newest first; false selects open ones, by drop and slot.
    pub resolved: bool,
    pub drop: Option<DropId>,
    pub reason: Option<String>,
}

impl Db {
    /// Reads a page of dead letters, after skipping `skipped`.
    pub async fn list_dead_letters(
        &self,
        skipped: u32,
        wanted: DeadLetterQuery,
        limit: u32,
    ) -> DbResult<Vec<DeadLetterRow>> {
        // Use the order of the index to avoid sorting millions of rows.
        let (is_resolved, order) = if wanted.resolved {
            ("IS NOT NULL", "resolved_at DESC")
        } else {
            ("IS NULL", "drop_id, slot, coupon_id, user_id, id")
        };
        let of_drop = wanted
            .drop
            .map_or(sql!(""), |drop| sql!(" AND drop_id = ?", drop));
        let page = format!(
            "SELECT /*+ MAX_EXECUTION_TIME(10000) */ {{columns}} \
            FROM failed_claims FORCE INDEX (failed_claims_open) WHERE resolved_at {is_resolved}"
        );
        let rest = format!(" AND COALESCE(reason = ?, TRUE) ORDER BY {order} LIMIT ? OFFSET ?");
        let page = sql!(page)
            .and(of_drop)
            .and(sql!(rest, wanted.reason, limit, skipped));
        self.within(LONG_LOOK).all("list dead letters", page).await
    }

    /// Reads one dead letter, with the beginning of its message and the number of bytes that the
    /// consumer has stored of it.
    pub async fn dead_letter(&self, id: i64) -> DbResult<Option<(DeadLetterRow, Payload)>> {
        let query = "SELECT {columns}, LEFT(payload, ?), COALESCE(LENGTH(payload), 0) \
            FROM failed_claims WHERE id = ?";
        self.first(
            "read a dead letter",
            sql!(query, u32::from(KEPT_OF_MESSAGE), id),
        )
        .await
    }

    /// Corrects the claim of a dead letter, so that the next pass can issue it. Returns `false` if
    /// the dead letter is not open.
    pub async fn correct_dead_letter(
        &self,
        id: i64,
        to: Correction,
        by: Operator,
    ) -> DbResult<bool> {
        self.transaction("correct a dead letter", async move |conn| {
            let Some(was) = lock_open(conn, id).await? else {
                return Ok(false);
            };
            let correct = "UPDATE failed_claims SET coupon_id = ?, drop_id = ?, slot = ?, \
                user_id = ?, reason = ? WHERE id = ?";
            let reason = DeadLetterReason::Corrected.as_str();
            let correct = sql!(correct, to.coupon, to.drop, to.slot, &to.user, reason, id);
            correct.run(conn).await?;
            let was = json!({
                "coupon": was.coupon_id,
                "drop": was.drop_id,
                "slot": was.slot,
                "user_id": was.user_id,
                "reason": was.reason,
            });
            let is = json!({"slot": to.slot, "user_id": to.user.as_str()});
            let detail = json!({"dead_letter": id, "was": was, "is": is});
            let act = OperatorAct::new(
                "correct_dead_letter",
                Some(to.coupon),
                Some(to.drop),
                detail,
            );
            by.did(conn, act).await.map(|()| true)
        })
        .await
    }

    /// Discards a dead letter with a reason, so that the reconciler ignores it. Returns `false` if
    /// it is not open.
    pub async fn discard_dead_letter(&self, id: i64, why: String, by: Operator) -> DbResult<bool> {
        self.transaction("discard a dead letter", async move |conn| {
            let Some(letter) = lock_open(conn, id).await? else {
                return Ok(false);
            };
            let discard = "UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = \
                'by_hand', resolution_detail = ? WHERE id = ?";
            sql!(discard, &why, id).run(conn).await?;
            // Store the reason only with the dead letter, so that erasing the user removes it.
            let detail = json!({"dead_letter": id, "slot": letter.slot});
            let coupon = letter.coupon_id.map(CouponId);
            let drop = letter.drop_id.map(DropId);
            let act = OperatorAct::new("discard_dead_letter", coupon, drop, detail);
            by.did(conn, act).await.map(|()| true)
        })
        .await
    }
}

/// Locks a dead letter. Returns `None` if it is not open.
async fn lock_open(conn: &mut Conn, id: i64) -> QueryResult<Option<DeadLetterRow>> {
    let lock =
        "SELECT {columns} FROM failed_claims WHERE id = ? AND resolved_at IS NULL FOR UPDATE";
    sql!(lock, id).first(conn).await
}

/// The message of a dead letter.
#[derive(Debug)]
pub struct Payload {
    pub beginning: Option<Vec<u8>>,
    pub bytes: i64,
}

read_as!(Payload { beginning: Option<Vec<u8>>, bytes: i64, });
