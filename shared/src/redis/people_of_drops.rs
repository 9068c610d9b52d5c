//! Finds all drops in which users hold slots by scanning key names, including drops that MySQL has
//! lost.

use redis::RedisError;

use super::Redis;
use crate::domain::{CouponId, DropId, NamedDrop};

/// Keys examined per call.
const AT_ONCE: usize = 1_000;

impl Redis {
    /// Finds every drop that has users in Redis. Reads all key names on all servers.
    pub async fn drops_with_users(&self) -> Result<Vec<NamedDrop>, RedisError> {
        let begin = format!("{}:{{", self.prefix);
        let pattern = format!("{}*}}:drop:*:users", escaped(&begin));
        let mut found = Vec::new();
        for shard in self.conn.shards().await?.iter() {
            let mut cursor = 0_u64;
            loop {
                let mut cmd = redis::cmd("SCAN");
                cmd.arg(cursor)
                    .arg("MATCH")
                    .arg(&pattern)
                    .arg("COUNT")
                    .arg(AT_ONCE);
                let (next, keys): (u64, Vec<Vec<u8>>) =
                    cmd.query_async(&mut self.conn.to(shard)).await?;
                let names = keys.iter().filter_map(|key| str::from_utf8(key).ok());
                found.extend(names.filter_map(|name| drop_of(name, &begin)));
                cursor = next;
                if cursor == 0 {
                    break;
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

fn drop_of(key: &str, begin: &str) -> Option<NamedDrop> {
    let (coupon, rest) = key.strip_prefix(begin)?.split_once("}:drop:")?;
    let drop = rest.strip_suffix(":users")?;
    Some(NamedDrop {
        coupon: CouponId(coupon.parse().ok()?),
        drop: DropId(drop.parse().ok()?),
    })
}

/// Escapes text so that, as a glob pattern, it matches only itself.
fn escaped(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\') {
            glob.push('\\');
        }
        glob.push(letter);
    }
    glob
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_key_is_parsed_into_its_drop() {
        let of = |key| drop_of(key, "fc:{").map(|one| (one.coupon.0, one.drop.0));
        assert_eq!(of("fc:{7}:drop:9:users"), Some((7, 9)));
        for other in [
            "fc:{7}:drop:9:meta",
            "fc:{x}:drop:9:users",
            "other:{7}:drop:9:users",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
        assert_eq!(escaped("a*[b]"), "a\\*\\[b\\]");
    }
}
