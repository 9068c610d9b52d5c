//! Sealed drops: closed, verified exact, and skipped by later passes. Also counts revocations,
//! which can prevent sealing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::QueryResult;

use super::{Conn, Db, DbResult};
use crate::coupon::Drop;
use crate::domain::{CouponId, DropId, Slot};
use crate::sql;

/// Time limit for counting the rows of one drop.
const LONG: Duration = Duration::from_secs(120);

impl Db {
    /// Returns the drop of a coupon that was sealed last.
    pub async fn last_sealed(&self, coupon: CouponId) -> DbResult<Option<DropId>> {
        let last = "SELECT id FROM drops FORCE INDEX (drops_sealed) \
                    WHERE coupon_id = ? AND sealed_at IS NOT NULL \
                    ORDER BY sealed_at DESC, id DESC LIMIT 1";
        self.first("last sealed drop", sql!(last, coupon)).await
    }

    /// Seals a drop with the verified number of rows. Returns `false` if an operator has changed
    /// its closing time or quantity since the caller read it, if its rows or revocations differ
    /// from those verified, or if it is already sealed.
    ///
    /// A pass that inserts rows and a revocation that moves one lock the drop afterwards
    /// (`rows_changed`). Therefore, either the change is committed before this lock and gets
    /// counted, or it changes the number of a sealed drop. Consumers, and APIs that write rows
    /// themselves, lock drops that have closed or close soon (`seal_is_final` in `take_out.rs`).
    /// Therefore, either their rows are counted, or they find the drop sealed.
    pub async fn seal_drop(
        &self,
        id: DropId,
        closes_at: Option<DateTime<Utc>>,
        quantity: Slot,
        rows: u32,
        revocations: u64,
    ) -> DbResult<bool> {
        let db = self.within(LONG);
        db.transaction("seal drop", async move |conn| {
            let lock = "SELECT id FROM drops WHERE id = ? AND sealed_at IS NULL \
                AND closes_at <=> ? AND quantity = ? FOR UPDATE";
            let locked: Option<i64> = sql!(lock, id, closes_at, quantity).first(conn).await?;
            if locked.is_none() {
                return Ok(false);
            }
            let numbers: (u64, u64) = sql!(
                "SELECT (SELECT COUNT(*) FROM issued_coupons \
                WHERE drop_id = ?), (SELECT COUNT(*) FROM revoked_coupons WHERE drop_id = ?)",
                id,
                id
            )
            .one(conn)
            .await?;
            if numbers != (rows.into(), revocations) {
                return Ok(false);
            }
            let seal = "UPDATE drops SET sealed_at = ?, sealed_rows = ? WHERE id = ?";
            sql!(seal, Utc::now(), rows, id)
                .run(conn)
                .await
                .map(|_| true)
        })
        .await
    }

    /// Reads at most `limit` sealed drops with ids above `after`, optionally of one coupon or drop.
    pub async fn sealed_drops(
        &self,
        after: DropId,
        coupon: Option<CouponId>,
        drop: Option<DropId>,
        limit: i64,
    ) -> DbResult<Vec<Drop>> {
        let page = "SELECT {columns} FROM drops WHERE sealed_at IS NOT NULL AND id > ? \
                    AND COALESCE(coupon_id = ?, TRUE) AND COALESCE(id = ?, TRUE) ORDER BY id LIMIT ?";
        self.all("sealed drops", sql!(page, after, coupon, drop, limit))
            .await
    }
}

/// Corrects the number of rows of a sealed drop if rows are inserted or deleted after sealing, and
/// clears `codes_erased_at`, because the drop may name users again. Must be called in the
/// transaction of the rows, after changing them. The lock on the drop lasts until the end of the
/// transaction, so sealing waits for it.
pub async fn rows_changed(conn: &mut Conn, drop: i64, by: i64) -> QueryResult<()> {
    let lock = "SELECT sealed_at IS NOT NULL FROM drops WHERE id = ? FOR SHARE";
    if sql!(lock, drop).first(conn).await? == Some(true) {
        let count = "UPDATE drops SET sealed_rows = GREATEST(CAST(sealed_rows AS SIGNED) + ?, \
            0), codes_erased_at = NULL WHERE id = ?";
        sql!(count, by, drop).run(conn).await?;
    }
    Ok(())
}
