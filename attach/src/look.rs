//! A look: one reading of a campaign, in the order promised, count, failed, issued. Their API
//! promises first and the row comes last, so in this order a claim that moves while it is read is
//! seen as promised and issued, or as on its way, but never as a row without a promise.

use std::collections::HashMap;
use std::future::Future;
use std::time::Duration;

use firstcome_shared::domain::DropId;
use tokio::time::{Instant, timeout};

use crate::clock::Clock;
use crate::dead_letters::DeadLetters;
use crate::error::{Answer, AttachError};
use crate::file::{Campaign, Failed, KeyKind, Promised, UsersKey};
use crate::sql::{Cell, ColumnType, Columns, LOOK_LIMIT, Query, Session};
use crate::store::Store;
use crate::text::{Statement, Values};
use crate::users::{Hasher, Names, UserHash, sorted};

/// One campaign: the only one of its block, or a row of `each`.
#[derive(Debug, Clone)]
pub struct Target<'f> {
    pub block: &'f Campaign,
    /// Empty without `each`.
    pub id: String,
    pub name: String,
    /// `None`: unlimited.
    pub quantity: Option<u64>,
    pub drop_id: DropId,
}

impl Target<'_> {
    pub fn values(&self) -> Values<'_> {
        Values {
            id: &self.id,
            ..Values::default()
        }
    }
}

/// What a look saw.
#[derive(Debug)]
pub struct Look {
    pub began: Duration,
    pub ended: Duration,
    /// `None`: not described.
    pub promised: Option<PromisedUsers>,
    /// `None`: the key or its field does not exist, or is not described.
    pub count: Option<i64>,
    pub events: Vec<Event>,
    pub rows: Rows,
}

/// Who was promised a coupon.
#[derive(Debug, Default)]
pub struct PromisedUsers {
    /// Sorted, each once.
    pub users: Vec<UserHash>,
    /// Whether a key exists, or a SELECT was run.
    pub is_there: bool,
    sources: Vec<Source>,
}

/// The members of one key, or the users of the SELECT.
#[derive(Debug, Default)]
struct Source {
    names: Names,
    /// `None`: it has no size that could be asked again.
    size: Option<u64>,
}

/// A user who was promised a coupon, with the place that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PromisedUser {
    pub name: String,
    /// The number of the key among those of the file.
    pub key: usize,
    /// The member as it is written.
    pub written: Vec<u8>,
}

/// A claim that their consumer could not process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub id: String,
    pub user: Option<String>,
}

/// The rows that answer promises.
#[derive(Debug, Default)]
pub struct Rows {
    /// Users of rows that count, sorted, once for each row.
    pub counted: Vec<UserHash>,
    /// Users of rows that count no more, sorted.
    pub uncounted: Vec<UserHash>,
    /// Coupons that all rows count, also those without a user.
    pub coupons: u64,
    pub number: u64,
    pub user_type: ColumnType,
    /// Names of users with a row that counts, and without a promise. At most [`NAMED`].
    strangers: HashMap<UserHash, String>,
}

/// Users who are named at most, of a kind and a campaign. The others are counted.
pub const NAMED: usize = 10_000;

impl PromisedUsers {
    /// Returns the names of some users.
    pub fn named(
        &self,
        target: &Target<'_>,
        hasher: &Hasher,
        wanted: impl Fn(UserHash) -> bool,
    ) -> HashMap<UserHash, PromisedUser> {
        let mut found = HashMap::new();
        for (key, source) in self.sources.iter().enumerate() {
            for written in source.names.iter() {
                let name = match &target.block.promised {
                    Promised::Keys(keys) => {
                        keys.get(key).and_then(|key| user_of(key, target, written))
                    }
                    Promised::Select(_) | Promised::NotDescribed => {
                        str::from_utf8(written).ok().map(str::to_owned)
                    }
                };
                let Some(name) = name else {
                    continue;
                };
                let user = hasher.user(&name);
                if wanted(user) {
                    found.entry(user).or_insert_with(|| PromisedUser {
                        name,
                        key,
                        written: written.to_vec(),
                    });
                }
            }
        }
        found
    }

    /// Returns how many entries its keys had together; `None` if that cannot be asked again.
    pub fn size(&self) -> Option<u64> {
        self.sources.iter().map(|source| source.size).sum()
    }

    /// Returns a member of the first key, as an example of how their program writes one.
    pub fn example(&self) -> Option<&[u8]> {
        self.sources.first()?.names.iter().next()
    }
}

fn user_of(key: &UsersKey, target: &Target<'_>, written: &[u8]) -> Option<String> {
    if key.kind != KeyKind::Keys {
        return key.members.decode(written);
    }
    let (before, after) = key.around_user(&target.id);
    let (name, _) = key.key_form.decode(written)?;
    Some(name.strip_prefix(&before)?.strip_suffix(&after)?.to_owned())
}

impl Rows {
    /// Returns the name of a user with a row and without a promise, if it is one of those that are
    /// named.
    pub fn stranger(&self, user: UserHash) -> Option<&str> {
        self.strangers.get(&user).map(String::as_str)
    }

    /// Returns some names of users with a row and without a promise.
    pub fn some_strangers(&self, number: usize) -> Vec<String> {
        self.strangers.values().take(number).cloned().collect()
    }

    /// Whether a user has any row.
    pub fn has(&self, user: UserHash) -> bool {
        self.counted.binary_search(&user).is_ok() || self.uncounted.binary_search(&user).is_ok()
    }

    /// Adds a row of `issued`.
    fn add(
        &mut self,
        row: &[Cell],
        hasher: &Hasher,
        promised: Option<&PromisedUsers>,
    ) -> Answer<()> {
        self.number += 1;
        let coupons = match row.get(1) {
            None => 1,
            Some(cell) => pieces(cell)?,
        };
        self.coupons += coupons;
        let Some(name) = row.first().and_then(Cell::text) else {
            return Ok(());
        };
        let user = hasher.user(&name);
        if coupons == 0 {
            self.uncounted.push(user);
            return Ok(());
        }
        self.counted.push(user);
        let is_stranger = promised.is_some_and(|it| it.users.binary_search(&user).is_err());
        if is_stranger && self.strangers.len() < NAMED {
            self.strangers.insert(user, name);
        }
        Ok(())
    }
}

/// Returns how many coupons a row counts. A comparison with NULL counts none.
fn pieces(cell: &Cell) -> Answer<u64> {
    if *cell == Cell::Null {
        return Ok(0);
    }
    let number = cell.number().and_then(|it| u64::try_from(it).ok());
    number.ok_or_else(|| {
        AttachError::misfit(
            "issued: its second column is how many coupons a row counts: a whole number from 0 on",
        )
    })
}

/// The stores that a look reads.
pub struct Reader<'a> {
    pub session: &'a mut Session,
    pub store: Option<&'a mut Store>,
    pub hasher: &'a Hasher,
    pub clock: &'a Clock,
}

impl Reader<'_> {
    pub async fn look(
        &mut self,
        target: &Target<'_>,
        letters: Option<&mut DeadLetters>,
    ) -> Answer<Look> {
        let began = self.clock.now();
        let promised = self.promised(target).await?;
        let count = match (&target.block.count, self.store.as_deref_mut()) {
            (Some(count), Some(store)) => store.count(count, &target.id).await?,
            _ => None,
        };
        let mut events = match &target.block.failed {
            Some(Failed::Select(statement)) => self.events(target, statement).await?,
            Some(Failed::Topic(_)) | None => Vec::new(),
        };
        let rows = self.rows(target, promised.as_ref()).await?;
        if let Some(letters) = letters {
            events = letters.unanswered(target, &rows, self.hasher).await?;
        }
        Ok(Look {
            began,
            ended: self.clock.now(),
            promised,
            count,
            events,
            rows,
        })
    }

    async fn promised(&mut self, target: &Target<'_>) -> Answer<Option<PromisedUsers>> {
        let mut promised = PromisedUsers::default();
        match &target.block.promised {
            Promised::NotDescribed => return Ok(None),
            Promised::Keys(keys) => {
                let store = self.store.as_deref_mut().ok_or_else(no_redis)?;
                for key in keys {
                    let mut source = Source {
                        size: store.size(key, &target.id).await?,
                        ..Source::default()
                    };
                    let scan = store.users(key, &target.id, |member| {
                        promised.users.push(self.hasher.user(member.user));
                        source.names.push(member.written);
                    });
                    promised.is_there |= in_time("promised", scan).await?;
                    promised.sources.push(source);
                }
            }
            Promised::Select(statement) => {
                let mut source = Source::default();
                let hasher = self.hasher;
                let mut each = |columns: &Columns, row: &[Cell]| {
                    must_name_a_user("promised", columns, 1)?;
                    if let Some(name) = row.first().and_then(Cell::text) {
                        promised.users.push(hasher.user(&name));
                        source.names.push(name.as_bytes());
                    }
                    Ok(true)
                };
                let query = query("promised", statement, target.values());
                self.session.read(query, &mut each).await?;
                promised.is_there = true;
                promised.sources.push(source);
            }
        }
        promised.users = sorted(promised.users);
        promised.users.dedup();
        Ok(Some(promised))
    }

    async fn events(&mut self, target: &Target<'_>, statement: &Statement) -> Answer<Vec<Event>> {
        let mut events = Vec::new();
        let mut each = |columns: &Columns, row: &[Cell]| {
            let [id, user] = row else {
                let number = columns.number;
                return Err(AttachError::Misfit(format!(
                    "failed selects {number} columns: an event's id and its user"
                )));
            };
            events.push(Event {
                id: id.text().unwrap_or_default(),
                user: user.text(),
            });
            Ok(true)
        };
        let query = query("failed", statement, target.values());
        self.session.read(query, &mut each).await?;
        Ok(events)
    }

    async fn rows(
        &mut self,
        target: &Target<'_>,
        promised: Option<&PromisedUsers>,
    ) -> Answer<Rows> {
        match &target.block.issued {
            None => Ok(Rows::default()),
            Some(statement) => {
                let query = query("issued", statement, target.values());
                rows(self.session, query, self.hasher, promised).await
            }
        }
    }
}

/// Reads the rows that answer promises: at a look, and again inside the transaction of a repair.
pub async fn rows(
    session: &mut Session,
    query: Query<'_>,
    hasher: &Hasher,
    promised: Option<&PromisedUsers>,
) -> Answer<Rows> {
    let mut rows = Rows::default();
    let mut each = |columns: &Columns, row: &[Cell]| {
        must_name_a_user("issued", columns, 2)?;
        rows.user_type = columns.first;
        rows.add(row, hasher, promised)?;
        Ok(true)
    };
    session.read(query, &mut each).await?;
    if rows.number == 0 {
        let columns = session.describe("issued", query.statement).await?;
        must_name_a_user("issued", &columns, 2)?;
        rows.user_type = columns.first;
    }
    rows.counted = sorted(rows.counted);
    rows.uncounted = sorted(rows.uncounted);
    Ok(rows)
}

/// Refuses columns that do not name users.
pub fn must_name_a_user(field: &str, columns: &Columns, most: usize) -> Answer<()> {
    if columns.number == 0 || columns.number > most {
        let number = columns.number;
        let wanted = if most == 1 {
            "the user"
        } else {
            "the user, and perhaps how many coupons the row counts"
        };
        return Err(AttachError::Misfit(format!(
            "{field} selects {number} columns: {wanted}"
        )));
    }
    match columns.first {
        ColumnType::Text | ColumnType::Integer => Ok(()),
        ColumnType::Binary => Err(AttachError::Misfit(format!(
            "{field}: its first column is binary: write BIN_TO_UUID(…) or CAST(… AS CHAR)"
        ))),
        ColumnType::Other => Err(AttachError::Misfit(format!(
            "{field}: its first column is neither text nor a whole number: write CAST(… AS CHAR)"
        ))),
    }
}

pub fn query<'a>(field: &'a str, statement: &'a Statement, values: Values<'a>) -> Query<'a> {
    Query {
        field,
        statement,
        values,
        until: Instant::now() + LOOK_LIMIT,
    }
}

async fn in_time<T>(field: &str, reading: impl Future<Output = Answer<T>>) -> Answer<T> {
    timeout(LOOK_LIMIT, reading).await.unwrap_or_else(|_| {
        Err(AttachError::Lost(format!(
            "{field}: reading the key took longer than {LOOK_LIMIT:?}"
        )))
    })
}

fn no_redis() -> AttachError {
    AttachError::misfit("redis: its address is missing at the top of the file")
}
