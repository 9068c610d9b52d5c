//! Design D: the stock row in MySQL is the lock.

use anyhow::Result;
use firstcome_shared::domain::UserId;
use mysql_async::prelude::Queryable;
use mysql_async::{Transaction, TxOpts};

use super::sql::DesignRows;
use super::{DesignArgs, DesignReply, Issuer};

pub(super) struct RowLock {
    rows: DesignRows,
    query: String,
    lock: String,
    take: String,
    read_first: bool,
    quantity: i64,
}

impl RowLock {
    pub(super) async fn new(args: &DesignArgs, read_first: bool) -> Result<Self> {
        let table = args.design.table();
        // Updates the stock and inserts the user's row in one statement, so a losing request holds
        // the lock for only one round trip.
        let query = format!(
            "SELECT remaining, EXISTS (SELECT 1 FROM {table} WHERE coupon_id = 1 AND user_id = ?)
             FROM stock_{table} WHERE coupon_id = 1"
        );
        Ok(Self {
            rows: DesignRows::of(args).await?,
            lock: format!("{query} FOR UPDATE"),
            query,
            take: format!("UPDATE stock_{table} SET remaining = remaining - 1 WHERE coupon_id = 1"),
            read_first,
            quantity: args.quantity.into(),
        })
    }

    async fn take(
        &self,
        mut tx: Transaction<'_>,
        user: &str,
        remaining: i64,
    ) -> Result<DesignReply> {
        let slot = u32::try_from(self.quantity - remaining + 1)?;
        if !self.rows.insert(&mut tx, user, slot).await? {
            tx.rollback().await?;
            return Ok(DesignReply::Already);
        }
        tx.query_drop(&self.take).await?;
        tx.commit().await?;
        Ok(DesignReply::Accepted(slot))
    }
}

impl Issuer for RowLock {
    async fn claim(&self, user: &UserId) -> Result<DesignReply> {
        let user = user.as_str();
        let mut conn = self.rows.pool.get_conn().await?;
        if self.read_first {
            let seen = conn.exec_first(&self.query, (user,)).await?;
            let (remaining, has_row): (i64, u8) = seen.unwrap_or((0, 0));
            if let Some(reply) =
                DesignReply::if_held(has_row != 0).or(DesignReply::if_over(remaining <= 0))
            {
                return Ok(reply);
            }
        }
        let mut tx = conn.start_transaction(TxOpts::default()).await?;
        let seen = tx.exec_first(&self.lock, (user,)).await?;
        let (remaining, has_row): (i64, u8) = seen.unwrap_or((0, 0));
        match DesignReply::if_held(has_row != 0).or(DesignReply::if_over(remaining <= 0)) {
            Some(reply) => {
                tx.rollback().await?;
                Ok(reply)
            }
            None => self.take(tx, user, remaining).await,
        }
    }
}
