//! What MySQL knows of one person and one coupon.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;

use super::issued::{IssuedRow, of_people};
use super::schema::broken_promises;
use super::{Db, DbError};
use crate::domain::{CouponId, DropId, UserId};

/// One person's rows and the promises to them that could not be kept so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PersonRecord {
    /// Rows they hold, oldest drop first.
    pub rows: Vec<IssuedRow>,
    /// Drops in which a promise to them is broken and not mended, oldest first, with the slot they had been told.
    pub broken: Vec<(DropId, Option<i64>)>,
}

impl Db {
    /// What is on record of `user` in any drop of `coupon`.
    pub async fn person(&self, coupon: CouponId, user: &UserId) -> Result<PersonRecord, DbError> {
        let user = user.clone();
        self.run("read a person", async move |conn| {
            let rows = of_people(conn, coupon, &[user.as_str()]).await?;
            let broken: Vec<(i64, Option<i64>)> = broken_promises::table
                .filter(broken_promises::coupon_id.eq(coupon.0))
                .filter(broken_promises::user_id.eq(user.as_str()))
                .filter(broken_promises::mended_at.is_null())
                .order(broken_promises::drop_id)
                .select((broken_promises::drop_id, broken_promises::slot))
                .load(conn)
                .await?;
            Ok(PersonRecord { rows, broken: broken.into_iter().map(|(drop, slot)| (DropId(drop), slot)).collect() })
        })
        .await
    }
}
