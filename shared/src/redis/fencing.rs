//! Fencing tokens in Redis: values by which a late writer is recognized, and its write refused. A
//! *generation* fences one life of Redis, a *revision* the settings of a coupon. The *canary* is no
//! token, but lost together with the data like a generation: it says that no key was emptied since
//! the last pass over everything began.

use redis::RedisError;

use super::{Redis, keys};
use crate::domain::CouponId;

/// Fencing token of one life of a coupon in Redis: a random value that is lost together with the
/// data. A pass reads it before anything else and sends it with every write; a write whose
/// generation is not the one in Redis does nothing.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Generation(pub(super) String);

/// Coupons asked about in one round trip.
const COUPONS_AT_ONCE: usize = 500;

impl Redis {
    /// The coupon's generation, if it has one.
    pub async fn generation(&self, coupon: CouponId) -> Result<Option<Generation>, RedisError> {
        Ok(self.generations(&[coupon]).await?.pop().flatten())
    }

    /// The generations of these coupons, in the order asked, in few round trips.
    pub async fn generations(&self, coupons: &[CouponId]) -> Result<Vec<Option<Generation>>, RedisError> {
        let mut found = Vec::with_capacity(coupons.len());
        for some in coupons.chunks(COUPONS_AT_ONCE) {
            let mut pipe = redis::pipe();
            for coupon in some {
                pipe.cmd("GET").arg(keys::generation(&self.prefix, *coupon));
            }
            let values: Vec<Option<String>> = pipe.query_async(&mut self.conn.clone()).await?;
            found.extend(values.into_iter().map(|value| value.map(Generation)));
        }
        Ok(found)
    }

    /// The same, made now where a coupon has none.
    pub async fn ensure_generations(&self, coupons: &[CouponId]) -> Result<Vec<Option<Generation>>, RedisError> {
        for some in coupons.chunks(COUPONS_AT_ONCE) {
            let mut pipe = redis::pipe();
            for coupon in some {
                let fresh = format!("{:032x}", rand::random::<u128>());
                pipe.cmd("SET").arg(keys::generation(&self.prefix, *coupon)).arg(fresh).arg("NX").ignore();
            }
            pipe.query_async::<()>(&mut self.conn.clone()).await?;
        }
        self.generations(coupons).await
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

    /// Sets the canary; whether it was missing.
    pub async fn set_canary(&self) -> Result<bool, RedisError> {
        let key = keys::canary(&self.prefix);
        let now = chrono::Utc::now().to_rfc3339();
        redis::cmd("SET").arg(key).arg(now).arg("NX").query_async(&mut self.conn.clone()).await
    }

    /// Removes the canary, so that Redis counts as emptied.
    pub async fn remove_canary(&self) -> Result<(), RedisError> {
        redis::cmd("DEL").arg(keys::canary(&self.prefix)).query_async(&mut self.conn.clone()).await
    }

    pub async fn has_canary(&self) -> Result<bool, RedisError> {
        redis::cmd("EXISTS").arg(keys::canary(&self.prefix)).query_async(&mut self.conn.clone()).await
    }
}

/// A number of digits only; Rust's own parser takes a sign too.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}
