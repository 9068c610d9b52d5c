//! The holders of a sold-out drop, for an API that answers other users without Redis.

use redis::{FromRedisValue as _, RedisResult, Value};

use super::Redis;
use super::client::Script;
use super::keys::DropKeys;
use crate::domain::Slot;

static HOLDERS: Script = Script::new(include_str!("scripts/holders.lua"));

/// Maximum number of slots of a page. A larger one would block Redis for too long.
pub const SLOTS_OF_PAGE: Slot = 2_000;

/// The holders of some slots, read at one moment from the master that the gate names.
#[derive(Debug, PartialEq, Eq)]
pub struct HoldersPage {
    /// See [`LeaseReply::version`](super::admission::LeaseReply::version).
    pub version: i64,
    /// The highest slot given.
    pub count: Slot,
    /// User ids. One that was added manually may not be UTF-8.
    pub users: Vec<Vec<u8>>,
}

impl Redis {
    /// Reads the page of a drop's holders that begins after this slot. Returns `None` unless the
    /// coupon is open in this era.
    pub async fn holders_page(
        &self,
        keys: &DropKeys,
        era: u64,
        after: Slot,
    ) -> RedisResult<Option<HoldersPage>> {
        let last = after.saturating_add(SLOTS_OF_PAGE);
        let args = [era.to_string(), after.to_string(), last.to_string()];
        let reply: Value = self.call(&HOLDERS, &keys.of_scripts(), &args).await?;
        let Value::Array(parts) = reply else {
            return Ok(None);
        };
        let [version, count, users @ ..] = parts.as_slice() else {
            return Ok(None);
        };
        Ok(Some(HoldersPage {
            version: i64::from_redis_value_ref(version)?,
            count: Slot::from_redis_value_ref(count)?,
            users: users
                .iter()
                .map(Vec::from_redis_value_ref)
                .collect::<Result<_, _>>()?,
        }))
    }
}
