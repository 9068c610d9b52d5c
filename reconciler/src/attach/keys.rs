//! Their Redis: the users' key in any of its types, read with SCAN, and the counter.

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use redis::{Cmd, FromRedisValue, Pipeline, RedisError};

use super::AttachError;
use super::config::{KeyType, Target, UsersKey};

/// Members that one call of SCAN looks at, and users that one call asks for.
pub const PAGE: usize = 500;

/// Sets a counter only if nobody has changed it. ARGV: its value as read ("" if it was missing),
/// the new one. Returns 1 if it was set.
const SET_COUNT: &str = "if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end \
     redis.call('SET', KEYS[1], ARGV[2], 'KEEPTTL') return 1";

/// Their Redis. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    conn: SharedConnection,
}

fn away(error: &RedisError) -> AttachError {
    AttachError::Redis(without_values(error))
}

impl Keys {
    pub fn new(redis: &Redis) -> Self {
        Self {
            conn: redis.connection(),
        }
    }

    async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, AttachError> {
        command.query_async(&mut self.conn).await.map_err(|error| away(&error))
    }

    async fn ask_all<T: FromRedisValue>(&mut self, pipe: &Pipeline) -> Result<T, AttachError> {
        pipe.query_async(&mut self.conn).await.map_err(|error| away(&error))
    }

    /// Checks the types of a target's keys. A key that does not exist yet is only mentioned.
    pub async fn check(&mut self, target: &Target<'_>) -> Result<Vec<String>, AttachError> {
        let campaign = target.campaign;
        let mut wanted = Vec::new();
        if let Some(users) = &campaign.users {
            let word = match users.kind {
                KeyType::Set => "set",
                KeyType::SortedSet => "zset",
                KeyType::Hash => "hash",
            };
            wanted.push(("users", target.fill(&users.key), word));
        }
        if let Some(count) = &campaign.count {
            wanted.push(("count", target.fill(&count.key), "string"));
        }
        let mut missing = Vec::new();
        for (field, key, word) in wanted {
            let kind: String = self.ask(redis::cmd("TYPE").arg(&key)).await?;
            match kind.as_str() {
                "none" => missing.push(format!("{field}.key: Redis has no key {key:?} now")),
                kind if kind == word => {}
                "zset" => return Err(misfit(field, &key, "sorted set")),
                other => return Err(misfit(field, &key, other)),
            }
        }
        Ok(missing)
    }

    /// Returns the number of members, and 0 if the key does not exist.
    pub async fn size(&mut self, users: &UsersKey, key: &str) -> Result<u64, AttachError> {
        let verb = match users.kind {
            KeyType::Set => "SCARD",
            KeyType::SortedSet => "ZCARD",
            KeyType::Hash => "HLEN",
        };
        self.ask(redis::cmd(verb).arg(key)).await
    }

    /// Returns the counter; `None` if the key does not exist.
    pub async fn count(&mut self, key: &str) -> Result<Option<i64>, AttachError> {
        let text: Option<String> = self.ask(redis::cmd("GET").arg(key)).await?;
        let Some(text) = text else { return Ok(None) };
        let number = text.parse().map_err(|_| {
            AttachError::Misfit(format!("count.key: {key:?} does not hold a whole number"))
        })?;
        Ok(Some(number))
    }

    /// Passes every member to `each`, some of them twice, with its score in a sorted set.
    pub async fn scan(
        &mut self,
        users: &UsersKey,
        key: &str,
        mut each: impl FnMut(Vec<u8>, Option<f64>),
    ) -> Result<(), AttachError> {
        let verb = match users.kind {
            KeyType::Set => "SSCAN",
            KeyType::SortedSet => "ZSCAN",
            KeyType::Hash => "HSCAN",
        };
        let mut cursor = 0_u64;
        loop {
            let command = redis::cmd(verb).arg(key).arg(cursor).arg("COUNT").arg(PAGE).to_owned();
            let (next, page): (u64, Vec<Vec<u8>>) = self.ask(&command).await?;
            let mut page = page.into_iter();
            while let Some(member) = page.next() {
                let value = if users.kind == KeyType::Set { None } else { page.next() };
                let score = value.filter(|_| users.kind == KeyType::SortedSet);
                let score = score.and_then(|text| String::from_utf8(text).ok()?.parse().ok());
                each(member, score);
            }
            if next == 0 {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Returns which of these users are members.
    pub async fn are_members<'u>(
        &mut self,
        users: &UsersKey,
        key: &str,
        asked: impl ExactSizeIterator<Item = &'u str>,
    ) -> Result<Vec<bool>, AttachError> {
        let verb = match users.kind {
            KeyType::Set => "SISMEMBER",
            KeyType::SortedSet => "ZSCORE",
            KeyType::Hash => "HEXISTS",
        };
        let mut all = Vec::with_capacity(asked.len());
        let mut asked = asked.peekable();
        while asked.peek().is_some() {
            let mut pipe = redis::pipe();
            for user in asked.by_ref().take(PAGE) {
                pipe.cmd(verb).arg(key).arg(user);
            }
            if users.kind == KeyType::SortedSet {
                let scores: Vec<Option<String>> = self.ask_all(&pipe).await?;
                all.extend(scores.iter().map(Option::is_some));
            } else {
                all.extend(self.ask_all::<Vec<bool>>(&pipe).await?);
            }
        }
        Ok(all)
    }

    /// Adds a user, and changes nothing if they are there.
    pub async fn add(
        &mut self,
        users: &UsersKey,
        key: &str,
        user: &str,
        score: Option<f64>,
    ) -> Result<(), AttachError> {
        let command = match users.kind {
            KeyType::Set => redis::cmd("SADD").arg(key).arg(user).to_owned(),
            KeyType::SortedSet => {
                let score = score.unwrap_or_default();
                redis::cmd("ZADD").arg(key).arg("NX").arg(score).arg(user).to_owned()
            }
            KeyType::Hash => {
                let value = users.value.as_deref().unwrap_or("1");
                redis::cmd("HSETNX").arg(key).arg(user).arg(value).to_owned()
            }
        };
        self.ask(&command).await
    }

    /// Sets the counter if it still has the value that was read. Returns whether it did.
    pub async fn set_count(&mut self, key: &str, from: Option<i64>, to: i64) -> Result<bool, AttachError> {
        let from = from.map(|from| from.to_string()).unwrap_or_default();
        let command = redis::cmd("EVAL").arg(SET_COUNT).arg(1).arg(key).arg(from).arg(to).to_owned();
        self.ask(&command).await
    }
}

fn misfit(field: &str, key: &str, kind: &str) -> AttachError {
    let known = ["set", "sorted set", "hash"].contains(&kind) && field == "users";
    let advice = if known {
        format!("write type = \"{kind}\"")
    } else {
        "name another key".to_owned()
    };
    AttachError::Misfit(format!("{field}.key: {key:?} in Redis is a {kind}: {advice}"))
}
