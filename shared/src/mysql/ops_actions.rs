//! The log of operators' actions, with operator, time and address. Each row is written in the same
//! transaction as its action, so that neither exists without the other.

use std::net::IpAddr;

use chrono::NaiveDateTime;
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;

use super::schema::ops_actions;
use super::{Conn, Db, DbError};
use crate::domain::{CouponId, DropId};
use crate::http::views::RecordedAct;

/// The operator of a request, as identified by the request.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Operator {
    /// The name in the request.
    pub name: Option<String>,
    /// Fingerprint of the token, because operators share tokens and tokens are rotated.
    pub token: String,
    /// The peer's address, or the client's address as given by trusted proxies.
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

impl Operator {
    /// Records an action; must be called in the transaction of that action.
    pub async fn did(&self, conn: &mut Conn, act: OperatorAct) -> QueryResult<()> {
        diesel::insert_into(ops_actions::table)
            .values((
                ops_actions::operator.eq(&self.name),
                ops_actions::token.eq(&self.token),
                ops_actions::from_addr.eq(self.from.map(|from| from.to_canonical().to_string())),
                ops_actions::action.eq(act.action),
                ops_actions::coupon_id.eq(act.coupon.map(|id| id.0)),
                ops_actions::drop_id.eq(act.drop.map(|id| id.0)),
                ops_actions::detail.eq(act.detail.to_string()),
            ))
            .execute(conn)
            .await
            .map(|_| ())
    }
}

impl Db {
    /// Reads the last actions on a coupon, newest first.
    pub async fn acts_on(&self, coupon: CouponId) -> Result<Vec<RecordedAct>, DbError> {
        type Row = (NaiveDateTime, Option<String>, String, String);
        let rows = self.run("acts on a coupon", async move |conn| {
            ops_actions::table
                .filter(ops_actions::coupon_id.eq(coupon.0))
                .order((ops_actions::at.desc(), ops_actions::id.desc()))
                .limit(20)
                .select((
                    ops_actions::at,
                    ops_actions::operator,
                    ops_actions::action,
                    ops_actions::detail,
                ))
                .load::<Row>(conn)
                .await
        });
        let act = |(at, by, action, detail): Row| RecordedAct {
            at: at.and_utc(),
            by,
            action,
            detail,
        };
        Ok(rows.await?.into_iter().map(act).collect())
    }

    /// Records an action that changes nothing else.
    pub async fn record_act(&self, by: Operator, act: OperatorAct) -> Result<(), DbError> {
        self.run("record an act", async move |conn| by.did(conn, act).await)
            .await
    }
}
