//! Sealed drops: closed, verified exact, and skipped by later passes. Also counts revocations,
//! which can prevent sealing.

use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::BigInt;
use diesel_async::RunQueryDsl;

use super::{Conn, Db, DbResult, levels};
use crate::columns::now;
use crate::domain::{DropId, Slot};
use crate::schema::{drops, issued_coupons, revoked_coupons};

/// Time limit for counting the rows of one drop.
const LONG: Duration = Duration::from_secs(120);

impl Db {
    /// Seals a drop with the verified number of rows. Returns `false` if an operator has changed
    /// its closing time or quantity since the caller read it, if its rows or revocations differ
    /// from those verified, or if it is already sealed.
    ///
    /// A pass that inserts rows and a revocation that moves one lock the drop afterwards
    /// (`rows_changed`). Therefore, either the change is committed before this lock and gets
    /// counted, or it changes the number of a sealed drop. A row that a consumer commits just
    /// afterwards stays: its user was promised nothing, or Redis would have more users than there
    /// are rows. The number is one too low then.
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
            let seen: Option<(Option<DateTime<Utc>>, Slot)> = drops::table
                .find(id)
                .filter(drops::sealed_at.is_null())
                .select((drops::closes_at, drops::quantity))
                .for_update()
                .get_result(conn)
                .await
                .optional()?;
            if seen != Some((closes_at, quantity)) {
                return Ok(false);
            }
            let own = issued_coupons::table.filter(issued_coupons::drop_id.eq(id));
            let issued: i64 = own.count().get_result(conn).await?;
            let own = revoked_coupons::table.filter(revoked_coupons::drop_id.eq(id));
            let revoked: i64 = own.count().get_result(conn).await?;
            if issued != i64::from(rows) || revoked.cast_unsigned() != revocations {
                return Ok(false);
            }
            diesel::update(drops::table.find(id))
                .set((
                    drops::sealed_at.eq(now().nullable()),
                    drops::sealed_rows.eq(Some(rows)),
                ))
                .execute(conn)
                .await?;
            levels::seal(conn, id).await?;
            Ok(true)
        })
        .await
    }
}

/// Corrects the number of rows of a sealed drop if rows are inserted or deleted after sealing, and
/// clears `codes_erased_at`, because the drop may name users again. Must be called in the
/// transaction of the rows, after changing them. The lock on the drop lasts until the end of the
/// transaction, so sealing waits for it.
pub async fn rows_changed(conn: &mut Conn, drop: i64, by: i64) -> QueryResult<()> {
    let sealed: Option<DropId> = drops::table
        .find(drop)
        .filter(drops::sealed_at.is_not_null())
        .select(drops::id)
        .for_share()
        .get_result(conn)
        .await
        .optional()?;
    if sealed.is_some() {
        sql_query(
            "UPDATE drops SET sealed_rows = GREATEST(CAST(sealed_rows AS SIGNED) + ?, 0), \
             codes_erased_at = NULL WHERE id = ?",
        )
        .bind::<BigInt, _>(by)
        .bind::<BigInt, _>(drop)
        .execute(conn)
        .await?;
    }
    Ok(())
}
