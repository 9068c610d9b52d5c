//! D: the stock row in MySQL is the lock.

use anyhow::Result;
use firstcome_shared::domain::UserId;
use mysql_async::prelude::Queryable;
use mysql_async::{Transaction, TxOpts};

use super::sql::Rows;
use super::{Place, Said, Shop};

pub(super) struct RowLock {
    rows: Rows,
    look: String,
    lock: String,
    take: String,
    look_first: bool,
    quantity: i64,
}

impl RowLock {
    pub(super) async fn new(place: &Place, look_first: bool) -> Result<Self> {
        let table = place.design.table();
        // Stock and the person's row in one statement, so that whoever loses holds the lock for one round trip.
        let look = format!(
            "SELECT remaining, EXISTS (SELECT 1 FROM {table} WHERE coupon_id = 1 AND user_id = ?)
             FROM stock_{table} WHERE coupon_id = 1"
        );
        Ok(Self {
            rows: Rows::of(place).await?,
            lock: format!("{look} FOR UPDATE"),
            look,
            take: format!("UPDATE stock_{table} SET remaining = remaining - 1 WHERE coupon_id = 1"),
            look_first,
            quantity: place.quantity.into(),
        })
    }

    async fn take(&self, mut tx: Transaction<'_>, user: &str, remaining: i64) -> Result<Said> {
        let slot = u32::try_from(self.quantity - remaining + 1)?;
        if !self.rows.insert(&mut tx, user, slot).await? {
            tx.rollback().await?;
            return Ok(Said::Already);
        }
        tx.query_drop(&self.take).await?;
        tx.commit().await?;
        Ok(Said::Accepted(slot))
    }
}

fn no((remaining, held): (i64, u8)) -> Option<Said> {
    if held != 0 { Some(Said::Already) } else { (remaining <= 0).then_some(Said::SoldOut) }
}

impl Shop for RowLock {
    async fn claim(&self, user: &UserId) -> Result<Said> {
        let user = user.as_str();
        let mut conn = self.rows.pool.get_conn().await?;
        if self.look_first
            && let Some(said) = no(conn.exec_first(&self.look, (user,)).await?.unwrap_or((0, 0)))
        {
            return Ok(said);
        }
        let mut tx = conn.start_transaction(TxOpts::default()).await?;
        let seen: (i64, u8) = tx.exec_first(&self.lock, (user,)).await?.unwrap_or((0, 0));
        match no(seen) {
            Some(said) => {
                tx.rollback().await?;
                Ok(said)
            }
            None => self.take(tx, user, seen.0).await,
        }
    }
}
