//! Uses of codes by shops (docs/decisions/0043-using.md). Each call reads the code's row with its
//! uses in one statement, and writes with one statement that locks the row.

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;

use super::codes::Code;
use super::ops_actions::{Operator, OperatorAct};
use super::sql::row;
use super::{Conn, Db, DbResult, Refusal, refusal};
use crate::coupon::code_expires_at;
use crate::domain::{CouponId, DropId, Slot};
use crate::sql;

/// Maximum number of references of a claim.
pub const MAX_REFERENCES: i64 = 100;

/// Attempts of a call whose row changes between its two statements.
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
    /// By MySQL's clock.
    pub used_at: DateTime<Utc>,
    /// Null: never.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Why a code is not used or undone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodeRefusal {
    NoSuchCode,
    /// The coupon was returned or revoked.
    Revoked,
    /// By another reference.
    Used(DateTime<Utc>),
    /// This reference was undone.
    Undone,
    Expired(DateTime<Utc>),
    TooManyReferences,
}

/// What a code is for, and whether it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct CodeDetails {
    pub coupon_id: CouponId,
    pub drop_id: DropId,
    #[schema(value_type = u32, minimum = 1)]
    pub slot: Slot,
    /// When the user was admitted.
    pub claimed_at: DateTime<Utc>,
    /// Null: it is not used.
    pub used_at: Option<DateTime<Utc>>,
    /// Null: never.
    pub expires_at: Option<DateTime<Utc>>,
}

row! {
    /// A use of a code.
    #[derive(PartialEq, Eq, Serialize, ToSchema)]
    pub struct CodeUse {
        /// The order.
        pub reference: String,
        /// The shop: its X-Operator, else the fingerprint of its token.
        pub used_by: String,
        /// Null: it was undone before it used the code.
        pub used_at: Option<DateTime<Utc>>,
        /// Null: it was not undone.
        pub undone_at: Option<DateTime<Utc>>,
    }
}

impl CodeUse {
    pub fn is_in_use(&self) -> bool {
        self.used_at.is_some() && self.undone_at.is_none()
    }
}

row! {
    /// A code's row, and what the uses of its claim say about a reference.
    #[derive(Default)]
    struct CodeState {
        coupon_id: CouponId,
        /// `None` if no row has the code.
        claimed_at: Option<DateTime<Utc>>,
        is_revoked: bool,
        valid_until: Option<DateTime<Utc>>,
        valid_days: Option<u32>,
        /// MySQL's time.
        now: DateTime<Utc>,
        /// By any reference.
        used_at: Option<DateTime<Utc>>,
        own_used_at: Option<DateTime<Utc>>,
        own_undone_at: Option<DateTime<Utc>>,
        references: i64,
    }
}

/// The claim of a code whose row exists.
#[derive(Clone, Copy)]
struct CodeClaim {
    coupon_id: CouponId,
    claimed_at: DateTime<Utc>,
    expires_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
}

impl CodeState {
    fn claim(&self) -> Result<CodeClaim, CodeRefusal> {
        let Some(claimed_at) = self.claimed_at else {
            return Err(if self.is_revoked {
                CodeRefusal::Revoked
            } else {
                CodeRefusal::NoSuchCode
            });
        };
        Ok(CodeClaim {
            coupon_id: self.coupon_id,
            claimed_at,
            expires_at: code_expires_at(self.valid_until, self.valid_days, claimed_at),
            now: self.now,
        })
    }

    /// Returns when the reference used the code, or `None` if it may use it now.
    fn use_by_own(&self, claim: &CodeClaim) -> Result<Option<DateTime<Utc>>, CodeRefusal> {
        if self.own_undone_at.is_some() {
            return Err(CodeRefusal::Undone);
        }
        if let Some(used_at) = self.own_used_at {
            return Ok(Some(used_at));
        }
        if let Some(used_at) = self.used_at {
            return Err(CodeRefusal::Used(used_at));
        }
        match claim.expires_at {
            Some(end) if end <= self.now => Err(CodeRefusal::Expired(end)),
            _ if self.references >= MAX_REFERENCES => Err(CodeRefusal::TooManyReferences),
            _ => Ok(None),
        }
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
    /// used it yet. Returns when it was undone first.
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

    /// Reads what a code is for, and its references, oldest first.
    pub async fn code(&self, code: Code) -> DbResult<Answer<(CodeDetails, Vec<CodeUse>)>> {
        let db = self.of_primary();
        db.run("read a code", async move |conn| {
            let state = read(conn, &code, "").await?;
            let claim = match state.claim() {
                Ok(claim) => claim,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let uses = sql!(
                "SELECT {columns} FROM coupon_uses \
                        WHERE drop_id = ? AND slot = ? AND claimed_at = ? \
                        ORDER BY COALESCE(used_at, undone_at), reference",
                code.drop,
                code.slot,
                claim.claimed_at
            );
            let details = CodeDetails {
                coupon_id: claim.coupon_id,
                drop_id: code.drop,
                slot: code.slot,
                claimed_at: claim.claimed_at,
                used_at: state.used_at,
                expires_at: claim.expires_at,
            };
            Ok(Ok((details, uses.all(conn).await?)))
        })
        .await
    }
}

/// Returns `None` if another transaction came in between.
async fn try_use(conn: &mut Conn, order: &UseOrder) -> QueryResult<Option<Answer<Used>>> {
    let state = read(conn, &order.code, &order.reference).await?;
    let judged = state
        .claim()
        .and_then(|claim| Ok((claim, state.use_by_own(&claim)?)));
    let (claim, earlier) = match judged {
        Ok(judged) => judged,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    let used = Used {
        used_at: earlier.unwrap_or(claim.now),
        expires_at: claim.expires_at,
    };
    if earlier.is_some() {
        return Ok(Some(Ok(used)));
    }
    // The row stays locked until the use is committed: a return waits, and then sees the use.
    let insert = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, used_at) \
                  SELECT i.drop_id, i.slot, i.claimed_at, ?, ?, ? FROM issued_coupons i \
                  WHERE i.drop_id = ? AND i.slot = ? AND i.code = ? AND i.claimed_at = ? FOR SHARE";
    let code = &order.code;
    let drop = code.drop;
    let slot = code.slot;
    let claimed_at = claim.claimed_at;
    let reference = &order.reference;
    let by = &order.by;
    let insert = sql!(
        insert,
        reference,
        by,
        used.used_at,
        drop,
        slot,
        &code.text,
        claimed_at
    );
    match insert.run(conn).await {
        Ok(0) => Ok(None),
        Ok(_) => Ok(Some(Ok(used))),
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
    let state = read(conn, &order.code, &order.reference).await?;
    let claim = match state.claim() {
        Ok(claim) => claim,
        Err(refusal) => return Ok(Some(Err(refusal))),
    };
    if let Some(undone_at) = state.own_undone_at {
        return Ok(Some(Ok(undone_at)));
    }
    if state.own_used_at.is_none() && state.references >= MAX_REFERENCES {
        return Ok(Some(Err(CodeRefusal::TooManyReferences)));
    }
    let insert = "INSERT INTO coupon_uses (drop_id, slot, claimed_at, reference, used_by, \
        undone_at) SELECT i.drop_id, i.slot, i.claimed_at, ?, ?, ? FROM issued_coupons i \
        WHERE i.drop_id = ? AND i.slot = ? AND i.code = ? \
        AND i.claimed_at = ? FOR SHARE ON DUPLICATE KEY UPDATE undone_at = \
        COALESCE(coupon_uses.undone_at, VALUES(undone_at))";
    let code = &order.code;
    let drop = code.drop;
    let slot = code.slot;
    let claimed_at = claim.claimed_at;
    let reference = &order.reference;
    let by = &order.by;
    let insert = sql!(
        insert, reference, by, claim.now, drop, slot, &code.text, claimed_at
    );
    if insert.run(conn).await? == 0 {
        return Ok(None);
    }
    if let Some(UndoReason { reason, operator }) = reason {
        let detail = json!({"slot": slot, "reference": reference, "reason": reason});
        let act = OperatorAct::new("undo_use", Some(claim.coupon_id), Some(drop), detail);
        operator.did(conn, act).await?;
    }
    // The undo is remembered although another order uses the code: a request of this one that
    // arrives after that order was undone must not use it.
    let other = state.used_at.filter(|_| state.own_used_at.is_none());
    Ok(Some(
        other.map_or(Ok(claim.now), |at| Err(CodeRefusal::Used(at))),
    ))
}

/// Reads a code's row and uses. A wrong code costs a few look-ups by primary key, or by the key of
/// the drop's revocations.
async fn read(conn: &mut Conn, code: &Code, reference: &str) -> QueryResult<CodeState> {
    let query = "SELECT d.coupon_id, i.claimed_at, i.slot IS NULL AND EXISTS (SELECT 1 \
        FROM revoked_coupons r WHERE r.drop_id = d.id AND r.coupon_id = d.coupon_id \
        AND r.slot = ? AND r.code = ?), c.valid_until, c.valid_days, UTC_TIMESTAMP(3), \
        u.used_at, IF(o.undone_at IS NULL, o.used_at, NULL), o.undone_at, (SELECT COUNT(*) \
        FROM coupon_uses n WHERE n.drop_id = i.drop_id AND n.slot = i.slot \
        AND n.claimed_at = i.claimed_at) FROM drops d \
        STRAIGHT_JOIN coupons c ON c.id = d.coupon_id \
        LEFT JOIN issued_coupons i ON i.drop_id = d.id AND i.slot = ? AND i.code = ? \
        LEFT JOIN coupon_uses u ON u.drop_id = i.drop_id AND u.slot = i.slot \
        AND u.claimed_at = i.claimed_at AND u.in_use = 1 \
        LEFT JOIN coupon_uses o ON o.drop_id = i.drop_id AND o.slot = i.slot \
        AND o.claimed_at = i.claimed_at AND o.reference = ? WHERE d.id = ?";
    let slot = code.slot;
    let text = &code.text;
    let query = sql!(query, slot, text, slot, text, reference, code.drop);
    // Without such a drop there is no row either.
    Ok(query.first(conn).await?.unwrap_or_default())
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
