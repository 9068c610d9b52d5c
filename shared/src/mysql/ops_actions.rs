//! The log of operators' actions, with operator, time and address. An action that changes MySQL is
//! recorded in the same transaction, so that neither exists without the other.

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use diesel::QueryResult;
use serde_json::Value;

use super::sql::read_as;
use super::{Conn, Db, DbResult};
use crate::domain::{CouponId, DropId};
use crate::model::RecordedAct;
use crate::sql;

/// The operator of a request, as identified by the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operator {
    /// The name in the request.
    pub name: Option<String>,
    /// Fingerprint of the token: shows which of several tokens was used.
    pub token: String,
    /// The peer's address.
    pub from: Option<IpAddr>,
}

/// An operator's action.
#[derive(Debug, Clone, Default)]
pub struct OperatorAct {
    pub action: &'static str,
    pub coupon: Option<CouponId>,
    pub drop: Option<DropId>,
    pub detail: Value,
}

impl OperatorAct {
    pub fn new(
        action: &'static str,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        detail: Value,
    ) -> Self {
        Self {
            action,
            coupon,
            drop,
            detail,
        }
    }
}

impl Operator {
    /// Records an action; must be called in the transaction of that action.
    pub async fn did(&self, conn: &mut Conn, act: OperatorAct) -> QueryResult<()> {
        let insert = "INSERT INTO ops_actions (operator, token, from_addr, action, coupon_id, \
            drop_id, detail) VALUES (?, ?, ?, ?, ?, ?, ?)";
        let name = self.name.clone();
        let token = &self.token;
        let detail = act.detail.to_string();
        let from = self.from.map(|from| from.to_canonical().to_string());
        let action = act.action;
        let coupon = act.coupon;
        let drop = act.drop;
        let insert = sql!(insert, name, token, from, action, coupon, drop, detail);
        insert.run(conn).await.map(|_| ())
    }
}

read_as!(RecordedAct { at: DateTime<Utc>, by: Option<String>, action: String, detail: String, });

impl Db {
    /// Reads the last actions on a coupon, newest first.
    pub async fn acts_on(&self, coupon: CouponId) -> DbResult<Vec<RecordedAct>> {
        let last = "SELECT at, operator, action, CAST(detail AS CHAR) FROM ops_actions \
            WHERE coupon_id = ? ORDER BY at DESC, id DESC LIMIT 20";
        self.all("acts on a coupon", sql!(last, coupon)).await
    }

    /// Records an action that changes nothing in MySQL, for example that user ids were shown.
    pub async fn record_act(&self, by: Operator, act: OperatorAct) -> DbResult<()> {
        self.run("record an act", async move |conn| by.did(conn, act).await)
            .await
    }
}
