//! The stock of drops, as stored in Redis.

use redis::{FromRedisValue as _, Pipeline, RedisResult, Value};

use super::Redis;
use super::keys::DropKeys;
use crate::domain::Slot;

/// The stock of a loaded drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    pub quantity: Slot,
    pub held: u32,
    pub paused: bool,
    /// The number of users on the waiting list, and its capacity.
    pub waiting: u32,
    pub waiting_list: u32,
}

/// The result that a user who claims now would get, as `claim.lua` decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prospect {
    Slot,
    /// A position in the waiting list.
    Place,
    Nothing,
}

impl Stock {
    /// Returns the result of a claim, for display only, because the next claim may change it.
    pub fn prospect(&self) -> Prospect {
        let left = self.quantity.saturating_sub(self.held);
        // Freed slots go to users who already wait.
        if self.waiting == 0 && left > 0 {
            Prospect::Slot
        } else if self.waiting < self.waiting_list.max(left) {
            Prospect::Place
        } else {
            Prospect::Nothing
        }
    }
}

impl Redis {
    /// Reads the stock of each drop, in the same order. Returns `None` for a drop that is not
    /// loaded.
    pub async fn stock(&self, drops: &[&DropKeys]) -> RedisResult<Vec<Option<Stock>>> {
        let read = |pipe: &mut Pipeline, keys: &&DropKeys| {
            pipe.cmd("HMGET").arg(&keys.meta);
            pipe.arg("quantity").arg("paused").arg("waiting_list");
            pipe.cmd("ZCARD").arg(&keys.users);
            pipe.cmd("ZCARD").arg(&keys.waiting);
        };
        let replies: Vec<Value> = self.pipe_each(drops, read).await?;
        let read = |replies: &[Value]| {
            let [meta, users, waiting] = replies else {
                return None;
            };
            let [quantity, paused, waiting_list] =
                <[Option<String>; 3]>::from_redis_value_ref(meta).ok()?;
            // Parse it as `claim.lua` does: 0 if the field is missing or not a number.
            let waiting_list = waiting_list.and_then(|places| places.parse().ok());
            Some(Stock {
                quantity: quantity?.parse().ok()?,
                held: u32::from_redis_value_ref(users).ok()?,
                paused: paused.is_some_and(|p| p == "1"),
                waiting: u32::from_redis_value_ref(waiting).ok()?,
                waiting_list: waiting_list.unwrap_or(0),
            })
        };
        Ok(replies.chunks(3).map(read).collect())
    }

    /// Reads the highest slot given in each drop, in the same order. Returns `None` for a drop that
    /// is not loaded.
    pub async fn given_out(&self, drops: &[&DropKeys]) -> RedisResult<Vec<Option<Slot>>> {
        let counts: Vec<Option<String>> = self
            .pipe_each(drops, |pipe, keys| {
                pipe.cmd("GET").arg(&keys.count);
            })
            .await?;
        let count = |text: Option<String>| text?.parse().ok();
        Ok(counts.into_iter().map(count).collect())
    }
}
