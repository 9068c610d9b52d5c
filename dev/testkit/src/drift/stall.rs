//! A lock in MySQL that blocks the consumer.

use anyhow::Result;
use diesel::prelude::*;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::schema::slot_limits;
use firstcome_shared::mysql::{Conn, Db, DbSettings};

/// Blocks writes to the drop's rows while it exists. Each write needs a lock on the drop's limit,
/// which this connection already holds.
pub struct Stall(Conn);

impl Stall {
    pub(crate) async fn begin(settings: &DbSettings, drop: DropId) -> Result<Self> {
        let mut conn = Db::dedicated(settings).await?;
        // The product's connections close after ten idle seconds, which would release the lock.
        conn.batch_execute("SET SESSION wait_timeout = 86400; BEGIN")
            .await?;
        slot_limits::table
            .filter(slot_limits::drop_id.eq(drop.0))
            .select(slot_limits::drop_id)
            .for_update()
            .first::<i64>(&mut conn)
            .await?;
        Ok(Self(conn))
    }

    /// Releases the lock, so that the consumer continues. Dropping the guard does the same,
    /// slightly later.
    pub async fn end(mut self) -> Result<()> {
        Ok(self.0.batch_execute("ROLLBACK").await?)
    }
}

impl std::fmt::Debug for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stall")
    }
}
