//! Their Redis, which is only read: keys of users with SCAN, and the counter.

use std::time::Duration;

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use firstcome_shared::report::FailureCause;
use redis::{Arg, Cmd, FromRedisValue, RedisError, ToRedisArgs, Value};

use crate::error::{Answer, AttachError};
use crate::file::{CountKey, KeyKind, UsersKey, fill};

/// The COUNT of a SCAN: one call reads about as many members.
const PAGE: u32 = 1_000;

/// A family of one key a user is read by a SCAN of all keys.
const MOST_KEYS: u64 = 1_000_000;

/// Limit of one answer during a repair, whose transaction holds locks of theirs.
pub const REPAIR_ANSWER: Duration = Duration::from_millis(200);

/// Answers of a server that serves nobody: it is loading, runs a long script, is a replica without
/// its master, misses a part of the cluster, or refuses the login. Any other refusal concerns a key
/// or a command, so that other campaigns can be compared.
const AWAY: [&str; 7] = [
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "CLUSTERDOWN",
    "TRYAGAIN",
    "NOAUTH",
    "WRONGPASS",
];

/// Their Redis. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    conn: SharedConnection,
    is_cluster: bool,
}

impl Store {
    pub fn new(redis: &Redis, is_cluster: bool) -> Self {
        Self {
            conn: redis.connection(),
            is_cluster,
        }
    }

    pub async fn query<T: FromRedisValue>(&mut self, words: impl ToRedisArgs) -> Answer<T> {
        let mut command = Cmd::new();
        command.arg(words);
        match command.query_async(&mut self.conn).await {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.cause(error, &command).await),
        }
    }

    /// Distinguishes a server that is away from a refusal or a slow command.
    async fn cause(&mut self, error: RedisError, command: &Cmd) -> AttachError {
        let code = error.code().map(str::to_owned);
        let why = without_values(error);
        match code {
            Some(code) if AWAY.contains(&code.as_str()) => {}
            Some(_) => {
                let command = named(command);
                return AttachError::Misfit(format!("your Redis refuses {command}: {why}"));
            }
            None => {
                let ping = redis::cmd("PING");
                if ping.query_async::<Value>(&mut self.conn).await.is_ok() {
                    return AttachError::Lost(format!("your Redis did not answer: {why}"));
                }
            }
        }
        AttachError::away(FailureCause::Redis, why)
    }

    /// Refuses a replica: its data may be old. A server that refuses `ROLE` is accepted; in a
    /// cluster, commands go to masters anyway.
    pub async fn must_be_master(&mut self) -> Answer<()> {
        if self.is_cluster {
            return Ok(());
        }
        let role: Vec<Value> = match self.query("ROLE").await {
            Err(AttachError::Misfit(_)) => return Ok(()),
            role => role?,
        };
        if matches!(role.first(), Some(Value::BulkString(role)) if role == b"slave") {
            let why = "redis: this server is a replica: name its master";
            return Err(AttachError::misfit(why));
        }
        Ok(())
    }

    /// Passes every user of a key, and how it is written, to `each`, perhaps more than once.
    pub async fn users(
        &mut self,
        key: &UsersKey,
        id: &str,
        mut each: impl FnMut(&str, &[u8]),
    ) -> Answer<()> {
        let (scan, width) = match key.kind {
            KeyKind::Set => ("SSCAN", 1),
            KeyKind::SortedSet => ("ZSCAN", 2),
            KeyKind::Hash => ("HSCAN", 2),
            KeyKind::Keys => {
                self.must_be_few_keys().await?;
                ("SCAN", 1)
            }
        };
        let name = key.name_in(id, "");
        // A letter that the pattern would read as a wildcard matches any one.
        let pattern = fill(&key.name, id)
            .replace(['*', '[', ']', '\\', '^'], "?")
            .replace("{user}", "*");
        let mut decoded = 0;
        let mut strange = Vec::new();
        let mut cursor = "0".to_owned();
        loop {
            let mut words = vec![scan.as_bytes()];
            if key.kind == KeyKind::Keys {
                words.extend([cursor.as_bytes(), b"MATCH", pattern.as_bytes()]);
            } else {
                words.extend([name.as_slice(), cursor.as_bytes()]);
            }
            let (next, page): (String, Vec<Vec<u8>>) = self.query((words, "COUNT", PAGE)).await?;
            for entry in page.chunks(width) {
                let value = entry.get(1).map(Vec::as_slice).unwrap_or_default();
                let written = &entry[0];
                if !key.means_promised(value) {
                    continue;
                }
                let Some(user) = key.user(id, written) else {
                    strange.push(written.clone());
                    continue;
                };
                decoded += 1;
                if !key.except.contains(&user) {
                    each(&user, written);
                }
            }
            if next == "0" {
                return must_be_few(key, decoded, &strange);
            }
            cursor = next;
        }
    }

    async fn must_be_few_keys(&mut self) -> Answer<()> {
        if self.is_cluster {
            return Err(AttachError::misfit("promised.keys: not in a cluster"));
        }
        let all: u64 = self.query("DBSIZE").await?;
        if all <= MOST_KEYS {
            return Ok(());
        }
        Err(AttachError::Misfit(format!(
            "promised.keys: this Redis has {all} keys, and each look would read them all \
            (1 million at most)"
        )))
    }

    /// Returns how many entries keys have together; `None` if one of them is one key a user.
    pub async fn size(&mut self, keys: &[UsersKey], id: &str) -> Answer<Option<u64>> {
        let mut all = 0;
        for key in keys {
            let size = match key.kind {
                KeyKind::Set => "SCARD",
                KeyKind::SortedSet => "ZCARD",
                KeyKind::Hash => "HLEN",
                KeyKind::Keys => return Ok(None),
            };
            all += self.query::<u64>((size, key.name_in(id, ""))).await?;
        }
        Ok(Some(all))
    }

    /// Whether a member that a look saw is still there.
    pub async fn holds(&mut self, key: &UsersKey, id: &str, written: &[u8]) -> Answer<bool> {
        let name = key.name_in(id, "");
        let found: Option<Vec<u8>> = match key.kind {
            KeyKind::Set => return self.query(("SISMEMBER", name, written)).await,
            KeyKind::Keys => return self.query(("EXISTS", written)).await,
            KeyKind::SortedSet => self.query(("ZSCORE", name, written)).await?,
            KeyKind::Hash => {
                let value: Option<Vec<u8>> = self.query(("HGET", name, written)).await?;
                value.filter(|value| key.means_promised(value))
            }
        };
        Ok(found.is_some())
    }

    /// Returns the counter; `None` if the key or its field does not exist.
    pub async fn count(&mut self, count: &CountKey, id: &str) -> Answer<Option<i64>> {
        let key = count.form.key(&fill(&count.key, id));
        let text: Option<Vec<u8>> = match &count.field {
            None => self.query(("GET", key)).await?,
            Some(field) => {
                let field = count.form.field(&fill(field, id));
                self.query(("HGET", key, field)).await?
            }
        };
        let Some(text) = text else {
            return Ok(None);
        };
        let number = str::from_utf8(&text).ok().and_then(|it| it.parse().ok());
        let misfit = || AttachError::misfit("count: the key holds no whole number");
        number.ok_or_else(misfit).map(Some)
    }
}

/// Names a command and its key, or the pattern of keys. Only the key of EXISTS may name a user.
fn named(command: &Cmd) -> String {
    let mut words = command.args_iter().filter_map(|word| match word {
        Arg::Simple(word) => Some(String::from_utf8_lossy(word)),
        _ => None,
    });
    let name = words.next().unwrap_or_default();
    let key = match &*name {
        "EXISTS" => None,
        "XINFO" => words.nth(1),
        "SCAN" => words.nth(2),
        _ => words.next(),
    };
    key.map_or(name.to_string(), |key| format!("{name} {key:?}"))
}

/// Refuses a key if more than 1 % of its members are in another form.
fn must_be_few(key: &UsersKey, decoded: usize, strange: &[Vec<u8>]) -> Answer<()> {
    let number = strange.len();
    let is_few = decoded > 0 && number <= (decoded / 100).max(1);
    let Some(first) = strange.first().filter(|_| !is_few) else {
        return Ok(());
    };
    let said = key.members.strange(first);
    let name = &key.name;
    let all = decoded + number;
    Err(AttachError::Misfit(format!(
        "promised: {number} of {all} members of key {name:?} are {said}"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_is_named_with_its_key_and_without_a_user() {
        for (words, expected) in [
            ("SSCAN users 0 COUNT 1000", "SSCAN \"users\""),
            ("SCAN 0 MATCH user:* COUNT 1000", "SCAN \"user:*\""),
            ("XINFO GROUPS stream", "XINFO \"stream\""),
            ("EXISTS user:1", "EXISTS"),
            ("DBSIZE", "DBSIZE"),
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            assert_eq!(named(Cmd::new().arg(words)), expected);
        }
    }
}
