//! `Idempotency-Key`: a repeated request creates no second coupon.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_types::BigInt;
use diesel_async::{AsyncConnection as _, RunQueryDsl};
use sha2::{Digest as _, Sha256};

use super::catalogue::{NewCoupon, insert_coupon};
use super::ops_actions::Operator;
use super::schema::idempotency_keys;
use super::{Conn, Db, DbError, Refusal, refusal};
use crate::coupon::{Coupon, Drop};
use crate::domain::CouponId;

/// Rows deleted per statement.
const DELETED_AT_ONCE: i64 = 1_000;

/// A key with the hash of its request's body.
#[derive(Debug, Clone)]
pub struct IdempotencyKey {
    key: String,
    body_hash: [u8; 32],
}

impl IdempotencyKey {
    pub fn new(key: String, body: &[u8]) -> Self {
        Self {
            key,
            body_hash: Sha256::digest(body).into(),
        }
    }
}

/// The effect of an earlier request with the same key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EarlierRequest {
    /// The request had the same body and created this coupon.
    Made(CouponId),
    OtherBody,
}

impl Db {
    /// Reads the effect of an earlier request with this key. Returns `None` if there was none.
    pub async fn earlier_request(
        &self,
        key: IdempotencyKey,
    ) -> Result<Option<EarlierRequest>, DbError> {
        self.run("find an idempotency key", async move |conn| {
            earlier(conn, &key).await
        })
        .await
    }

    /// Calls [`Db::create_coupon`], unless an earlier request with this key created a coupon.
    pub async fn create_coupon_once(
        &self,
        key: IdempotencyKey,
        new: NewCoupon,
        now: DateTime<Utc>,
        by: Operator,
    ) -> Result<Result<(Coupon, Vec<Drop>), EarlierRequest>, DbError> {
        self.run("create coupon", async move |conn| {
            let made = conn.transaction(async |conn| {
                let made = insert_coupon(conn, &new, now, &by).await?;
                // A concurrent identical request waits here until this one commits.
                diesel::insert_into(idempotency_keys::table)
                    .values((
                        idempotency_keys::idempotency_key.eq(&key.key),
                        idempotency_keys::body_hash.eq(&key.body_hash[..]),
                        idempotency_keys::coupon_id.eq(made.0.id.0),
                    ))
                    .execute(conn)
                    .await?;
                Ok(made)
            });
            match made.await {
                Err(error) if refusal(&error) == Some(Refusal::Duplicate) => {
                    Ok(Err(earlier(conn, &key).await?.ok_or(error)?))
                }
                other => other.map(Ok),
            }
        })
        .await
    }

    /// Deletes a limited number of keys that are a week old, because clients no longer retry. Uses
    /// MySQL's clock, which dated the keys, because this host's may be ahead.
    pub async fn delete_old_idempotency_keys(&self) -> Result<usize, DbError> {
        self.run("delete old idempotency keys", async |conn| {
            let old = "created_at < UTC_TIMESTAMP(3) - INTERVAL 7 DAY";
            diesel::sql_query(format!(
                "DELETE FROM idempotency_keys WHERE {old} ORDER BY created_at LIMIT ?"
            ))
            .bind::<BigInt, _>(DELETED_AT_ONCE)
            .execute(conn)
            .await
        })
        .await
    }
}

async fn earlier(conn: &mut Conn, key: &IdempotencyKey) -> QueryResult<Option<EarlierRequest>> {
    let found: Option<(Vec<u8>, i64)> = idempotency_keys::table
        .find(&key.key)
        .select((idempotency_keys::body_hash, idempotency_keys::coupon_id))
        .first(conn)
        .await
        .optional()?;
    Ok(found.map(|(hash, id)| {
        if hash == key.body_hash {
            EarlierRequest::Made(CouponId(id))
        } else {
            EarlierRequest::OtherBody
        }
    }))
}
