//! Uses of codes by shops (docs/decisions/0043-using.md). Each call reads the code's row with its
//! uses in one statement, and writes with one statement that locks the row.

use chrono::{DateTime, Utc};
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::{BigInt, Integer, Text, Unsigned};
use diesel_async::RunQueryDsl;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::codes::CouponCode;
use super::ops_actions::{Operator, OperatorAct};
use super::{Conn, DataRefusal, Db, DbResult, Prepared, refusal};
use crate::columns::{At, Datetime, MysqlTime, now};
use crate::coupon::code_expires_at;
use crate::domain::{CouponId, DropId, Slot};
use crate::schema::{coupon_uses, coupons, drops, issued_coupons, revoked_coupons};

/// Maximum number of references that have used a claim's code.
pub const MAX_REFERENCES: usize = 100;

/// Maximum number of references of a claim with those that were undone before they used its code.
const MAX_REMEMBERED: usize = 1_000;

/// Maximum number of attempts of a call: the row or its uses may change between its two statements.
const ATTEMPTS: usize = 3;

/// An order that uses a code, or undoes its use.
#[derive(Debug, Clone)]
pub struct UseOrder {
    pub code: CouponCode,
    pub reference: String,
    /// The shop.
    pub by: String,
}

/// An operator who undoes a use.
#[derive(Debug, Clone)]
pub struct UndoReason {
    pub reason: String,
    pub operator: Operator,
}

/// A code that this order uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
pub struct Used {
    /// When the order used the code, by MySQL's clock.
    pub used_at: DateTime<Utc>,
    /// When the code expires. Null: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Another shop has used the code for an order with this number.
    #[serde(skip)]
    pub is_of_other_shop: bool,
}

/// Why a code is not used or undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRefusal {
    NoSuchCode,
    /// The coupon was returned or revoked.
    Revoked,
    /// Another reference has been using the code since this time.
    Used(DateTime<Utc>),
    /// This reference was undone.
    Undone,
    Expired(DateTime<Utc>),
    TooManyReferences,
}

/// What a code is for, and whether it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CodeDetails {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    #[schema(value_type = u32, minimum = 1)]
    pub slot: Slot,
    /// When the user was admitted.
    pub claimed_at: DateTime<Utc>,
    /// When the code was used. Null: it is not in use.
    pub used_at: Option<DateTime<Utc>>,
    /// When the code expires. Null: never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// A use of a code.
#[derive(
    Debug,
    Clone,
    PartialEq,
    Eq,
    Serialize,
    Deserialize,
    ToSchema,
    Queryable,
    Selectable,
    QueryableByName,
)]
#[diesel(table_name = coupon_uses)]
pub struct CodeUse {
    /// The order.
    pub reference: String,
    /// The shop: its X-Operator, else the fingerprint of its token.
    pub used_by: String,
    /// When the order used the code. Null: it was undone before that.
    pub used_at: Option<DateTime<Utc>>,
    /// When the use was undone. Null: it was not.
    pub undone_at: Option<DateTime<Utc>>,
}

impl CodeUse {
    pub fn is_in_use(&self) -> bool {
        self.used_at.is_some() && self.undone_at.is_none()
    }
}

/// A code, as operators and shops see it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CodeView {
    #[serde(flatten)]
    pub details: CodeDetails,
    /// Null for shops.
    pub user_id: Option<String>,
    /// Null for shops: with another shop's reference, a shop could undo its use.
    pub uses: Option<Vec<CodeUse>>,
}

/// What a code is for, with one of its uses.
#[derive(Queryable, Selectable)]
struct CodeRow {
    #[diesel(select_expression = drops::coupon_id)]
    coupon_id: CouponId,
    /// `None` if no row has the code.
    #[diesel(select_expression = issued_coupons::user_id.nullable())]
    user_id: Option<String>,
    #[diesel(select_expression = issued_coupons::claimed_at.nullable())]
    claimed_at: Option<DateTime<Utc>>,
    #[diesel(select_expression = coupons::valid_until)]
    valid_until: Option<DateTime<Utc>>,
    #[diesel(select_expression = coupons::valid_days)]
    valid_days: Option<u32>,
    /// MySQL's time.
    #[diesel(select_expression = now(), select_expression_type = MysqlTime)]
    now: DateTime<Utc>,
    #[diesel(embed)]
    order: Option<CodeUse>,
}

/// The claim of a code, and its uses.
struct CodeState {
    coupon_id: CouponId,
    user_id: Option<String>,
    claimed_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    uses: Vec<CodeUse>,
}

impl CodeState {
    /// Returns when the code was used, or `None` if it is not in use.
    fn used_at(&self) -> Option<DateTime<Utc>> {
        let in_use = self.uses.iter().find(|order| order.is_in_use());
        in_use.and_then(|order| order.used_at)
    }

    fn order(&self, reference: &str) -> Option<&CodeUse> {
        self.uses.iter().find(|order| order.reference == reference)
    }

    fn used(&self, used_at: DateTime<Utc>, order: &UseOrder) -> Used {
        let known = self.order(&order.reference);
        Used {
            used_at,
            expires_at: self.expires_at,
            is_of_other_shop: known.is_some_and(|known| known.used_by != order.by),
        }
    }

    /// A shop that undoes attempts which never reached this code burns no code by that.
    fn has_all_references(&self) -> bool {
        let used = self.uses.iter().filter(|order| order.used_at.is_some());
        used.count() >= MAX_REFERENCES || self.uses.len() >= MAX_REMEMBERED
    }

    /// Returns when the reference used the code, or `None` if it may use it now.
    fn use_by(&self, reference: &str) -> CodeAnswer<Option<DateTime<Utc>>> {
        if let Some(order) = self.order(reference) {
            return match (order.is_in_use(), order.used_at) {
                (true, used_at) => Ok(used_at),
                (false, _) => Err(CodeRefusal::Undone),
            };
        }
        if let Some(used_at) = self.used_at() {
            return Err(CodeRefusal::Used(used_at));
        }
        match self.expires_at {
            Some(end) if end <= self.now => Err(CodeRefusal::Expired(end)),
            _ if self.has_all_references() => Err(CodeRefusal::TooManyReferences),
            _ => Ok(None),
        }
    }
}

impl UseOrder {
    /// Runs a statement that records that the order uses the claim, or undoes its use.
    async fn write(
        &self,
        conn: &mut Conn,
        text: &'static str,
        state: &CodeState,
    ) -> QueryResult<usize> {
        let statement = sql_query(text)
            .bind::<Text, _>(&self.reference)
            .bind::<Text, _>(&self.by)
            .bind::<Datetime, _>(At(state.now))
            .bind::<BigInt, _>(self.code.drop)
            .bind::<Unsigned<Integer>, _>(self.code.slot)
            .bind::<Text, _>(&self.code.text)
            .bind::<Datetime, _>(At(state.claimed_at));
        Prepared(statement).execute(conn).await
    }
}

/// A call's answer, or why it was refused.
type CodeAnswer<T> = Result<T, CodeRefusal>;

impl Db {
    /// Uses a code for an order. A repetition returns the first use.
    pub async fn use_code(&self, order: UseOrder) -> DbResult<CodeAnswer<Used>> {
        let db = self.of_primary();
        db.run("use a code", async move |conn| {
            for _ in 0..ATTEMPTS {
                if let Some(answer) = try_use(conn, &order).await? {
                    return Ok(answer);
                }
            }
            Err(diesel::result::Error::NotFound)
        })
        .await
    }

    /// Undoes the use of a code by an order, which can never use it afterwards, even if it has not
    /// used it yet. Returns the time of the first undo. If the order never used the code and
    /// another one uses it, the first call returns [`CodeRefusal::Used`] instead.
    pub async fn undo_use(
        &self,
        order: UseOrder,
        reason: Option<UndoReason>,
    ) -> DbResult<CodeAnswer<DateTime<Utc>>> {
        let db = self.of_primary();
        db.transaction("undo a use", async move |conn| {
            for _ in 0..ATTEMPTS {
                if let Some(answer) = try_undo(conn, &order, reason.as_ref()).await? {
                    return Ok(answer);
                }
            }
            Err(diesel::result::Error::NotFound)
        })
        .await
    }

    /// Reads what a code is for, its user, and its references, oldest first.
    pub async fn code(&self, code: CouponCode) -> DbResult<CodeAnswer<CodeView>> {
        let db = self.of_primary();
        db.run("read a code", async move |conn| {
            let state = match read(conn, &code).await? {
                Ok(state) => state,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let details = CodeDetails {
                coupon_id: state.coupon_id,
                drop_id: code.drop,
                slot: code.slot,
                claimed_at: state.claimed_at,
                used_at: state.used_at(),
                expires_at: state.expires_at,
            };
            let mut uses = state.uses;
            uses.sort_by_cached_key(|order| {
                (order.used_at.or(order.undone_at), order.reference.clone())
            });
            Ok(Ok(CodeView {
                details,
                user_id: state.user_id,
                uses: Some(uses),
            }))
        })
        .await
    }
}

/// Returns `None` if another transaction changed the row or its uses in between.
async fn try_use(conn: &mut Conn, order: &UseOrder) -> QueryResult<Option<CodeAnswer<Used>>> {
    let state = match read(conn, &order.code).await? {
        Ok(state) => state,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    match state.use_by(&order.reference) {
        Ok(None) => {}
        Ok(Some(used_at)) => return Ok(Some(Ok(state.used(used_at, order)))),
        Err(refusal) => return Ok(Some(Err(refusal))),
    }
    // The row stays locked until the use is committed: a return waits, and then sees the use.
    let insert = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at) \
                  SELECT i.drop_id, i.slot, i.claimed_at, ?, ?, ? FROM issued_coupons i \
                  WHERE i.drop_id = ? AND i.slot = ? AND i.code = ? AND i.claimed_at = ? FOR SHARE";
    match order.write(conn, insert, &state).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(Ok(state.used(state.now, order)))),
        Err(error) if refusal(&error) == Some(DataRefusal::Duplicate) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns `None` if the row was deleted in between.
async fn try_undo(
    conn: &mut Conn,
    order: &UseOrder,
    reason: Option<&UndoReason>,
) -> QueryResult<Option<CodeAnswer<DateTime<Utc>>>> {
    let state = match read(conn, &order.code).await? {
        Ok(state) => state,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    let own = state.order(&order.reference);
    if let Some(undone_at) = own.and_then(|own| own.undone_at) {
        return Ok(Some(Ok(undone_at)));
    }
    if own.is_none() && state.has_all_references() {
        return Ok(Some(Err(CodeRefusal::TooManyReferences)));
    }
    let insert = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, \
        undone_at) SELECT i.drop_id, i.slot, i.claimed_at, ?, ?, ? FROM issued_coupons i \
        WHERE i.drop_id = ? AND i.slot = ? AND i.code = ? \
        AND i.claimed_at = ? FOR SHARE ON DUPLICATE KEY UPDATE undone_at = \
        COALESCE(coupon_uses.undone_at, VALUES(undone_at))";
    if order.write(conn, insert, &state).await? == 0 {
        return Ok(None);
    }
    if let Some(UndoReason { reason, operator }) = reason {
        let reference = &order.reference;
        let code = &order.code;
        let detail = json!({"slot": code.slot, "reference": reference, "reason": reason});
        let coupon = Some(state.coupon_id);
        let act = OperatorAct::new("undo_use", coupon, Some(code.drop), detail);
        operator.did(conn, act).await?;
    }
    // The undo is stored even if another order uses the code: a late use by this order is then
    // refused, also after the other order is undone.
    let other = state.used_at().filter(|_| own.is_none());
    Ok(Some(match other {
        Some(used_at) => Err(CodeRefusal::Used(used_at)),
        None => Ok(state.now),
    }))
}

/// Reads what a code is for, and its uses. A wrong code costs a look-up by primary key, and one by
/// the key of the drop's revocations.
async fn read(conn: &mut Conn, code: &CouponCode) -> QueryResult<CodeAnswer<CodeState>> {
    let its_row = issued_coupons::drop_id
        .eq(drops::id)
        .and(issued_coupons::slot.eq(code.slot))
        .and(issued_coupons::code.eq(code.text.clone()));
    let its_use = coupon_uses::drop_id
        .nullable()
        .eq(issued_coupons::drop_id.nullable())
        .and(
            coupon_uses::slot
                .nullable()
                .eq(issued_coupons::slot.nullable()),
        )
        .and(
            coupon_uses::claimed_at
                .nullable()
                .eq(issued_coupons::claimed_at.nullable()),
        );
    let mut rows: Vec<CodeRow> = drops::table
        .inner_join(coupons::table)
        .left_join(issued_coupons::table.on(its_row))
        .left_join(coupon_uses::table.on(its_use))
        .filter(drops::id.eq(code.drop))
        .select(CodeRow::as_select())
        .load(conn)
        .await?;
    let uses = rows.iter_mut().filter_map(|row| row.order.take()).collect();
    // Without such a drop there is no row either.
    let Some(row) = rows.pop() else {
        return Ok(Err(CodeRefusal::NoSuchCode));
    };
    let Some(claimed_at) = row.claimed_at else {
        return Ok(Err(if is_revoked(conn, row.coupon_id, code).await? {
            CodeRefusal::Revoked
        } else {
            CodeRefusal::NoSuchCode
        }));
    };
    Ok(Ok(CodeState {
        coupon_id: row.coupon_id,
        user_id: row.user_id,
        claimed_at,
        expires_at: code_expires_at(row.valid_until, row.valid_days, claimed_at),
        now: row.now,
        uses,
    }))
}

async fn is_revoked(conn: &mut Conn, coupon: CouponId, code: &CouponCode) -> QueryResult<bool> {
    let revoked = revoked_coupons::table
        .filter(revoked_coupons::drop_id.eq(code.drop))
        .filter(revoked_coupons::coupon_id.eq(coupon))
        .filter(revoked_coupons::slot.eq(code.slot))
        .filter(revoked_coupons::code.eq(&code.text));
    select(exists(revoked)).get_result(conn).await
}

/// Whether a claim's code is in use.
pub(super) async fn is_in_use(
    conn: &mut Conn,
    drop: i64,
    slot: Slot,
    claimed_at: DateTime<Utc>,
) -> QueryResult<bool> {
    let in_use = coupon_uses::table
        .filter(coupon_uses::drop_id.eq(drop))
        .filter(coupon_uses::slot.eq(slot))
        .filter(coupon_uses::claimed_at.eq(At(claimed_at)))
        .filter(coupon_uses::in_use.eq(1));
    select(exists(in_use)).get_result(conn).await
}
