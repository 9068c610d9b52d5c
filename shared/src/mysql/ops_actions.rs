//! The log of operators' actions, with operator, time and address. An action that changes MySQL is
//! recorded in the same transaction, so that neither exists without the other.

use std::net::IpAddr;

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;

use super::Conn;
use crate::domain::{CouponId, DropId};
use crate::schema::ops_actions;

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
        let from = self.from.map(|from| from.to_canonical().to_string());
        diesel::insert_into(ops_actions::table)
            .values((
                ops_actions::operator.eq(&self.name),
                ops_actions::token.eq(&self.token),
                ops_actions::from_addr.eq(from),
                ops_actions::action.eq(act.action),
                ops_actions::coupon_id.eq(act.coupon),
                ops_actions::drop_id.eq(act.drop),
                ops_actions::detail.eq(act.detail),
            ))
            .execute(conn)
            .await
            .map(|_| ())
    }
}
