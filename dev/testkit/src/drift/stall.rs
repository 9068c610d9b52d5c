//! A lock in MySQL that holds the consumer up.

use anyhow::Result;
use diesel::prelude::*;
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use firstcome_shared::domain::DropId;
use firstcome_shared::mysql::schema::slot_limits;
use firstcome_shared::mysql::{Conn, Db, DbSettings};

/// Nobody can write a row of the drop while this exists: each would have to lock the limit that it
/// keeps to, which is taken.
pub struct Stall(Conn);

impl Stall {
    pub(crate) async fn begin(settings: &DbSettings, drop: DropId) -> Result<Self> {
        let mut conn = Db::dedicated(settings).await?;
        // By itself the product's connection ends after ten idle seconds, and the lock with it.
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

    /// Lets the consumer go on. Dropping does the same, a little later.
    pub async fn end(mut self) -> Result<()> {
        Ok(self.0.batch_execute("ROLLBACK").await?)
    }
}

impl std::fmt::Debug for Stall {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stall")
    }
}
