//! Dead letters for operators: list, read, correct, discard.

use std::fmt::Write as _;
use std::time::Duration;

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Blob, Datetime, Nullable};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use serde_json::json;

use super::{COLUMNS, CORRECTED, DeadLetterRow};
use crate::domain::{CouponId, DropId, Slot, UserId};
use crate::mysql::literal::push_text;
use crate::mysql::ops_actions::{Operator, OperatorAct};
use crate::mysql::schema::failed_claims;
use crate::mysql::{Conn, Db, DbError};

/// Maximum number of bytes read from a payload.
const PAYLOAD: usize = 4_096;

/// Limit of a query with a filter by reason, which reads every open dead letter.
const LONG_LOOK: Duration = Duration::from_secs(10);

/// Optimizer hint that makes MySQL abort longer queries.
const LIMITED: &str = "/*+ MAX_EXECUTION_TIME(10000) */";

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

impl DeadLetterQuery {
    /// Returns the SQL that selects these columns of matching dead letters.
    fn select(&self, columns: &str) -> String {
        let is_resolved = if self.resolved { "NOT NULL" } else { "NULL" };
        let mut sql = format!(
            "SELECT {columns} FROM failed_claims f FORCE INDEX (failed_claims_open) WHERE f.resolved_at IS {is_resolved}"
        );
        if let Some(drop) = self.drop {
            // Writing to a `String` does not fail.
            let _ = write!(sql, " AND f.drop_id = {drop}");
        }
        if let Some(reason) = &self.reason {
            sql.push_str(" AND f.reason = ");
            push_text(&mut sql, reason);
        }
        sql
    }
}

impl Db {
    /// Reads a page of dead letters, after skipping `skipped`.
    pub async fn list_dead_letters(
        &self,
        skipped: u32,
        wanted: DeadLetterQuery,
        limit: u32,
    ) -> Result<Vec<DeadLetterRow>, DbError> {
        self.run_within(LONG_LOOK, "list dead letters", async move |conn| {
            let sql = wanted.select(&format!("{LIMITED} {COLUMNS}"));
            // Use the order of the index to avoid sorting millions of rows.
            let order = if wanted.resolved {
                "f.resolved_at DESC"
            } else {
                "f.drop_id, f.slot, f.coupon_id, f.user_id, f.id"
            };
            diesel::sql_query(format!(
                "{sql} ORDER BY {order} LIMIT {limit} OFFSET {skipped}"
            ))
            .load(conn)
            .await
        })
        .await
    }

    /// Reads one dead letter, with the beginning of its message and the message's length in bytes.
    pub async fn dead_letter(&self, id: i64) -> Result<Option<(DeadLetterRow, Payload)>, DbError> {
        self.run("read a dead letter", async move |conn| {
            let row = failed_claims::table.find(id).select(DeadLetterRow::as_select()).first(conn).await.optional()?;
            let Some(row) = row else { return Ok(None) };
            let payload = diesel::sql_query(format!(
                "SELECT LEFT(payload, {PAYLOAD}) AS beginning, CAST(COALESCE(LENGTH(payload), 0) AS SIGNED) AS bytes \
                 FROM failed_claims WHERE id = {id}"
            ));
            Ok(payload.get_result(conn).await.optional()?.map(|payload| (row, payload)))
        })
        .await
    }

    /// Corrects the claim of a dead letter, so that the next pass issues it. Returns `false` if the
    /// dead letter is not open.
    pub async fn correct_dead_letter(
        &self,
        id: i64,
        to: Correction,
        by: Operator,
    ) -> Result<bool, DbError> {
        self.run("correct a dead letter", async move |conn| {
            conn.transaction(async |conn| {
                let Some(letter) = lock_open(conn, id).await? else { return Ok(false) };
                diesel::update(failed_claims::table.find(id))
                    .set((
                        failed_claims::coupon_id.eq(to.coupon.0),
                        failed_claims::drop_id.eq(to.drop.0),
                        failed_claims::slot.eq(i64::from(to.slot)),
                        failed_claims::user_id.eq(to.user.as_str()),
                        failed_claims::reason.eq(CORRECTED),
                    ))
                    .execute(conn)
                    .await?;
                let act = OperatorAct {
                    action: "correct_dead_letter",
                    coupon: Some(to.coupon),
                    drop: Some(to.drop),
                    detail: json!({
                        "dead_letter": id,
                        "was": {"coupon": letter.coupon_id, "drop": letter.drop_id, "slot": letter.slot, "user_id": letter.user_id, "reason": letter.reason},
                        "is": {"slot": to.slot, "user_id": to.user.as_str()},
                    }),
                };
                by.did(conn, act).await.map(|()| true)
            })
            .await
        })
        .await
    }

    /// Discards a dead letter with a reason, so that the reconciler ignores it. Returns `false` if
    /// it is not open.
    pub async fn discard_dead_letter(
        &self,
        id: i64,
        why: String,
        by: Operator,
    ) -> Result<bool, DbError> {
        self.run("discard a dead letter", async move |conn| {
            conn.transaction(async |conn| {
                let Some(letter) = lock_open(conn, id).await? else {
                    return Ok(false);
                };
                diesel::update(failed_claims::table.find(id))
                    .set((
                        failed_claims::resolved_at
                            .eq(sql::<Nullable<Datetime>>("UTC_TIMESTAMP(3)")),
                        failed_claims::resolution.eq("by_hand"),
                        failed_claims::resolution_detail.eq(&why),
                    ))
                    .execute(conn)
                    .await?;
                let act = OperatorAct {
                    action: "discard_dead_letter",
                    coupon: letter.coupon_id.map(CouponId),
                    drop: letter.drop_id.map(DropId),
                    // Store the reason only with the dead letter, so that erasing the user removes
                    // it.
                    detail: json!({"dead_letter": id, "slot": letter.slot}),
                };
                by.did(conn, act).await.map(|()| true)
            })
            .await
        })
        .await
    }
}

/// Locks a dead letter. Returns `None` if it is not open.
async fn lock_open(conn: &mut Conn, id: i64) -> QueryResult<Option<DeadLetterRow>> {
    let open = failed_claims::table
        .find(id)
        .filter(failed_claims::resolved_at.is_null());
    open.select(DeadLetterRow::as_select())
        .for_update()
        .first(conn)
        .await
        .optional()
}

/// The message of a dead letter.
#[derive(Debug, QueryableByName)]
pub struct Payload {
    #[diesel(sql_type = Nullable<Blob>)]
    pub beginning: Option<Vec<u8>>,
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
}
