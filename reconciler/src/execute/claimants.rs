//! A coupon's claimants, from the rows of all its drops: who holds one in a drop whose keys have left Redis must not get a
//! second one in the next.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use firstcome_shared::coupon::Coupon;
use firstcome_shared::domain::OncePer;
use firstcome_shared::mysql::Db;
use firstcome_shared::mysql::schema::issued_coupons;
use firstcome_shared::redis::{Redis, keys};

use super::ExecuteError;

/// Rows read at a time.
const AT_ONCE: i64 = 5_000;

/// Adds every person with a row of the coupon who is not among its claimants; gives how many were looked at.
///
/// # Errors
/// [`ExecuteError`]; some may have been added.
pub(crate) async fn restore_claimants(db: &Db, redis: &Redis, coupon: &Coupon) -> Result<u64, ExecuteError> {
    if coupon.once_per != OncePer::Coupon {
        return Ok(0);
    }
    let (id, key) = (coupon.id.0, keys::claimants(redis.prefix(), coupon.id));
    let (mut after, mut seen) = (String::new(), 0_u64);
    loop {
        let from = after.clone();
        let rows: Vec<(String, i64, u32)> = db
            .run("people of a coupon", async move |conn| {
                issued_coupons::table
                    .filter(issued_coupons::coupon_id.eq(id).and(issued_coupons::user_id.gt(from)))
                    .order(issued_coupons::user_id)
                    .limit(AT_ONCE)
                    .select((issued_coupons::user_id, issued_coupons::drop_id, issued_coupons::slot))
                    .load(conn)
                    .await
            })
            .await?;
        let Some((last, ..)) = rows.last() else { return Ok(seen) };
        after.clone_from(last);
        seen += rows.len() as u64;
        let mut pipe = redis::pipe();
        for (user, drop, slot) in &rows {
            pipe.cmd("HSETNX").arg(&key).arg(user).arg(format!("{drop}:{slot}")).ignore();
        }
        pipe.query_async::<()>(&mut redis.connection()).await?;
    }
}
