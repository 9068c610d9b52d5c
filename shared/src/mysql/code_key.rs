//! The key that codes are derived with: drawn once an installation, and kept in MySQL.

use diesel::{ExpressionMethods as _, OptionalExtension as _, QueryDsl as _, QueryResult};
use diesel_async::RunQueryDsl as _;
use rand::RngExt as _;

use super::codes::CodeKey;
use super::schema::code_key;
use super::{Conn, Db, DbError, Refusal, refusal};

impl Db {
    /// The installation's key, read once a pool.
    pub async fn code_key(&self) -> Result<CodeKey, DbError> {
        let read = || self.run("key of the codes", async |conn| read(conn).await);
        self.code_key.get_or_try_init(read).await.cloned()
    }
}

/// The key, drawn where there is none. Of two that draw at once one wins, and both read that.
async fn read(conn: &mut Conn) -> QueryResult<CodeKey> {
    let stored = code_key::table.select(code_key::secret);
    let found: Option<Vec<u8>> = stored.first(conn).await.optional()?;
    let secret = if let Some(secret) = found {
        secret
    } else {
        let drawn: [u8; 32] = rand::rng().random();
        let row = (code_key::id.eq(1), code_key::secret.eq(&drawn[..]));
        match diesel::insert_into(code_key::table).values(row).execute(conn).await {
            Err(error) if refusal(&error) != Some(Refusal::Duplicate) => return Err(error),
            _ => stored.first(conn).await?,
        }
    };
    CodeKey::new(&secret).map_err(|error| diesel::result::Error::DeserializationError(Box::new(error)))
}
