//! Uses of codes by shops (docs/decisions/0043-using.md). Each call reads the code's row with its
//! uses in one statement, and writes with one statement that locks the row.

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::codes::Code;
use super::ops_actions::{Operator, OperatorAct};
use super::sql::row;
use super::{Conn, Db, DbResult, Refusal, Sql, refusal};
use crate::coupon::code_expires_at;
use crate::domain::{CouponId, DropId, Slot};
use crate::sql;

/// Maximum number of references of a claim.
pub const MAX_REFERENCES: usize = 100;

/// Maximum number of attempts of a call: the row or its uses may change between its two statements.
const ATTEMPTS: usize = 3;

/// An order that uses a code, or undoes its use.
#[derive(Debug, Clone)]
pub struct UseOrder {
    pub code: Code,
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

row! {
    /// A use of a code.
    #[derive(PartialEq, Eq, Serialize, Deserialize, ToSchema)]
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

row! {
    /// What a code is for.
    struct CodeRow {
        coupon_id: CouponId,
        /// `None` if no row has the code.
        user_id: Option<String>,
        claimed_at: Option<DateTime<Utc>>,
        valid_until: Option<DateTime<Utc>>,
        valid_days: Option<u32>,
        /// MySQL's time.
        now: DateTime<Utc>,
    }
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
        let in_use = self.uses.iter().find(|order: &&CodeUse| order.is_in_use());
        in_use.and_then(|order| order.used_at)
    }

    fn order(&self, reference: &str) -> Option<&CodeUse> {
        self.uses.iter().find(|order| order.reference == reference)
    }

    fn used(&self, used_at: DateTime<Utc>) -> Used {
        Used {
            used_at,
            expires_at: self.expires_at,
        }
    }

    fn has_all_references(&self) -> bool {
        self.uses.len() >= MAX_REFERENCES
    }

    /// Returns when the reference used the code, or `None` if it may use it now.
    fn use_by(&self, reference: &str) -> Answer<Option<DateTime<Utc>>> {
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
    /// Completes a statement that records that the order uses the claim, or undoes its use.
    fn statement(&self, text: &'static str, state: &CodeState) -> Sql {
        sql!(
            text,
            &self.reference,
            &self.by,
            state.now,
            self.code.drop,
            self.code.slot,
            &self.code.text,
            state.claimed_at
        )
    }
}

/// A call's answer, or why it was refused.
type Answer<T> = Result<T, CodeRefusal>;

impl Db {
    /// Uses a code for an order. A repetition returns the first use.
    pub async fn use_code(&self, order: UseOrder) -> DbResult<Answer<Used>> {
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
    ) -> DbResult<Answer<DateTime<Utc>>> {
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
    pub async fn code(&self, code: Code) -> DbResult<Answer<CodeView>> {
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
async fn try_use(conn: &mut Conn, order: &UseOrder) -> QueryResult<Option<Answer<Used>>> {
    let state = match read(conn, &order.code).await? {
        Ok(state) => state,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    match state.use_by(&order.reference) {
        Ok(None) => {}
        Ok(Some(used_at)) => return Ok(Some(Ok(state.used(used_at)))),
        Err(refusal) => return Ok(Some(Err(refusal))),
    }
    // The row stays locked until the use is committed: a return waits, and then sees the use.
    let insert = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at) \
                  SELECT i.drop_id, i.slot, i.claimed_at, ?, ?, ? FROM issued_coupons i \
                  WHERE i.drop_id = ? AND i.slot = ? AND i.code = ? AND i.claimed_at = ? FOR SHARE";
    match order.statement(insert, &state).run(conn).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(Ok(state.used(state.now)))),
        Err(error) if refusal(&error) == Some(Refusal::Duplicate) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Returns `None` if the row was deleted in between.
async fn try_undo(
    conn: &mut Conn,
    order: &UseOrder,
    reason: Option<&UndoReason>,
) -> QueryResult<Option<Answer<DateTime<Utc>>>> {
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
    if order.statement(insert, &state).run(conn).await? == 0 {
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
async fn read(conn: &mut Conn, code: &Code) -> QueryResult<Answer<CodeState>> {
    let query = "SELECT d.coupon_id, i.user_id, i.claimed_at, c.valid_until, c.valid_days, \
                        UTC_TIMESTAMP(3), u.reference, u.used_by, u.used_at, u.undone_at \
                 FROM drops d STRAIGHT_JOIN coupons c ON c.id = d.coupon_id \
                 LEFT JOIN issued_coupons i ON i.drop_id = d.id AND i.slot = ? AND i.code = ? \
                 LEFT JOIN coupon_uses u ON u.drop_id = i.drop_id AND u.slot = i.slot \
                           AND u.claimed_at = i.claimed_at \
                 WHERE d.id = ?";
    let query = sql!(query, code.slot, &code.text, code.drop);
    let rows: Vec<(CodeRow, Option<CodeUse>)> = query.all(conn).await?;
    // Without such a drop there is no row either.
    let Some((row, _)) = rows.first().cloned() else {
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
        uses: rows.into_iter().filter_map(|(_, order)| order).collect(),
    }))
}

async fn is_revoked(conn: &mut Conn, coupon: CouponId, code: &Code) -> QueryResult<bool> {
    let revoked = sql!(
        "SELECT 1 FROM revoked_coupons WHERE drop_id = ? AND coupon_id = ? AND slot = ? AND code = ? \
         LIMIT 1",
        code.drop,
        coupon,
        code.slot,
        &code.text
    );
    Ok(revoked.first::<i64>(conn).await?.is_some())
}

/// Whether a claim's code is in use.
pub(super) async fn is_in_use(
    conn: &mut Conn,
    drop: i64,
    slot: Slot,
    claimed_at: DateTime<Utc>,
) -> QueryResult<bool> {
    let used = sql!(
        "SELECT 1 FROM coupon_uses WHERE drop_id = ? AND slot = ? AND claimed_at = ? AND in_use = 1",
        drop,
        slot,
        claimed_at
    );
    Ok(used.first::<i64>(conn).await?.is_some())
}
