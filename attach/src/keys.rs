//! Their Redis: the users' key in any of its types, read with SCAN, and the counter.

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use redis::{Cmd, FromRedisValue, RedisError, Value, from_redis_value_ref};

use crate::config::{KeyType, Target, UsersKey};
use crate::judge::SetCount;
use crate::{Answer, AttachError};

/// Members that one call of SCAN looks at.
const PAGE: &str = "500";

/// Refusals that concern a key or a command, so that other campaigns can be compared.
const OF_A_KEY: [&str; 4] = ["NOPERM", "OOM", "READONLY", "WRONGTYPE"];

fn is_word(value: &Value, word: &str) -> bool {
    from_redis_value_ref::<String>(value).is_ok_and(|text| text == word)
}

/// Sets a counter only if its value is still one that may be replaced. ARGV: the least of these, or
/// "" if it was missing; the most; the new value. Returns 1 if it was set.
const SET_COUNT: &str = "local count, least = tonumber(redis.call('GET', KEYS[1])), tonumber(ARGV[1]) \
     local is_between = count and least and count >= least and count <= tonumber(ARGV[2]) \
     if count ~= least and not is_between then return 0 end \
     redis.call('SET', KEYS[1], ARGV[3], 'KEEPTTL') return 1";

/// Adds a member, unless the key has expired meanwhile: it would come back without its users and
/// without its expiry. ARGV: 1 if the key may be created, the command, and its arguments.
const ADD: &str = "if ARGV[1] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 0 end \
     redis.call(ARGV[2], KEYS[1], unpack(ARGV, 3)) return 1";

/// Their Redis. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    conn: SharedConnection,
}

impl KeyType {
    /// Returns its name in TYPE, and the commands that count, list and find its members.
    fn words(self) -> [&'static str; 4] {
        match self {
            Self::Set => ["set", "SCARD", "SSCAN", "SISMEMBER"],
            Self::SortedSet => ["zset", "ZCARD", "ZSCAN", "ZSCORE"],
            Self::Hash => ["hash", "HLEN", "HSCAN", "HEXISTS"],
        }
    }
}

impl Keys {
    pub fn new(redis: &Redis) -> Self {
        let conn = redis.connection();
        Self { conn }
    }

    async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> Answer<T> {
        let mut command = Cmd::new();
        command.arg(words);
        let answer = command.query_async(&mut self.conn).await;
        answer.map_err(|error: RedisError| {
            let is_of_a_key = error.code().is_some_and(|code| OF_A_KEY.contains(&code));
            let why = without_values(error);
            if is_of_a_key {
                AttachError::Misfit(format!("their Redis refused a command: {why}"))
            } else {
                AttachError::Redis(why)
            }
        })
    }

    /// Refuses a replica: what it shows may be old, and it takes no repairs. A server that does not
    /// tell is believed.
    pub async fn must_be_primary(&mut self) -> Answer<()> {
        let role = redis::cmd("ROLE");
        match role.query_async::<Vec<Value>>(&mut self.conn).await {
            Ok(role) if role.first().is_some_and(|it| is_word(it, "slave")) => {
                let why = "redis: this server is a replica; repairs need its primary";
                Err(AttachError::Misfit(why.to_owned()))
            }
            Err(error) if error.code().is_none() => Err(AttachError::Redis(without_values(error))),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// Checks the types of a target's keys, which need not exist yet.
    pub async fn check(&mut self, target: &Target<'_>) -> Answer<()> {
        let (users, count) = (&target.campaign.users, &target.campaign.count);
        let users = users
            .as_ref()
            .map(|users| (&users.key, users.kind.words()[0]));
        let count = count.as_ref().map(|count| (&count.key, "string"));
        for (key, wanted) in users.into_iter().chain(count) {
            let key = target.fill(key);
            let kind: String = self.ask(&["TYPE", &key]).await?;
            if kind != wanted && kind != "none" {
                let why = format!("key {key:?} in Redis is a {kind}, not a {wanted}");
                return Err(AttachError::Misfit(why.replace("zset", "sorted set")));
            }
        }
        Ok(())
    }

    /// Returns the number of members, and 0 if the key does not exist.
    pub async fn size(&mut self, users: &UsersKey, key: &str) -> Answer<u64> {
        self.ask(&[users.kind.words()[1], key]).await
    }

    /// Returns the counter; `None` if the key does not exist.
    pub async fn count(&mut self, key: &str) -> Answer<Option<i64>> {
        let text: Option<String> = self.ask(&["GET", key]).await?;
        let number = text.map(|text| text.parse()).transpose();
        number.map_err(|_| AttachError::Misfit(format!("count.key: {key:?} holds no whole number")))
    }

    /// Passes every member to `each`, some of them twice, with its score in a sorted set.
    pub async fn scan(
        &mut self,
        users: &UsersKey,
        key: &str,
        mut each: impl FnMut(Vec<u8>, Option<f64>),
    ) -> Answer<()> {
        let mut cursor = "0".to_owned();
        loop {
            let asked = [users.kind.words()[2], key, &cursor, "COUNT", PAGE];
            let (next, page): (String, Vec<Vec<u8>>) = self.ask(&asked).await?;
            let mut page = page.into_iter();
            while let Some(member) = page.next() {
                let value = if users.kind == KeyType::Set {
                    None
                } else {
                    page.next()
                };
                let score = value.filter(|_| users.kind == KeyType::SortedSet);
                each(
                    member,
                    score.and_then(|text| String::from_utf8(text).ok()?.parse().ok()),
                );
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    pub async fn has(&mut self, users: &UsersKey, key: &str, user: &str) -> Answer<bool> {
        let found: Value = self.ask(&[users.kind.words()[3], key, user]).await?;
        // ZSCORE answers with a score or nothing, the others with 1 or 0.
        Ok(!matches!(
            found,
            Value::Nil | Value::Int(0) | Value::Boolean(false)
        ))
    }

    /// Adds a user, and changes nothing if they are there. Returns false if the key is gone and
    /// must not be created.
    pub async fn add(
        &mut self,
        users: &UsersKey,
        key: &str,
        user: &str,
        score: f64,
        may_create: bool,
    ) -> Answer<bool> {
        let score = score.to_string();
        let command = match users.kind {
            KeyType::Set => vec!["SADD", user],
            KeyType::SortedSet => vec!["ZADD", "NX", &score, user],
            KeyType::Hash => vec!["HSETNX", user, "1"],
        };
        let create = if may_create { "1" } else { "0" };
        let all = [vec!["EVAL", ADD, "1", key, create], command].concat();
        self.ask(&all).await
    }

    /// Sets the counter if nobody has changed it otherwise. Returns whether it did.
    pub async fn set_count(&mut self, key: &str, set: &SetCount) -> Answer<bool> {
        let from = set.from.map(|from| from.to_string()).unwrap_or_default();
        let [most, to] = [set.most, set.to].map(|number| number.to_string());
        let words = ["EVAL", SET_COUNT, "1", key, &from, &most, &to];
        self.ask(&words).await
    }
}
