//! Dead letters for operators: list, read, correct, discard.

use std::time::Duration;

use diesel::dsl::sql;
use diesel::expression::SqlLiteral;
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Binary, Integer, Nullable, Text, Unsigned};
use diesel_async::RunQueryDsl;
use firstcome_shared::columns::now;
use firstcome_shared::domain::{CouponId, DropId, Slot, UserId};
use firstcome_shared::model::DeadLetterReason;
use firstcome_shared::mysql::dead_letters::DeadLetterRow;
use firstcome_shared::mysql::ops_actions::{Operator, OperatorAct};
use firstcome_shared::mysql::{Conn, Db, DbResult};
use firstcome_shared::schema::failed_claims;
use serde_json::json;

/// Open dead letters, in the order of the index, to avoid sorting millions of rows.
const OPEN: &str = "SELECT /*+ MAX_EXECUTION_TIME(10000) */ id, coupon_id, drop_id, slot, user_id, \
        claimed_at, reason, error, failed_at, resolved_at, resolution, resolution_detail, \
        source_partition, source_offset \
    FROM failed_claims FORCE INDEX (failed_claims_open) \
    WHERE resolved_at IS NULL AND (? IS NULL OR drop_id = ?) AND COALESCE(reason = ?, TRUE) \
    ORDER BY drop_id, slot, coupon_id, user_id, id LIMIT ? OFFSET ?";

/// Resolved dead letters, newest first.
const RESOLVED: &str = "SELECT /*+ MAX_EXECUTION_TIME(10000) */ id, coupon_id, drop_id, slot, \
        user_id, claimed_at, reason, error, failed_at, resolved_at, resolution, \
        resolution_detail, source_partition, source_offset \
    FROM failed_claims FORCE INDEX (failed_claims_open) \
    WHERE resolved_at IS NOT NULL AND (? IS NULL OR drop_id = ?) AND COALESCE(reason = ?, TRUE) \
    ORDER BY resolved_at DESC LIMIT ? OFFSET ?";

/// Time limit of a list. With a filter by reason, it may read every open or every resolved dead
/// letter.
const LONG_LOOK: Duration = Duration::from_secs(10);

/// The claim of a dead letter as corrected by an operator.
#[derive(Debug, Clone)]
pub(crate) struct Correction {
    pub(crate) coupon: CouponId,
    pub(crate) drop: DropId,
    pub(crate) slot: Slot,
    pub(crate) user: UserId,
}

/// The filter of a list of dead letters.
#[derive(Debug, Clone, Default)]
pub(crate) struct DeadLetterQuery {
    /// True selects resolved ones, newest first; false selects open ones, by drop and slot.
    pub(crate) resolved: bool,
    pub(crate) drop: Option<DropId>,
    pub(crate) reason: Option<String>,
}

/// Reads a page of dead letters, after skipping `skipped`.
pub(crate) async fn list_dead_letters(
    db: &Db,
    skipped: u32,
    wanted: DeadLetterQuery,
    limit: u32,
) -> DbResult<Vec<DeadLetterRow>> {
    let list = if wanted.resolved { RESOLVED } else { OPEN };
    let drop = wanted.drop;
    let page = sql_query(list)
        .bind::<Nullable<BigInt>, _>(drop)
        .bind::<Nullable<BigInt>, _>(drop)
        .bind::<Nullable<Text>, _>(wanted.reason)
        .bind::<Unsigned<Integer>, _>(limit)
        .bind::<Unsigned<Integer>, _>(skipped);
    db.within(LONG_LOOK).rows("list dead letters", page).await
}

/// Reads one dead letter, with the beginning of its message and the number of bytes that the
/// consumer has stored of it.
pub(crate) async fn dead_letter(db: &Db, id: i64) -> DbResult<Option<(DeadLetterRow, Payload)>> {
    let letter = failed_claims::table
        .find(id)
        .select((DeadLetterRow::as_select(), Payload::as_select()));
    db.row("read a dead letter", letter).await
}

/// Corrects the claim of a dead letter, so that the next pass can issue it. Returns `false` if
/// the dead letter is not open.
pub(crate) async fn correct_dead_letter(
    db: &Db,
    id: i64,
    to: Correction,
    by: Operator,
) -> DbResult<bool> {
    db.transaction("correct a dead letter", async move |conn| {
        let Some(was) = lock_open(conn, id).await? else {
            return Ok(false);
        };
        diesel::update(failed_claims::table.find(id))
            .set((
                failed_claims::coupon_id.eq(Some(to.coupon)),
                failed_claims::drop_id.eq(Some(to.drop)),
                failed_claims::slot.eq(Some(i64::from(to.slot))),
                failed_claims::user_id.eq(Some(&to.user)),
                failed_claims::reason.eq(DeadLetterReason::Corrected.as_str()),
            ))
            .execute(conn)
            .await?;
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
pub(crate) async fn discard_dead_letter(
    db: &Db,
    id: i64,
    why: String,
    by: Operator,
) -> DbResult<bool> {
    db.transaction("discard a dead letter", async move |conn| {
        let Some(letter) = lock_open(conn, id).await? else {
            return Ok(false);
        };
        diesel::update(failed_claims::table.find(id))
            .set((
                failed_claims::resolved_at.eq(now().nullable()),
                failed_claims::resolution.eq(Some("by_hand")),
                failed_claims::resolution_detail.eq(Some(&why)),
            ))
            .execute(conn)
            .await?;
        // Store the reason only with the dead letter, so that erasing the user removes it.
        let detail = json!({"dead_letter": id, "slot": letter.slot});
        let coupon = letter.coupon_id.map(CouponId);
        let drop = letter.drop_id.map(DropId);
        let act = OperatorAct::new("discard_dead_letter", coupon, drop, detail);
        by.did(conn, act).await.map(|()| true)
    })
    .await
}

/// Locks a dead letter. Returns `None` if it is not open.
async fn lock_open(conn: &mut Conn, id: i64) -> QueryResult<Option<DeadLetterRow>> {
    failed_claims::table
        .find(id)
        .filter(failed_claims::resolved_at.is_null())
        .select(DeadLetterRow::as_select())
        .for_update()
        .get_result(conn)
        .await
        .optional()
}

/// The message of a dead letter.
#[derive(Debug, Queryable, Selectable)]
#[diesel(table_name = failed_claims)]
pub(crate) struct Payload {
    #[diesel(select_expression = sql::<Nullable<Binary>>("LEFT(payload, 4096)"))]
    #[diesel(select_expression_type = SqlLiteral<Nullable<Binary>>)]
    pub(crate) beginning: Option<Vec<u8>>,
    #[diesel(select_expression = sql::<BigInt>("COALESCE(LENGTH(payload), 0)"))]
    #[diesel(select_expression_type = SqlLiteral<BigInt>)]
    pub(crate) bytes: i64,
}
