//! Fencing tokens in Redis: values by which a late writer is recognized, and its write refused. A
//! *generation* fences a coupon's keys, a *revision* its settings; an epoch ([`super::gate`]) the
//! whole Redis.

use redis::RedisError;

use super::{Redis, keys};
use crate::domain::CouponId;

/// Fencing token of one life of a coupon in Redis: a random value that is lost together with the
/// data. A pass reads it before anything else and sends it with every write; a write whose
/// generation is not the one in Redis does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) String);

impl Redis {
    /// The coupon's generation, if it has one.
    pub async fn generation(&self, coupon: CouponId) -> Result<Option<Generation>, RedisError> {
        let key = keys::generation(&self.prefix, coupon);
        let found: Option<String> = redis::cmd("GET").arg(key).query_async(&mut self.conn.clone()).await?;
        Ok(found.map(Generation))
    }

    /// The coupon's generation, made now where it has none.
    pub async fn ensure_generation(&self, coupon: CouponId) -> Result<Generation, RedisError> {
        let key = keys::generation(&self.prefix, coupon);
        let fresh = format!("{:032x}", rand::random::<u128>());
        let mut pipe = redis::pipe();
        pipe.atomic().cmd("SET").arg(&key).arg(&fresh).arg("NX").ignore().cmd("GET").arg(&key);
        let (now,): (String,) = pipe.query_async(&mut self.conn.clone()).await?;
        Ok(Generation(now))
    }

    /// The highest revision of the coupon whose settings were written here; 0 where none is known.
    pub async fn revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        let key = keys::revision(&self.prefix, coupon);
        let found = redis::cmd("GET").arg(key).query_async::<Option<String>>(&mut self.conn.clone()).await;
        match found {
            // As the scripts read it: what no program of ours wrote there counts as never seen.
            Ok(text) => Ok(text.filter(|text| text.len() <= 15).and_then(|text| digits(&text)).unwrap_or(0)),
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(0),
            Err(error) => Err(error),
        }
    }
}

/// A number of digits only; Rust's own parser takes a sign too.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
