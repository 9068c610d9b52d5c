//! The content of Redis's keys, to compare two moments.

use std::collections::BTreeMap;

use ::redis::aio::ConnectionLike;
use ::redis::{RedisResult, cmd};

/// The content of each key, and when it expires in Unix milliseconds (-1: never, -2: no such key).
pub type RedisDump = BTreeMap<String, (Vec<u8>, i64)>;

/// Reads keys, to compare two moments. A change between them that was undone does not show.
pub async fn redis_dump(
    conn: &mut impl ConnectionLike,
    names: Vec<String>,
) -> RedisResult<RedisDump> {
    let mut dump = RedisDump::new();
    for name in names {
        let kind: String = cmd("TYPE").arg(&name).query_async(conn).await?;
        let content = if kind == "hash" {
            // The order of a hash changes while Redis rebuilds its table, so the fields are sorted.
            let fields: BTreeMap<Vec<u8>, Vec<u8>> =
                cmd("HGETALL").arg(&name).query_async(conn).await?;
            format!("{fields:?}").into_bytes()
        } else {
            cmd("DUMP").arg(&name).query_async(conn).await?
        };
        let expires_at = cmd("PEXPIRETIME").arg(&name).query_async(conn).await?;
        dump.insert(name, (content, expires_at));
    }
    Ok(dump)
}
