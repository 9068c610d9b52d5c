//! The installation's key for codes (docs/decisions/0011-slot-limits.md).

use diesel::dsl::DuplicatedKeys;
use diesel::dsl::{exists, select};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use rand::RngExt as _;

use super::codes::CodeKey;
use super::{Conn, Db, DbResult};
use crate::schema::{code_key, issued_coupons};

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
    let stored = code_key::table.select(code_key::secret);
    let mut secret: Option<Vec<u8>> = stored.get_result(conn).await.optional()?;
    if secret.is_none() {
        if select(exists(issued_coupons::table.select(issued_coupons::slot)))
            .get_result(conn)
            .await?
        {
            tracing::error!(
                "the table code_key was empty although there are coupons, and a new key was \
                drawn: a row that is written again gets another code than its user was shown. \
                Put the key back from a backup of MySQL, see \"The key of the codes\" in \
                OPERATIONS.md"
            );
        }
        let drawn: [u8; 32] = rand::rng().random();
        diesel::insert_into(code_key::table)
            .values((code_key::id.eq(1), code_key::secret.eq(&drawn[..])))
            .on_conflict(DuplicatedKeys)
            .do_nothing()
            .execute(conn)
            .await?;
        secret = stored.get_result(conn).await.optional()?;
    }
    CodeKey::new(&secret.unwrap_or_default())
        .map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}
