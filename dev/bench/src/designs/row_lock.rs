//! Design D: the stock row in MySQL is the lock.

use anyhow::Result;
use firstcome_shared::domain::UserId;
use mysql_async::prelude::Queryable as _;
use mysql_async::{Pool, TxOpts};

use super::sql::{CONNECTIONS, pool};
use super::{DesignArgs, DesignReply, Issuer};

/// MySQL's error code for a duplicate key.
const DUPLICATE: u16 = 1062;

pub(super) struct RowLock {
    pool: Pool,
    lock: String,
    insert: String,
    take: String,
    quantity: i64,
}

impl RowLock {
    pub(super) async fn new(args: &DesignArgs) -> Result<Self> {
        let table = args.design.table();
        let this = Self {
            pool: pool(&args.database, CONNECTIONS)?,
            lock: format!(
                "SELECT remaining, EXISTS (SELECT 1 FROM {table} WHERE coupon_id = 1 AND user_id = ?)
                 FROM stock_{table} WHERE coupon_id = 1 FOR UPDATE"
            ),
            insert: format!(
                "INSERT INTO {table} (coupon_id, user_id, slot, issued_at) VALUES (1, ?, ?, UTC_TIMESTAMP(3))"
            ),
            take: format!("UPDATE stock_{table} SET remaining = remaining - 1 WHERE coupon_id = 1"),
            quantity: args.quantity.into(),
        };
        // Opens every connection, so that the measurement covers the design and not its warm-up.
        let mut open = Vec::new();
        for _ in 0..CONNECTIONS {
            let mut conn = this.pool.get_conn().await?;
            conn.exec_drop(&this.lock, ("nobody",)).await?;
            open.push(conn);
        }
        Ok(this)
    }
}

impl Issuer for RowLock {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let user = user.as_str();
        let mut tx = self.pool.start_transaction(TxOpts::default()).await?;
        let seen = tx.exec_first(&self.lock, (user,)).await?;
        let (remaining, has_row): (i64, u8) = seen.unwrap_or((0, 0));
        if has_row != 0 || remaining <= 0 {
            tx.rollback().await?;
            return Ok(if has_row != 0 {
                DesignReply::Already
            } else {
                DesignReply::SoldOut
            });
        }
        let slot = u32::try_from(self.quantity - remaining + 1)?;
        match tx.exec_drop(&self.insert, (user, slot)).await {
            Err(mysql_async::Error::Server(error)) if error.code == DUPLICATE => {
                tx.rollback().await?;
                return Ok(DesignReply::Already);
            }
            inserted => inserted?,
        }
        tx.query_drop(&self.take).await?;
        tx.commit().await?;
        Ok(DesignReply::Accepted(slot))
    }
}
