//! Their Redis: the users' key in any of its types, read with SCAN, the counter, and the key of the
//! sale.

use firstcome_shared::quoted::without_values;
use firstcome_shared::redis::{Redis, SharedConnection};
use redis::{Cmd, FromRedisValue, RedisError, ToRedisArgs, Value, from_redis_value_ref};

use crate::config::{CountName, KeyType, SaleKey, Target};
use crate::forms::{Form, Members};
use crate::{Answer, AttachError};

/// The COUNT of a SCAN: one call reads about as many members.
const PAGE: u32 = 500;

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

const MOVE_COUNT: &str = include_str!("scripts/move_count.lua");
const ADD_USER: &str = include_str!("scripts/add_user.lua");

fn is_word(value: &Value, word: &str) -> bool {
    from_redis_value_ref::<String>(value).is_ok_and(|text| text == word)
}

/// A relative change of the counter: never a new value, because a claim that is refused may be
/// about to give back what it took.
#[derive(Debug, Clone, PartialEq)]
pub struct MoveCount {
    /// Its value at the second look; `None` if it was missing.
    pub seen: Option<i64>,
    /// 0: only if it still has this value; 1: also if it has risen since; -1: also if it has
    /// fallen.
    pub may_move: i8,
    pub by: i64,
}

/// Their Redis. Cheap to clone.
#[derive(Clone)]
pub struct Keys {
    conn: SharedConnection,
}

impl KeyType {
    /// Returns the type's name in TYPE, and the commands that count, list and find members.
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

    pub(crate) async fn query<T: FromRedisValue>(&mut self, words: impl ToRedisArgs) -> Answer<T> {
        let mut command = Cmd::new();
        command.arg(words);
        let answer = command.query_async(&mut self.conn).await;
        match answer {
            Ok(answer) => Ok(answer),
            Err(error) => Err(self.cause(error).await),
        }
    }

    /// Distinguishes a server that is away, which ends the pass, from a refusal or a slow command,
    /// which concerns one campaign.
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

    /// Refuses a replica: its data may be old, and it takes no repairs. A server that refuses
    /// `ROLE` is accepted.
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

    /// Checks the types of the users' key and of the counter, which need not exist yet, and whether
    /// their names are written in another form.
    pub async fn check(&mut self, target: &Target<'_>) -> Answer<()> {
        if let Some(users) = &target.campaign.users {
            let name = target.fill(&users.key);
            let form = users.key_form.unwrap_or(users.form);
            self.check_type(&name, form, users.kind.words()[0]).await?;
        }
        if let Some(count) = &target.campaign.count {
            let kind = if count.field.is_some() {
                "hash"
            } else {
                "string"
            };
            self.check_type(&target.fill(&count.key), count.form, kind)
                .await?;
        }
        Ok(())
    }

    async fn check_type(&mut self, name: &str, form: Form, wanted: &str) -> Answer<()> {
        let kind: String = self.query(("TYPE", form.key(name))).await?;
        if kind != "none" && kind != wanted {
            let why = format!("key {name:?} in Redis is a {kind}, not a {wanted}");
            return Err(AttachError::Misfit(why.replace("zset", "sorted set")));
        }
        for other in form.others().iter().filter(|_| kind == "none") {
            if self.has_type(&other.key(name), wanted).await? {
                return Err(AttachError::Misfit(format!(
                    "key {name:?} is in Redis as a {} name: write key_form = {:?} (in count: \
                     form)",
                    other.word(),
                    other.word()
                )));
            }
        }
        Ok(())
    }

    /// Whether this key has this type. Callers check other forms of a key's name, to which the
    /// login may have no access, so `false` also if Redis refuses or does not answer the command.
    pub(crate) async fn has_type(&mut self, key: &[u8], wanted: &str) -> Answer<bool> {
        match self.query::<String>(("TYPE", key)).await {
            Ok(kind) => Ok(kind == wanted),
            Err(AttachError::Misfit(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns the number of members, and 0 if the key does not exist.
    pub async fn size(&mut self, kind: KeyType, key: &[u8]) -> Answer<u64> {
        self.query((kind.words()[1], key)).await
    }

    /// Returns the counter; `None` if the key or its field does not exist.
    pub async fn count(&mut self, name: &CountName) -> Answer<Option<i64>> {
        let text: Option<Vec<u8>> = match &name.field {
            None => self.query(("GET", &name.key)).await?,
            Some(field) => self.query(("HGET", &name.key, field)).await?,
        };
        let Some(text) = text else {
            return Ok(None);
        };
        let number = str::from_utf8(&text).ok().and_then(|it| it.parse().ok());
        let misfit = || AttachError::Misfit("count.key: it holds no whole number".to_owned());
        number.ok_or_else(misfit).map(Some)
    }

    /// Whether the key says that something is left.
    pub async fn is_on_sale(&mut self, sale: &SaleKey, target: &Target<'_>) -> Answer<bool> {
        let key = sale.form.key(&target.fill(&sale.key));
        if let Some(member) = &sale.member {
            let members = Members::new(sale.form, None).map_err(AttachError::Misfit)?;
            let all = members.all(&target.fill(member));
            return self.has(KeyType::Set, &key, &all).await;
        }
        let field = sale.field.as_ref().map(|it| target.fill(it));
        let value: Option<Vec<u8>> = match (field, &sale.value) {
            (Some(field), _) => {
                let field = sale.form.field(&field);
                self.query(("HGET", &key, &field)).await?
            }
            (None, Some(_)) => self.query(("GET", &key)).await?,
            (None, None) => return self.query(("EXISTS", &key)).await,
        };
        Ok(match &sale.value {
            Some(wanted) => value.as_deref() == Some(target.fill(wanted).as_bytes()),
            None => value.is_some(),
        })
    }

    /// Passes every member to `each`, perhaps more than once, with its score in a sorted set, or
    /// its value in a hash.
    pub async fn scan(
        &mut self,
        kind: KeyType,
        key: &[u8],
        mut each: impl FnMut(Vec<u8>, Option<Vec<u8>>),
    ) -> Answer<()> {
        let mut cursor = "0".to_owned();
        loop {
            let words = (kind.words()[2], key, &cursor, "COUNT", PAGE);
            let (next, page): (String, Vec<Vec<u8>>) = self.query(words).await?;
            let mut page = page.into_iter();
            while let Some(member) = page.next() {
                let value = match kind {
                    KeyType::Set => None,
                    KeyType::SortedSet | KeyType::Hash => page.next(),
                };
                each(member, value);
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }

    /// Whether one of these is a member.
    pub async fn has(&mut self, kind: KeyType, key: &[u8], members: &[Vec<u8>]) -> Answer<bool> {
        for member in members {
            let found: Value = self.query((kind.words()[3], key, member)).await?;
            // ZSCORE answers with a score or nothing, the others with 1 or 0.
            let is_missing = matches!(found, Value::Nil | Value::Int(0) | Value::Boolean(false));
            if !is_missing {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the first 50 and the last 50 members of the sorted set with their scores.
    pub async fn some_scores(&mut self, key: &[u8]) -> Answer<Vec<(Vec<u8>, f64)>> {
        let mut scores = Vec::new();
        for [from, to] in [[0, 49], [-50, -1]] {
            let words = ("ZRANGE", key, from, to, "WITHSCORES");
            let some: Vec<(Vec<u8>, f64)> = self.query(words).await?;
            scores.extend(some);
        }
        Ok(scores)
    }

    /// Returns the value of the hash's users, if those of the first page, about `PAGE` users and
    /// not placeholders, which are `excepted`, all have the same value. They must be ten, or all
    /// users of the hash, at least two: the value of fewer may be their own.
    pub async fn value_of_all(
        &mut self,
        key: &[u8],
        excepted: &[Vec<u8>],
    ) -> Answer<Option<Vec<u8>>> {
        let words = ("HSCAN", key, 0, "COUNT", PAGE);
        let (next, page): (String, Vec<Vec<u8>>) = self.query(words).await?;
        let values: Vec<&Vec<u8>> = page
            .as_chunks::<2>()
            .0
            .iter()
            .filter(|[member, _]| !excepted.contains(member))
            .map(|[_, value]| value)
            .collect();
        let enough = if next == "0" { 2 } else { 10 };
        let is_common = values.len() >= enough && values.iter().all(|it| *it == values[0]);
        Ok(values.first().filter(|_| is_common).map(|it| (*it).clone()))
    }

    /// Adds a user, and changes nothing if they are there in any spelling. Returns false if the key
    /// is gone and must not be created.
    pub async fn add(&mut self, key: &[u8], add: &NewMember) -> Answer<bool> {
        let may_create = u8::from(add.may_create);
        let find = add.kind.words()[3];
        let spellings = (add.spellings.len(), &add.spellings);
        let script = ("EVAL", ADD_USER, 1, key, may_create, find, spellings);
        let member = &add.member;
        match add.kind {
            KeyType::Set => self.query((script, "SADD", member)).await,
            KeyType::SortedSet => {
                // As text, because the crate writes large numbers as `1e16`.
                let score = add.score.to_string();
                self.query((script, "ZADD", "NX", score, member)).await
            }
            KeyType::Hash => self.query((script, "HSETNX", member, &add.value)).await,
        }
    }

    /// Moves the counter if its value still allows it ([`MoveCount::may_move`]). Returns whether it
    /// did.
    pub async fn move_count(&mut self, name: &CountName, to: &MoveCount) -> Answer<bool> {
        // Empty if missing, because `None` is written as no argument at all.
        let field = name.field.as_deref().unwrap_or_default();
        let seen = to.seen.map(|seen| seen.to_string()).unwrap_or_default();
        let script = ("EVAL", MOVE_COUNT, 1, &name.key);
        self.query((script, field, seen, to.may_move, to.by)).await
    }
}

/// A user who is added to the users' key.
#[derive(Debug)]
pub struct NewMember {
    pub kind: KeyType,
    pub member: Vec<u8>,
    /// The members that mean the same user.
    pub spellings: Vec<Vec<u8>>,
    /// Used in a sorted set only.
    pub score: f64,
    /// Used in a hash only.
    pub value: Vec<u8>,
    /// The second look saw no such key, so it may be created.
    pub may_create: bool,
}
