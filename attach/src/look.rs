//! A look: one reading of a campaign, in the order promised, count, failed, issued. Their API
//! promises first and the row comes last, so in this order a claim that moves while it is read is
//! seen as promised and issued, or as on its way, but never as a row without a promise.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use firstcome_shared::domain::DropId;
use tokio::time::timeout;

use crate::clock::Clock;
use crate::error::{Answer, AttachError};
use crate::file::{Campaign, Failed, Promised};
use crate::memory::Memory;
use crate::sql::{Cell, ColumnType, Done, LOOK_LIMIT, Session, whole};
use crate::text::{Field, Query, Statement, Values, numbered};
use crate::theirs::Theirs;
use crate::users::{Hasher, Names, UserHash, has, sorted};

/// Rows of a check that are named. One more is read.
const CHECK_ROWS: usize = 100;

/// Users who are named at most, of a kind and a campaign. The others are counted.
pub const NAMED: u64 = 10_000;

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
    /// Returns a statement of the block with the campaign's id.
    pub fn query<'s>(&'s self, field: Field, statement: &'s Statement) -> Query<'s> {
        let values = Values {
            id: &self.id,
            ..Values::default()
        };
        Query::new(field, statement, values)
    }

    /// Returns the statements that write a user's row, in their order.
    pub fn writes<'s>(&'s self, user: &'s PromisedUser) -> impl Iterator<Item = Query<'s>> {
        let values = Values {
            id: &self.id,
            user: &user.name,
            failed: user.event.as_deref().unwrap_or_default(),
        };
        let closes = self.block.resolve.iter().filter(|_| user.event.is_some());
        let resolve = closes.map(|it| (Field::Resolve, it));
        let all = resolve.chain(numbered(Field::Issue, &self.block.issue));
        all.map(move |(field, statement)| Query::new(field, statement, values))
    }
}

/// What a look saw.
#[derive(Debug, Default)]
pub struct Look {
    pub began: Duration,
    pub ended: Duration,
    pub promised: PromisedUsers,
    /// `None`: the key or its field does not exist, or is not described.
    pub count: Option<i64>,
    pub events: Vec<FailedEvent>,
    pub rows: Rows,
    pub check_rows: Vec<CheckRow>,
    /// Why checks could not be run.
    pub unchecked: Vec<String>,
}

/// Who was promised a coupon.
#[derive(Debug, Default)]
pub struct PromisedUsers {
    /// Sorted, each once.
    pub users: Vec<UserHash>,
    /// As they are written, by the keys of the file.
    written: Vec<Names>,
    /// Entries of the keys together; `None`: that cannot be asked again.
    pub size: Option<u64>,
}

/// A user who was promised a coupon, with the place that says so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PromisedUser {
    pub name: String,
    /// The number of the key among those of the file.
    pub key: usize,
    /// The member as it is written.
    pub written: Vec<u8>,
    /// The open event of the same claim.
    pub event: Option<String>,
    /// This process saw them arrive, and without a row.
    pub is_new: bool,
}

/// A claim that their consumer could not process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FailedEvent {
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
    pub strangers: HashMap<UserHash, String>,
}

/// A row that a check returned. Its identity is the first column: the others, such as amounts and
/// times, change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckRow {
    /// The number of the check in its campaign, from 1 on.
    pub check: usize,
    pub identity: UserHash,
    /// The first column; `None`: there are more rows than are read.
    pub first: Option<String>,
    /// All columns, for operators only.
    pub text: String,
}

impl PromisedUsers {
    pub fn has(&self, user: UserHash) -> bool {
        has(&self.users, user)
    }

    /// Returns the names of some users.
    pub fn named(
        &self,
        target: &Target<'_>,
        hasher: &Hasher,
        wanted: &HashSet<UserHash>,
    ) -> HashMap<UserHash, PromisedUser> {
        let mut found = HashMap::new();
        if wanted.is_empty() {
            return found;
        }
        let keys = target.block.keys();
        for (key, names) in self.written.iter().enumerate() {
            for written in names.iter() {
                let name = match keys.get(key) {
                    Some(key) => key.user(&target.id, written),
                    None => str::from_utf8(written).ok().map(str::to_owned),
                };
                let user = name.as_ref().map(|name| hasher.user(name));
                if let (Some(user), Some(name)) = (user.filter(|it| wanted.contains(it)), name) {
                    found.entry(user).or_insert_with(|| PromisedUser {
                        name,
                        key,
                        written: written.to_vec(),
                        ..PromisedUser::default()
                    });
                }
            }
        }
        found
    }

    /// Returns a member of the first key, as an example of how their program writes one.
    pub fn example(&self) -> Option<&[u8]> {
        self.written.first()?.iter().next()
    }
}

impl Rows {
    /// Whether a user has any row.
    pub fn has(&self, user: UserHash) -> bool {
        has(&self.counted, user) || has(&self.uncounted, user)
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
            // A comparison with NULL.
            Some(None) => 0,
            Some(Some(text)) => quantity(text).ok_or_else(|| {
                AttachError::misfit(
                    "issued: its second column is how many coupons a row counts: a whole number \
                    from 0 on",
                )
            })?,
        };
        self.coupons += coupons;
        let Some(Some(name)) = row.first() else {
            return Ok(());
        };
        let user = hasher.user(name);
        if coupons == 0 {
            self.uncounted.push(user);
            return Ok(());
        }
        self.counted.push(user);
        let is_stranger = promised.is_some_and(|it| !it.has(user));
        if is_stranger && (self.strangers.len() as u64) < NAMED {
            self.strangers.insert(user, name.clone());
        }
        Ok(())
    }
}

/// Reads a number of coupons.
pub fn quantity(text: &str) -> Option<u64> {
    whole(text).and_then(|number| u64::try_from(number).ok())
}

impl Theirs {
    /// Reads a campaign.
    pub async fn look(
        &mut self,
        target: &Target<'_>,
        hasher: &Hasher,
        clock: &Clock,
        memory: &mut Memory,
    ) -> Answer<Look> {
        let mut look = Look {
            began: clock.now(),
            ..Look::default()
        };
        let Target { block, id, .. } = target;
        let late = "promised: reading the keys took longer than 10 seconds";
        look.promised = timeout(LOOK_LIMIT, self.promised(target, hasher))
            .await
            .map_err(|_| AttachError::Lost(late.to_owned()))??;
        if let Some(count) = &block.count {
            look.count = self.redis()?.count(count, id).await?;
        }
        look.events = self.events(target).await?;
        if let Some(statement) = &block.issued {
            let query = target.query(Field::Issued, statement);
            let promised = block.promised.as_ref().map(|_| &look.promised);
            look.rows = rows(self.session().await?, query, hasher, promised).await?;
        }
        if let Some(letters) = &mut memory.letters {
            letters.read(self.brokers()?, id).await?;
            letters
                .open
                .retain(|_, user| !look.rows.has(hasher.user(user)));
            let open = letters.open.iter();
            look.events = open
                .map(|(place, user)| FailedEvent {
                    id: place.clone(),
                    user: Some(user.clone()),
                })
                .collect();
        }
        for number in 1..=block.checks().len() {
            match self.check(target, number, hasher).await {
                Ok(rows) => look.check_rows.extend(rows),
                // One that cannot run ends no other, and keeps its rows.
                Err(error) if is_of_check(block, &error) => {
                    let before = memory.check_rows.iter();
                    let of_this = before.filter(|row| row.check == number);
                    look.check_rows.extend(of_this.cloned());
                    let why = format!("check {number} cannot run: {error}");
                    look.unchecked.push(why);
                }
                Err(error) => return Err(error),
            }
        }
        look.ended = clock.now();
        Ok(look)
    }

    async fn check(
        &mut self,
        target: &Target<'_>,
        number: usize,
        hasher: &Hasher,
    ) -> Answer<Vec<CheckRow>> {
        check(self.session().await?, target, number, hasher).await
    }

    async fn promised(&mut self, target: &Target<'_>, hasher: &Hasher) -> Answer<PromisedUsers> {
        let mut promised = PromisedUsers::default();
        match &target.block.promised {
            None => {}
            Some(Promised::Keys(keys)) => {
                let store = self.redis()?;
                promised.size = store.size(keys, &target.id).await?;
                for key in keys {
                    let mut names = Names::default();
                    let read = store.users(key, &target.id, |user, written| {
                        promised.users.push(hasher.user(user));
                        names.push(written);
                    });
                    read.await?;
                    promised.written.push(names);
                }
            }
            Some(Promised::Select(statement)) => {
                let mut names = Names::default();
                let query = target.query(Field::Promised, statement);
                let session = self.session().await?;
                let done = session
                    .read(query, &mut |row| {
                        if let Some(Some(name)) = row.first() {
                            promised.users.push(hasher.user(name));
                            names.push(name.as_bytes());
                        }
                        Ok(true)
                    })
                    .await?;
                must_name_a_user(Field::Promised, done, 1)?;
                promised.written.push(names);
            }
        }
        promised.users = sorted(promised.users);
        promised.users.dedup();
        Ok(promised)
    }

    async fn events(&mut self, target: &Target<'_>) -> Answer<Vec<FailedEvent>> {
        let mut events = Vec::new();
        let Some(Failed::Select(statement)) = &target.block.failed else {
            return Ok(events);
        };
        let query = target.query(Field::Failed, statement);
        let session = self.session().await?;
        session
            .read(query, &mut |row| {
                let [id, user] = row else {
                    let why = "failed selects two columns: an event's id and its user";
                    return Err(AttachError::misfit(why));
                };
                events.push(FailedEvent {
                    id: id.clone().unwrap_or_default(),
                    user: user.clone(),
                });
                Ok(true)
            })
            .await?;
        Ok(events)
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
    let done = session
        .read(query, &mut |row| {
            rows.add(row, hasher, promised)?;
            Ok(true)
        })
        .await?;
    must_name_a_user(Field::Issued, done, 2)?;
    rows.user_type = done.first;
    rows.counted = sorted(rows.counted);
    rows.uncounted = sorted(rows.uncounted);
    Ok(rows)
}

/// Whether the error of a check is no other's: so is one of a database that no other check reads.
fn is_of_check(block: &Campaign, error: &AttachError) -> bool {
    match error {
        AttachError::Refused { .. } | AttachError::Misfit(_) => true,
        AttachError::Away { .. } => {
            let whole = block.whole.as_ref();
            whole.is_some_and(|whole| whole.database.is_some())
        }
        AttachError::Lost(_) | AttachError::Ours(_) | AttachError::Stopped => false,
    }
}

/// Returns the rows of a check, each identity once. The last one may stand for all others.
pub async fn check(
    session: &mut Session,
    target: &Target<'_>,
    number: usize,
    hasher: &Hasher,
) -> Answer<Vec<CheckRow>> {
    let mut rows: Vec<CheckRow> = Vec::new();
    let statement = &target.block.checks()[number - 1];
    let query = target.query(Field::Check(number), statement);
    session
        .read(query, &mut |row| {
            let texts: Vec<&str> = row
                .iter()
                .map(|it| it.as_deref().unwrap_or("NULL"))
                .collect();
            let is_beyond = rows.len() == CHECK_ROWS;
            let first = texts.first().filter(|_| !is_beyond).copied();
            let identity = hasher.user(&format!("{number}\n{first:?}"));
            if rows.iter().all(|row| row.identity != identity) {
                rows.push(CheckRow {
                    check: number,
                    identity,
                    first: first.map(str::to_owned),
                    text: texts.join(", "),
                });
            }
            Ok(!is_beyond)
        })
        .await?;
    Ok(rows)
}

/// Refuses columns that do not name users.
fn must_name_a_user(field: Field, done: Done, most: usize) -> Answer<()> {
    if done.columns == 0 || done.columns > most {
        return Err(AttachError::Misfit(format!(
            "{field} selects {} columns: the user, and in issued perhaps how many coupons the row \
            counts",
            done.columns
        )));
    }
    if done.first == ColumnType::Other {
        return Err(AttachError::Misfit(format!(
            "{field}: its first column is neither text nor a whole number: write BIN_TO_UUID(…) \
            or CAST(… AS CHAR)"
        )));
    }
    Ok(())
}
