//! Their Redis: the users' key in any of its types, read with SCAN, and the counter.

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs, Value, from_redis_value_ref};

use crate::config::{CountKey, KeyType, Target, UsersKey};
use crate::judge::MoveCount;
use crate::{Answer, AttachError};

/// Members that one call of SCAN looks at.
const PAGE: &str = "500";

/// Answers of a server that serves nobody: it starts, is a replica without its master, misses a part
/// of the cluster, or refuses the login. Any other refusal concerns a key or a command, so that other
/// campaigns can be compared.
const AWAY: [&str; 7] = [
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOAUTH",
    "WRONGPASS",
];

const MOVE_COUNT: &str = include_str!("scripts/move_count.lua");
const ADD_USER: &str = include_str!("scripts/add_user.lua");

fn is_word(value: &Value, word: &str) -> bool {
    from_redis_value_ref::<String>(value).is_ok_and(|text| text == word)
}

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

    pub(crate) async fn ask<T: FromRedisValue>(&mut self, words: &[impl ToRedisArgs]) -> Answer<T> {
        let mut command = Cmd::new();
        command.arg(words);
        let answer = command.query_async(&mut self.conn).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// Tells a server that is away, which ends the pass, from a refusal or a slow command, which
    /// concerns one campaign.
    async fn cause(&mut self, error: RedisError) -> AttachError {
        let code = error.code().map(str::to_owned);
        let why = without_values(error);
        match code {
            Some(code) if AWAY.contains(&code.as_str()) => AttachError::Redis(why),
            Some(_) => AttachError::Misfit(format!("their Redis refused a command: {why}")),
            None => match redis::cmd("PING")
                .query_async::<Value>(&mut self.conn)
                .await
            {
                Ok(_) => {
                    AttachError::Misfit(format!("their Redis did not answer a command: {why}"))
                }
                Err(_) => AttachError::Redis(why),
            },
        }
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
        let users = &target.campaign.users;
        let count = &target.campaign.count;
        let users = users
            .as_ref()
            .map(|users| (&users.key, users.kind.words()[0]));
        let count = count.as_ref().map(|count| {
            let is_field = count.field.is_some();
            (&count.key, if is_field { "hash" } else { "string" })
        });
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

    /// Returns the counter; `None` if the key or its field does not exist.
    pub async fn count(&mut self, count: &CountKey, key: &str) -> Answer<Option<i64>> {
        let text: Option<String> = match &count.field {
            None => self.ask(&["GET", key]).await?,
            Some(field) => self.ask(&["HGET", key, field]).await?,
        };
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

    /// Returns a score of the sorted set, if it has one.
    pub async fn some_score(&mut self, key: &str) -> Answer<Option<f64>> {
        let last: Vec<String> = self.ask(&["ZRANGE", key, "-1", "-1", "WITHSCORES"]).await?;
        Ok(last.get(1).and_then(|score| score.parse().ok()))
    }

    /// Returns the value of the hash's users, if those of one page have the same.
    pub async fn value_of_all(&mut self, key: &str) -> Answer<Option<Vec<u8>>> {
        let asked = ["HSCAN", key, "0", "COUNT", PAGE];
        let (_, page): (String, Vec<Vec<u8>>) = self.ask(&asked).await?;
        let mut values = page.iter().skip(1).step_by(2);
        let first = values.next();
        Ok(first.filter(|it| values.all(|other| other == *it)).cloned())
    }

    /// Adds a user, and changes nothing if they are there. Returns false if the key is gone and
    /// must not be created.
    pub async fn add(&mut self, key: &str, add: &NewMember<'_>) -> Answer<bool> {
        let score = add.score.to_string();
        let user = add.user.as_bytes();
        let value = add.value.as_slice();
        let command: &[&[u8]] = match add.kind {
            KeyType::Set => &[b"SADD", user],
            KeyType::SortedSet => &[b"ZADD", b"NX", score.as_bytes(), user],
            KeyType::Hash => &[b"HSETNX", user, value],
        };
        let may_create = if add.may_create { "1" } else { "0" };
        let begins: [&[u8]; 5] = [
            b"EVAL",
            ADD_USER.as_bytes(),
            b"1",
            key.as_bytes(),
            may_create.as_bytes(),
        ];
        self.ask(&[&begins, command].concat()).await
    }

    /// Moves the counter if it is where it was. Returns whether it did.
    pub async fn move_count(
        &mut self,
        count: &CountKey,
        key: &str,
        to: &MoveCount,
    ) -> Answer<bool> {
        let seen = to.seen.map(|seen| seen.to_string()).unwrap_or_default();
        let field = count.field.as_deref().unwrap_or_default();
        let may = to.may_move.to_string();
        let by = to.by.to_string();
        let words = ["EVAL", MOVE_COUNT, "1", key, field, &seen, &may, &by];
        self.ask(&words).await
    }
}

/// A user who is added to the users' key.
#[derive(Debug)]
pub struct NewMember<'a> {
    pub kind: KeyType,
    pub user: &'a str,
    /// In a sorted set.
    pub score: f64,
    /// In a hash.
    pub value: Vec<u8>,
    /// The looks saw no key.
    pub may_create: bool,
}
