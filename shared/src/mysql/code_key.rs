//! The installation's key for codes (docs/decisions/0011-slot-limits.md).

use diesel::QueryResult;
use rand::RngExt as _;

use super::codes::CodeKey;
use super::{Conn, Db, DbResult};
use crate::sql;

impl Db {
    /// Returns the installation's key, which is read once per pool.
    pub async fn code_key(&self) -> DbResult<CodeKey> {
        self.code_key
            .get_or_try_init(|| self.run("key of the codes", async |conn| read_or_draw(conn).await))
            .await
            .cloned()
    }
}

/// Reads the key, or generates one, because new claims need codes even if an older key was lost. If
/// two processes generate one at the same time, both use the key that was stored first.
async fn read_or_draw(conn: &mut Conn) -> QueryResult<CodeKey> {
    let stored = sql!("SELECT secret FROM code_key");
    let mut secret: Option<Vec<u8>> = stored.clone().first(conn).await?;
    if secret.is_none() {
        let any = sql!("SELECT drop_id FROM issued_coupons LIMIT 1");
        if any.first::<i64>(conn).await?.is_some() {
            tracing::error!(
                "the table code_key was empty although there are coupons, and a new key was \
                drawn: a row that is written again gets another code than its user was shown. \
                Put the key back from a backup of MySQL, see \"The key of the codes\" in \
                OPERATIONS.md"
            );
        }
        let drawn: [u8; 32] = rand::rng().random();
        let draw =
            "INSERT INTO code_key (id, secret) VALUES (1, ?) ON DUPLICATE KEY UPDATE id = id";
        sql!(draw, &drawn[..]).run(conn).await?;
        secret = stored.first(conn).await?;
    }
    CodeKey::new(&secret.unwrap_or_default())
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}
