//! Their Redis, which is only read: keys of users with SCAN, and the counter.

use std::time::Duration;

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use firstcome_shared::report::FailureCause;
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs, Value, from_redis_value_ref};

use crate::error::{Answer, AttachError};
use crate::file::{CountKey, KeyKind, UsersKey, fill};
use crate::forms::{Census, Form};

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

/// A member of a key as it is written, and its user.
pub struct Member<'a> {
    pub user: &'a str,
    pub written: &'a [u8],
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
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// Distinguishes a server that is away from a refusal or a slow command.
    async fn cause(&mut self, error: RedisError) -> AttachError {
        let serves_nobody = error.code().is_some_and(|code| AWAY.contains(&code));
        let is_refusal = error.code().is_some();
        let why = without_values(error);
        if serves_nobody {
            return AttachError::away(FailureCause::Redis, why);
        }
        if is_refusal {
            return AttachError::Misfit(format!("your Redis refuses a command: {why}"));
        }
        match redis::cmd("PING")
            .query_async::<Value>(&mut self.conn)
            .await
        {
            Ok(_) => AttachError::Lost(format!("your Redis did not answer a command: {why}")),
            Err(_) => AttachError::away(FailureCause::Redis, why),
        }
    }

    /// Refuses a replica: its data may be old. A server that refuses `ROLE` is accepted; in a
    /// cluster, commands go to masters anyway.
    pub async fn must_be_master(&mut self) -> Answer<()> {
        if self.is_cluster {
            return Ok(());
        }
        let role = self.query::<Vec<Value>>("ROLE").await;
        let is_replica = |role: &[Value]| {
            let word = role.first().map(from_redis_value_ref::<String>);
            matches!(word, Some(Ok(word)) if word == "slave")
        };
        match role {
            Ok(role) if is_replica(&role) => Err(AttachError::misfit(
                "redis: this server is a replica: name its master",
            )),
            Ok(_) | Err(AttachError::Misfit(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Returns whether the key exists.
    ///
    /// # Errors
    /// If it has another type, or if only a key exists whose name is in another form.
    pub async fn must_be(&mut self, name: &str, form: Form, wanted: &str) -> Answer<bool> {
        let kind: String = self.query(("TYPE", form.key(name))).await?;
        if kind == wanted {
            return Ok(true);
        }
        if kind != "none" {
            let why = format!("key {name:?} is a {kind}, not a {wanted}");
            return Err(AttachError::Misfit(why.replace("zset", "sorted set")));
        }
        let other = form.other();
        // The login may have no access to that name.
        if matches!(self.query::<String>(("TYPE", other.key(name))).await, Ok(kind) if kind == wanted)
        {
            let other = other.word();
            return Err(AttachError::Misfit(format!(
                "key {name:?} is in Redis as a {other} name: write key_form = {other:?} (in count: \
                form)"
            )));
        }
        Ok(false)
    }

    /// Passes every user of a key to `each`, perhaps more than once. Returns whether the key
    /// exists.
    pub async fn users(
        &mut self,
        key: &UsersKey,
        id: &str,
        mut each: impl FnMut(Member<'_>),
    ) -> Answer<bool> {
        if key.kind == KeyKind::Keys {
            return self.users_of_keys(key, id, each).await;
        }
        let name = fill(&key.name, id);
        if !self.must_be(&name, key.key_form, key.kind.word()).await? {
            return Ok(false);
        }
        let scan = match key.kind {
            KeyKind::Set => "SSCAN",
            KeyKind::SortedSet => "ZSCAN",
            KeyKind::Hash(_) | KeyKind::Keys => "HSCAN",
        };
        let mut census = Census::default();
        let mut cursor = "0".to_owned();
        loop {
            let words = (scan, key.name_in(id), &cursor, "COUNT", PAGE);
            let (next, page): (String, Vec<Vec<u8>>) = self.query(words).await?;
            let mut page = page.into_iter();
            while let Some(member) = page.next() {
                let value = match key.kind {
                    KeyKind::Set | KeyKind::Keys => None,
                    KeyKind::SortedSet | KeyKind::Hash(_) => page.next(),
                };
                if let KeyKind::Hash(values) = &key.kind
                    && !values.mean_promised(&value.unwrap_or_default())
                {
                    continue;
                }
                let user = census.note(&key.members, &member);
                if let Some(user) = user.filter(|user| !key.except.contains(user)) {
                    each(Member {
                        user: &user,
                        written: &member,
                    });
                }
            }
            if next == "0" {
                break;
            }
            cursor = next;
        }
        let strange = census.strange(&key.members, &name);
        strange.map(|_| true).map_err(AttachError::Misfit)
    }

    async fn users_of_keys(
        &mut self,
        key: &UsersKey,
        id: &str,
        mut each: impl FnMut(Member<'_>),
    ) -> Answer<bool> {
        if self.is_cluster {
            return Err(AttachError::misfit("promised.keys: not in a cluster"));
        }
        let all: u64 = self.query("DBSIZE").await?;
        if all > MOST_KEYS {
            return Err(AttachError::Misfit(format!(
                "promised.keys: this Redis has {all} keys, and each look would read them all \
                (1 million at most)"
            )));
        }
        let (before, after) = key.around_user(id);
        let pattern = format!("{}*{}", literal(&before), literal(&after));
        let mut is_there = false;
        let mut cursor = "0".to_owned();
        loop {
            let words = ("SCAN", &cursor, "MATCH", &pattern, "COUNT", PAGE);
            let (next, names): (String, Vec<Vec<u8>>) = self.query(words).await?;
            for name in names {
                let user = key.key_form.decode(&name).and_then(|(name, _)| {
                    let user = name.strip_prefix(&before)?.strip_suffix(&after)?;
                    Some(user.to_owned())
                });
                if let Some(user) = user.filter(|user| !key.except.contains(user)) {
                    is_there = true;
                    each(Member {
                        user: &user,
                        written: &name,
                    });
                }
            }
            if next == "0" {
                return Ok(is_there);
            }
            cursor = next;
        }
    }

    /// Returns how many entries a key has; `None` for one key a user.
    pub async fn size(&mut self, key: &UsersKey, id: &str) -> Answer<Option<u64>> {
        let size = match key.kind {
            KeyKind::Set => "SCARD",
            KeyKind::SortedSet => "ZCARD",
            KeyKind::Hash(_) => "HLEN",
            KeyKind::Keys => return Ok(None),
        };
        self.query((size, key.name_in(id))).await.map(Some)
    }

    /// Whether a member that a look saw is still there.
    pub async fn holds(&mut self, key: &UsersKey, id: &str, written: &[u8]) -> Answer<bool> {
        let name = key.name_in(id);
        let found: Option<Vec<u8>> = match &key.kind {
            KeyKind::Set => return self.query(("SISMEMBER", name, written)).await,
            KeyKind::Keys => return self.query(("EXISTS", written)).await,
            KeyKind::SortedSet => self.query(("ZSCORE", name, written)).await?,
            KeyKind::Hash(values) => {
                let value: Option<Vec<u8>> = self.query(("HGET", name, written)).await?;
                value.filter(|value| values.mean_promised(value))
            }
        };
        Ok(found.is_some())
    }

    /// Returns the counter; `None` if the key or its field does not exist.
    pub async fn count(&mut self, count: &CountKey, id: &str) -> Answer<Option<i64>> {
        let name = fill(&count.key, id);
        let wanted = if count.field.is_some() {
            "hash"
        } else {
            "string"
        };
        if !self.must_be(&name, count.form, wanted).await? {
            return Ok(None);
        }
        let key = count.form.key(&name);
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

/// Escapes what a pattern of SCAN would read as a wildcard.
fn literal(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len());
    for letter in text.chars() {
        if matches!(letter, '*' | '?' | '[' | ']' | '\\' | '^') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern
}
