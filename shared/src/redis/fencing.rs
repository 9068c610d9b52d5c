//! Fencing tokens in Redis: values by which a late writer is recognized, and its write refused. A
//! *generation* fences a coupon's keys, a *revision* its settings; an epoch ([`super::gate`]) the
//! whole Redis.

use std::sync::LazyLock;

use redis::RedisError;

use super::client::Script;
use super::{Redis, keys};
use crate::domain::CouponId;

static ENSURE_GENERATION: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/ensure_generation.lua")));

/// Fencing token of one life of a coupon in Redis: a random value that is lost together with the
/// data. A pass reads it before anything else and sends it with every write; a write whose
/// generation is not the one in Redis does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) String);

impl Redis {
    /// The coupon's generation, if it has one. A key of the wrong type counts as missing.
    pub async fn generation(&self, coupon: CouponId) -> Result<Option<Generation>, RedisError> {
        Ok(self.text(&keys::generation(&self.prefix, coupon)).await?.map(Generation))
    }

    /// The coupon's generation, made now where it has none.
    pub async fn ensure_generation(&self, coupon: CouponId) -> Result<Generation, RedisError> {
        let key = keys::generation(&self.prefix, coupon);
        let fresh = [format!("{:032x}", rand::random::<u128>())];
        Ok(Generation(ENSURE_GENERATION.run(&mut self.connection(), &[&key], &fresh).await?))
    }

    /// A key that holds a text. What no program of ours wrote there counts as nothing, as the scripts
    /// read it.
    pub(super) async fn text(&self, key: &str) -> Result<Option<String>, RedisError> {
        match redis::cmd("GET").arg(key).query_async(&mut self.connection()).await {
            Err(error) if error.code() == Some("WRONGTYPE") => Ok(None),
            found => found,
        }
    }

    /// The highest revision of the coupon whose settings were written here; 0 where none is known.
    pub async fn revision(&self, coupon: CouponId) -> Result<u64, RedisError> {
        let text = self.text(&keys::revision(&self.prefix, coupon)).await?;
        Ok(text.filter(|text| text.len() <= 15).and_then(|text| digits(&text)).unwrap_or(0))
    }
}

/// A number of digits only; Rust's own parser takes a sign too.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
