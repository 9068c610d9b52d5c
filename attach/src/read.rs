//! Looks at a target: all users and rows, the open failed events, and its numbers. Users are kept
//! as keyed hashes in entries of 8 bytes, so that a million fit in 64 MB; only users who differ are
//! kept by name. If the first look differs, a pass waits for as long as a claim may be on its way,
//! and looks again: what both looks saw is a fact for [`judge`](super::judge).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use mysql_async::{Row, Value};
use tokio::time::Instant;

use crate::condition::{Condition, Is};
use crate::config::{Done, FailedTable, KeyType, Target, UsersKey, UsersMean};
use crate::facts::{Facts, FailedEvent, NAMED, Numbers, StockColumn, UserSets};
use crate::first::{First, Unissued};
use crate::forms::{Census, Members, Spelling};
use crate::keys::Keys;
use crate::shape::{Shape, TableShape};
use crate::sql::{Sql, quoted, text};
use crate::{Answer, AttachError};

/// Rows read per page.
const ROWS: usize = 2_000;

/// Names that MySQL compares per query.
const NAMES: usize = 500;

/// What one look saw.
#[derive(Debug, Clone)]
pub struct Look {
    /// When the look ended: a claim that it saw may be as young as this.
    pub ended: Instant,
    pub quantity: u64,
    pub numbers: Numbers,
    sets: UserSets,
    /// By user: members without a row, in a spelling that [`Members::all`] does not list.
    pub odd: BTreeMap<String, Vec<u8>>,
    /// How most members are written.
    pub spelling: Spelling,
    /// There are members or rows, but no user is a member and has a row.
    is_disjoint: bool,
    /// If `is_disjoint`: the text around ids ([`UserSets::text_around`]).
    member: Option<String>,
    /// The number of users who are members and have a row.
    in_both: u64,
    /// How many of these only MySQL compares as equal to their rows.
    respelled: u64,
    stock: Option<StockColumn>,
    /// Whether their Redis says that something is left.
    sale: Option<bool>,
    failed: Vec<FailedEvent>,
    /// Users of the last rows beyond the quantity.
    surplus: Vec<String>,
}

/// The numbers that change only while coupons are being sold. It leaves out two numbers that
/// refused users change, too: a counter beyond the quantity or below 0, and members who only
/// applied.
#[derive(PartialEq)]
struct Sold {
    quantity: u64,
    count: Option<i64>,
    admitted: Option<u64>,
    rows: u64,
}

/// Reads and repairs one target.
pub struct Reader<'a> {
    pub target: Target<'a>,
    pub shape: &'a Shape,
    pub sql: &'a mut Sql,
    pub keys: &'a mut Keys,
}

/// Users by 56 bits of a hash, so that an entry takes 8 bytes. The key is random for each look:
/// nobody can choose names that collide, and the next look sees what a collision hid.
#[derive(Default)]
struct Seen {
    state: RandomState,
    flags: HashMap<[u8; 7], u8>,
}

const MEMBER: u8 = 1;
const ROW: u8 = 2;

impl Seen {
    /// Creates an empty `Seen` with room for this many users.
    fn expecting(users: u64) -> Self {
        let mut seen = Self::default();
        seen.flags
            .reserve(usize::try_from(users).unwrap_or_default());
        seen
    }

    /// Returns the number of users about whom exactly this was noted.
    fn number_of(&self, flags: u8) -> u64 {
        self.flags.values().filter(|it| **it == flags).count() as u64
    }

    fn hash(&self, user: &[u8]) -> [u8; 7] {
        let [hash @ .., _] = self.state.hash_one(user).to_le_bytes();
        hash
    }

    /// Returns what was noted about a user.
    fn flags(&self, user: &[u8]) -> u8 {
        let flags = self.flags.get(&self.hash(user));
        flags.copied().unwrap_or_default()
    }

    /// Notes something about a user, and returns what was noted before.
    fn note(&mut self, user: &[u8], flag: u8) -> u8 {
        let flags = self.flags.entry(self.hash(user)).or_default();
        let before = *flags;
        *flags |= flag;
        before
    }
}

/// A table with a column of users.
#[derive(Clone, Copy)]
pub(crate) struct UserTable<'a> {
    name: &'a str,
    user: &'a str,
    shape: &'a TableShape,
}

/// The users' key of a target.
struct Users<'a> {
    of: &'a UsersKey,
    key: Vec<u8>,
    members: Members,
    /// Placeholders, in all their spellings.
    excepted: Vec<Vec<u8>>,
    size: u64,
}

impl<'a> Reader<'a> {
    /// Returns the users' key; `None` if the file names none, or if the target is over and the key
    /// has expired.
    async fn users(&mut self) -> Answer<Option<Users<'a>>> {
        let Some(of) = &self.target.campaign.users else {
            return Ok(None);
        };
        let key = of.name(&self.target);
        let members = of.members().map_err(AttachError::Misfit)?;
        let mut size = self.keys.size(of.kind, &key).await?;
        let mut excepted = Vec::new();
        for spellings in of.excepted(&members) {
            if self.keys.has(of.kind, &key, &spellings).await? {
                size = size.saturating_sub(1);
            }
            excepted.extend(spellings);
        }
        if size == 0 && self.target.is_over {
            return Ok(None);
        }
        Ok(Some(Users {
            of,
            key,
            members,
            excepted,
            size,
        }))
    }

    /// The rows of the target. Rows without a user do not count: they are coupons that were made in
    /// advance, or those of users who were erased.
    pub fn of_rows(&self) -> Condition {
        let rows = &self.target.campaign.rows;
        let has_user = format!("{} IS NOT NULL", quoted(&rows.user));
        Condition::new(&rows.of, &self.target, &self.shape.rows).and(&has_user, [])
    }

    pub async fn quantity(&mut self) -> Answer<u64> {
        let campaign = self.target.campaign;
        let Some(sql) = &campaign.quantity_sql else {
            return Ok(campaign.quantity.unwrap_or_default().into());
        };
        self.sql.only_number(&self.target.fill(sql)).await
    }

    /// Selects an expression from the rows that fulfil a condition.
    pub async fn select(&mut self, what: &str, of: Condition, rest: &str) -> Answer<Vec<Row>> {
        let table = quoted(&self.target.campaign.rows.table);
        let sql = format!("SELECT {what} FROM {table} WHERE {} {rest}", of.sql);
        self.sql.rows(&sql, of.values).await
    }

    /// Selects the users of these rows.
    async fn users_of(&mut self, of: Condition, rest: &str) -> Answer<Vec<String>> {
        let shape = &self.shape.rows;
        let user = shape.selected(&self.target.campaign.rows.user);
        let rows = self.select(&user, of, rest).await?;
        Ok(rows.iter().map(|row| shape.user_of(row)).collect())
    }

    /// Reads the column of the stock row. `None` if the file names no such column, if the column is
    /// NULL, or if the row of a day does not exist yet.
    pub async fn stock(&mut self, quantity: u64, rows: u64) -> Answer<Option<StockColumn>> {
        let (Some(stock), Some(shape)) = (&self.target.campaign.stock, &self.shape.stock) else {
            return Ok(None);
        };
        let Some((column, is_left)) = stock.column() else {
            return Ok(None);
        };
        let of = Condition::new(&stock.of, &self.target, shape);
        let table = quoted(&stock.table);
        let column = quoted(column);
        let sql = format!(
            "SELECT CAST({column} AS SIGNED) FROM {table} WHERE {} LIMIT 2",
            of.sql
        );
        let found = self.sql.rows(&sql, of.values).await?;
        let row = match found.as_slice() {
            [row] => row,
            // The row of a day may not be there yet.
            [] if self.target.date.is_some() => return Ok(None),
            _ => {
                let several = if found.is_empty() {
                    "no row"
                } else {
                    "several rows"
                };
                let why = format!("stock.where selects {several}: write what selects one");
                return Err(AttachError::Misfit(why));
            }
        };
        let says = row
            .get_opt::<Option<i64>, _>(0)
            .and_then(Result::ok)
            .flatten();
        let quantity = quantity.cast_signed();
        let rows = rows.cast_signed();
        let due = if is_left { quantity - rows } else { rows };
        Ok(says.map(|says| StockColumn { says, due }))
    }

    pub async fn count_rows(&mut self) -> Answer<u64> {
        let rows = self.count(self.of_rows()).await?;
        Ok(rows.unwrap_or_default().try_into().unwrap_or_default())
    }

    /// Counts these rows.
    pub async fn count(&mut self, of: Condition) -> Answer<Option<i64>> {
        let table = quoted(&self.target.campaign.rows.table);
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {}", of.sql);
        self.sql.number(&sql, of.values).await
    }

    /// Reads the numbers, the users first: a system that counts before it adds a user then never
    /// shows more users than its counter.
    pub async fn numbers(&mut self) -> Answer<Numbers> {
        let size = self.users().await?.map(|users| users.size);
        let count = match &self.target.campaign.count {
            Some(count) => self.keys.count(&count.name(&self.target)).await?,
            None => None,
        };
        let rows = self.count_rows().await?;
        Ok(Numbers { size, count, rows })
    }

    pub async fn read_all(&mut self) -> Answer<Look> {
        let quantity = self.quantity().await?;
        let numbers = self.numbers().await?;
        let mut failed = self.failed().await?;
        let stock = self.stock(quantity, numbers.rows).await?;
        let sale = match &self.target.campaign.sale {
            Some(sale) => Some(self.keys.is_on_sale(sale, &self.target).await?),
            None => None,
        };
        let users = self.users().await?;
        let mut seen = Seen::expecting(numbers.size.unwrap_or_default().max(numbers.rows));
        let mut sets = UserSets::default();
        let mut spelling = Spelling::Plain;
        if let Some(users) = &users {
            let census = self.note_members(users, &mut seen).await?;
            spelling = census.majority(&users.members);
            let strange = census
                .strange(&users.members, &users.of.key)
                .map_err(AttachError::Misfit)?;
            if users.of.means == UsersMean::Admitted {
                sets.strange = strange.into_iter().collect();
            }
        }
        self.rows(users.is_some(), &mut seen, &mut sets).await?;
        for event in &mut failed {
            let flags = seen.flags(event.user.as_bytes());
            event.has_row = flags & ROW != 0;
            // `Some(false)` also after the key has expired: then nothing shows whom their system
            // refused.
            let has_key = self.target.campaign.users.is_some();
            event.is_member = has_key.then_some(flags & MEMBER != 0);
        }
        let mut in_both = seen.number_of(MEMBER | ROW);
        let mut respelled = 0;
        let mut is_disjoint = users.is_some() && !seen.flags.is_empty() && in_both == 0;
        let mut odd = BTreeMap::new();
        if let Some(users) = &users
            && (users.of.means == UsersMean::Admitted
                || !sets.missing.is_empty()
                || failed.iter().any(FailedEvent::is_of_stranger))
            && seen.number_of(MEMBER) > 0
        {
            odd = self.name_unissued(users, &seen, &mut sets).await?;
            let named = sets.unissued.len();
            respelled = self.match_spellings(&mut sets).await?;
            in_both += respelled;
            is_disjoint &= sets.unissued.len() == named;
            self.leave_out_refused(&mut sets).await?;
            self.leave_out_taken_back(&mut sets).await?;
            leave_out_unstorable(&mut sets, &self.shape.rows);
        }
        self.match_rows(&mut failed).await?;
        self.match_members(&mut failed, &sets).await?;
        sets = match users.map(|users| users.of.means) {
            Some(UsersMean::Applied) => sets.of_rows(),
            Some(UsersMean::Admitted) | None => sets,
        };
        self.match_missing(&mut sets).await?;
        let member = if is_disjoint {
            sets.text_around(|id| seen.flags(id.as_bytes()) & ROW != 0)
        } else {
            None
        };
        let surplus = if self.shape.has_order {
            let surplus_rows = numbers.rows.saturating_sub(quantity);
            self.last_rows(surplus_rows.min(NAMED as u64)).await?
        } else {
            Vec::new()
        };
        Ok(Look {
            ended: Instant::now(),
            quantity,
            numbers,
            sets,
            odd,
            spelling,
            is_disjoint,
            member,
            in_both,
            respelled,
            stock,
            sale,
            failed,
            surplus,
        })
    }

    /// Takes out of `unissued` each member whom MySQL compares as equal to a user with a row, such
    /// as `Kim` and `kim`: for their system, they are one user. Also takes out those that the
    /// column cannot hold. Returns the number of users who are members and have a row after all.
    async fn match_spellings(&mut self, sets: &mut UserSets) -> Answer<u64> {
        let missing = sets.missing.len();
        let names: Vec<String> = sets.unissued.keys().cloned().collect();
        for names in names.chunks(NAMES) {
            let all_known = match self.spellings(names).await {
                Ok(rows) => rows.iter().all(|row| sets.unissued.contains_key(row)),
                // A value may be beyond the character set of the column: query the users singly.
                Err(AttachError::Refused { .. }) => false,
                Err(error) => return Err(error),
            };
            if all_known {
                continue;
            }
            for name in names {
                self.match_spelling(name, sets).await?;
            }
        }
        Ok((missing - sets.missing.len()) as u64)
    }

    async fn match_spelling(&mut self, name: &String, sets: &mut UserSets) -> Answer<()> {
        let rows = match self.spellings(std::slice::from_ref(name)).await {
            Ok(rows) if rows.is_empty() => return Ok(()),
            Ok(rows) => rows,
            Err(AttachError::Refused { .. }) => {
                sets.unissued.remove(name);
                sets.unstorable.insert(name.clone());
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        sets.unissued.remove(name);
        let is_matched = rows
            .iter()
            .any(|row| row == name || sets.missing.remove(row));
        if !is_matched {
            sets.aliases.insert(name.clone());
        }
        Ok(())
    }

    /// Returns the users with rows whom MySQL compares as equal to one of these names, as the rows
    /// spell them.
    async fn spellings(&mut self, names: &[String]) -> Answer<Vec<String>> {
        let of = self.of_rows();
        self.users_among(names, of, "").await
    }

    /// Selects the users among these names who have rows, each with the value of the SQL expression
    /// `place`. Leaves out users for whom that is no number.
    pub async fn places_of(&mut self, names: &[String], place: &str) -> Answer<Vec<(String, f64)>> {
        let shape = &self.shape.rows;
        let user = &self.target.campaign.rows.user;
        let Some(of) = self.of_rows().among(user, names, shape) else {
            return Ok(Vec::new());
        };
        let what = format!("{}, {place}", shape.selected(user));
        let rows = self.select(&what, of, "").await?;
        let places = rows.iter().filter_map(|row| {
            let place = text(row, 1).parse().ok()?;
            Some((shape.user_of(row), place))
        });
        Ok(places.collect())
    }

    async fn users_among(
        &mut self,
        names: &[String],
        of: Condition,
        rest: &str,
    ) -> Answer<Vec<String>> {
        let user = &self.target.campaign.rows.user;
        match of.among(user, names, &self.shape.rows) {
            Some(of) => self.users_of(of, rest).await,
            None => Ok(Vec::new()),
        }
    }

    pub(crate) fn row_users(&self) -> UserTable<'a> {
        let rows = &self.target.campaign.rows;
        UserTable {
            name: &rows.table,
            user: &rows.user,
            shape: &self.shape.rows,
        }
    }

    /// Returns the names that MySQL compares as equal to users of these rows, each with such a user
    /// as the rows spell it.
    pub(crate) async fn equal_users(
        &mut self,
        names: Vec<String>,
        table: UserTable<'_>,
        of: &Condition,
    ) -> Answer<Vec<(String, String)>> {
        let user = table.shape.selected(table.user);
        let mut equal = Vec::new();
        let mut chunks: Vec<Vec<String>> = names.chunks(NAMES).map(<[String]>::to_vec).collect();
        while let Some(names) = chunks.pop() {
            let Some(of) = of.clone().among(table.user, &names, table.shape) else {
                continue;
            };
            let table_name = quoted(table.name);
            let sql = format!("SELECT {user} FROM {table_name} WHERE {}", of.sql);
            let halves = names
                .chunks(names.len().div_ceil(2))
                .map(<[String]>::to_vec);
            let users: BTreeSet<String> = match self.sql.rows(&sql, of.values).await {
                Ok(rows) => rows.iter().map(|row| table.shape.user_of(row)).collect(),
                // A value may be beyond the character set of the column.
                Err(AttachError::Refused { .. }) => {
                    chunks.extend(halves.filter(|_| names.len() > 1));
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let [name] = names.as_slice() {
                equal.extend(users.into_iter().map(|user| (name.clone(), user)));
            } else if names.iter().any(|name| users.contains(name)) {
                let (same, others): (Vec<String>, Vec<String>) =
                    names.into_iter().partition(|name| users.contains(name));
                equal.extend(same.into_iter().map(|name| (name.clone(), name)));
                chunks.push(others);
            } else if !users.is_empty() {
                chunks.extend(halves);
            }
        }
        Ok(equal)
    }

    /// Users whom MySQL compares as equal are one user with several rows. The spelling that is a
    /// member, or else the first, stands for the user; the others move from `missing` to `twice`.
    async fn match_missing(&mut self, sets: &mut UserSets) -> Answer<()> {
        let names: Vec<String> = sets.missing.iter().cloned().collect();
        let user = quoted(&self.target.campaign.rows.user);
        let several = format!("GROUP BY {user} HAVING COUNT(DISTINCT CAST({user} AS BINARY)) > 1");
        for names in names.chunks(NAMES) {
            let of = self.of_rows();
            for name in self.users_among(names, of, &several).await? {
                let all: BTreeSet<String> = self.spellings(&[name]).await?.into_iter().collect();
                let has_member = !all.is_subset(&sets.missing);
                for other in all.into_iter().skip(usize::from(!has_member)) {
                    if sets.missing.remove(&other) {
                        sets.twice.insert(other);
                    }
                }
            }
        }
        Ok(())
    }

    /// The rows of the target with any values of those columns of `where` that change later, such
    /// as a status; `None` if `where` has no such column.
    pub fn of_any_state(&self) -> Option<Condition> {
        let rows = &self.target.campaign.rows;
        let changing = self.target.campaign.changing();
        let mut of = rows.of.clone();
        of.retain(|name, _| !changing.contains(&name));
        let all = Condition::new(&of, &self.target, &self.shape.rows);
        (!changing.is_empty()).then_some(all)
    }

    /// Whether [`of_rows`](Self::of_rows) leaves out rows that it may have selected before: those
    /// of another state, and those without a user. A comparison with NULL is not true, either.
    pub async fn leaves_out_rows(&mut self) -> Answer<bool> {
        let rows = &self.target.campaign.rows;
        let all = self
            .of_any_state()
            .unwrap_or_else(|| Condition::new(&rows.of, &self.target, &self.shape.rows));
        let Condition { sql, values } = self.of_rows();
        let left_out = all.and(&format!("({sql}) IS NOT TRUE"), values);
        Ok(!self.select("1", left_out, "LIMIT 1").await?.is_empty())
    }

    /// Leaves out users who have a row of another state: their coupon may have been taken back.
    async fn leave_out_taken_back(&mut self, sets: &mut UserSets) -> Answer<()> {
        let Some(of) = self.of_any_state() else {
            return Ok(());
        };
        let members = sets.unissued.keys().cloned().collect();
        for (user, _) in self.equal_users(members, self.row_users(), &of).await? {
            sets.unissued.remove(&user);
            sets.taken_back.insert(user);
        }
        Ok(())
    }

    /// Reads all rows, and collects users with several rows and, if there is a users' key, users
    /// who are not members.
    async fn rows(&mut self, has_users: bool, seen: &mut Seen, sets: &mut UserSets) -> Answer<()> {
        let rows = &self.target.campaign.rows;
        let shape = &self.shape.rows;
        let mut last = Vec::new();
        loop {
            let of = self.of_rows().after(&shape.key, &last);
            let page = self.page(&rows.table, &rows.user, shape, of).await?;
            let is_last = page.len() < ROWS;
            for (key, user) in page {
                last = key;
                let before = seen.note(user.as_bytes(), ROW);
                let names = if before & ROW != 0 {
                    &mut sets.twice
                } else if has_users && before & MEMBER == 0 {
                    &mut sets.missing
                } else {
                    continue;
                };
                if names.len() < NAMED {
                    names.insert(user);
                } else if before & ROW == 0 {
                    // Users with several rows change no number of coupons, so not all of them are
                    // needed.
                    sets.is_cut = true;
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    /// Reads a page of a table: the key and the user of each row.
    async fn page(
        &mut self,
        table: &str,
        user: &str,
        shape: &TableShape,
        of: Condition,
    ) -> Answer<Vec<(Vec<Value>, String)>> {
        let names: Vec<String> = shape.key.iter().map(|name| quoted(name)).collect();
        let key = names.join(", ");
        let table = quoted(table);
        let selected = shape.selected(user);
        let sql = format!(
            "SELECT {selected}, {key} FROM {table} WHERE {} ORDER BY {key} LIMIT {ROWS}",
            of.sql
        );
        let rows = self
            .sql
            .rows(&sql, of.values)
            .await?
            .into_iter()
            .map(|row| {
                let user = shape.user_of(&row);
                (row.unwrap().split_off(1), user)
            });
        Ok(rows.collect())
    }

    async fn note_members(&mut self, users: &Users<'_>, seen: &mut Seen) -> Answer<Census> {
        let mut census = Census::default();
        let each = |member: Vec<u8>, _| {
            if users.excepted.contains(&member) {
                return;
            }
            if let Some(user) = census.note(&users.members, member) {
                seen.note(user.as_bytes(), MEMBER);
            }
        };
        self.keys.scan(users.of.kind, &users.key, each).await?;
        Ok(census)
    }

    /// Returns which of these users are members.
    pub(crate) async fn members_among(
        &mut self,
        users: &BTreeSet<String>,
    ) -> Answer<BTreeSet<String>> {
        let mut found = BTreeSet::new();
        let Some(Users {
            of, key, members, ..
        }) = self.users().await?
        else {
            return Ok(found);
        };
        let each = |member: Vec<u8>, _| {
            let user = members.decode(&member).map(|it| it.0);
            found.extend(user.filter(|user| users.contains(user)));
        };
        self.keys.scan(of.kind, &key, each).await?;
        Ok(found)
    }

    /// Collects the first [`NAMED`] members without a row. Returns, by user, those in a spelling
    /// that [`Members::all`] does not list.
    async fn name_unissued(
        &mut self,
        users: &Users<'_>,
        seen: &Seen,
        sets: &mut UserSets,
    ) -> Answer<BTreeMap<String, Vec<u8>>> {
        let is_hash = users.of.kind == KeyType::Hash;
        let mut first = First::new(NAMED);
        let each = |member: Vec<u8>, value: Option<Vec<u8>>| {
            if users.excepted.contains(&member) {
                return;
            }
            let Some((user, _)) = users.members.decode(&member) else {
                return;
            };
            if seen.flags(user.as_bytes()) & ROW != 0 {
                return;
            }
            let is_odd = !users.members.all(&user).contains(&member);
            first.add(Unissued {
                score: score(value.filter(|_| !is_hash)),
                odd: is_odd.then_some(member),
                user,
            });
        };
        self.keys.scan(users.of.kind, &users.key, each).await?;
        let (members, is_cut) = first.end();
        sets.is_cut |= is_cut;
        let mut odd = BTreeMap::new();
        for Unissued {
            user,
            score,
            odd: member,
        } in members
        {
            odd.extend(member.map(|member| (user.clone(), member)));
            sets.unissued.insert(user, score);
        }
        Ok(odd)
    }

    /// Leaves out users for whom a failed event records a refusal: their system may add a user to
    /// Redis before it refuses.
    async fn leave_out_refused(&mut self, sets: &mut UserSets) -> Answer<()> {
        let (Some(failed), Some(shape)) = (&self.target.campaign.failed, &self.shape.failed) else {
            return Ok(());
        };
        let Some(refused) = refused(failed, shape, &self.target) else {
            return Ok(());
        };
        let table = failed_users(failed, shape);
        let members = sets.unissued.keys().cloned().collect();
        for (user, _) in self.equal_users(members, table, &refused).await? {
            sets.unissued.remove(&user);
            sets.refused.insert(user);
        }
        Ok(())
    }

    /// Finds the events of users who have a row in another spelling.
    async fn match_rows(&mut self, events: &mut [FailedEvent]) -> Answer<()> {
        let without_row: BTreeSet<String> = events
            .iter()
            .filter(|it: &&FailedEvent| !it.has_row)
            .map(|it| it.user.clone())
            .collect();
        let users = without_row.into_iter().collect();
        let of = self.of_rows();
        let equal = self.equal_users(users, self.row_users(), &of).await?;
        let with_row: BTreeSet<String> = equal.into_iter().map(|(user, _)| user).collect();
        for event in events {
            event.has_row |= with_row.contains(&event.user);
        }
        Ok(())
    }

    /// Finds the events of members without a row in another spelling. They then name the user as
    /// Redis does.
    async fn match_members(&mut self, events: &mut [FailedEvent], sets: &UserSets) -> Answer<()> {
        let (Some(failed), Some(shape)) = (&self.target.campaign.failed, &self.shape.failed) else {
            return Ok(());
        };
        if !events.iter().any(FailedEvent::is_of_stranger) {
            return Ok(());
        }
        let known: BTreeSet<&String> = events.iter().map(|it| &it.user).collect();
        let without_event: Vec<String> = sets
            .unissued
            .keys()
            .filter(|it| !known.contains(it))
            .cloned()
            .collect();
        let of = open(failed, shape, &self.target);
        let equal = self
            .equal_users(without_event, failed_users(failed, shape), &of)
            .await?;
        let members: BTreeMap<String, String> = equal
            .into_iter()
            .map(|(member, user)| (user, member))
            .collect();
        for event in events.iter_mut().filter(|it| it.is_of_stranger()) {
            if let Some(member) = members.get(&event.user) {
                event.user.clone_from(member);
                event.is_member = Some(true);
            }
        }
        Ok(())
    }

    /// Reads the open failed events in the order of the primary key, [`NAMED`] at most.
    async fn failed(&mut self) -> Answer<Vec<FailedEvent>> {
        let (Some(failed), Some(shape)) = (&self.target.campaign.failed, &self.shape.failed) else {
            return Ok(Vec::new());
        };
        let mut all = Vec::new();
        let mut last = Vec::new();
        while all.len() < NAMED {
            let of = open(failed, shape, &self.target).after(&shape.key, &last);
            let page = self.page(&failed.table, &failed.user, shape, of).await?;
            let is_last = page.len() < ROWS;
            all.extend(page.into_iter().map(|(key, user)| FailedEvent {
                key,
                user,
                has_row: false,
                is_member: None,
            }));
            let end = all.last().map(|event| event.key.clone());
            last = end.unwrap_or_default();
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Returns the users of the last rows, at most this number.
    async fn last_rows(&mut self, number: u64) -> Answer<Vec<String>> {
        if number == 0 {
            return Ok(Vec::new());
        }
        let rows = &self.target.campaign.rows;
        let order: Vec<String> = rows
            .order
            .iter()
            .chain(&self.shape.rows.key)
            .map(|name| format!("{} DESC", quoted(name)))
            .collect();
        let rest = format!("ORDER BY {} LIMIT {number}", order.join(", "));
        let of = self.of_rows();
        self.users_of(of, &rest).await
    }
}

fn failed_users<'a>(failed: &'a FailedTable, shape: &'a TableShape) -> UserTable<'a> {
    UserTable {
        name: &failed.table,
        user: &failed.user,
        shape,
    }
}

/// Returns the score of a member of a sorted set.
fn score(value: Option<Vec<u8>>) -> Option<f64> {
    let text = String::from_utf8(value?).ok()?;
    text.parse().ok()
}

/// The failed events that are refusals, processed or not; `None` if the file has no `skip`.
fn refused(failed: &FailedTable, shape: &TableShape, target: &Target<'_>) -> Option<Condition> {
    let reasons: Vec<Condition> = failed
        .skip
        .iter()
        .map(|(name, reasons)| Condition::column(Is::OneOf, name, reasons, target, shape))
        .collect();
    if reasons.is_empty() {
        return None;
    }
    let any: Vec<&str> = reasons.iter().map(|it| it.sql.as_str()).collect();
    let any = format!("({})", any.join(" OR "));
    let values = reasons.into_iter().flat_map(|it| it.values);
    Some(Condition::new(&failed.selection(), target, shape).and(&any, values))
}

/// The open failed events of a target.
pub fn open(failed: &FailedTable, shape: &TableShape, target: &Target<'_>) -> Condition {
    let mut of = Condition::new(&failed.selection(), target, shape);
    for (name, reasons) in &failed.skip {
        of = of.and_also(Condition::column(Is::NoneOf, name, reasons, target, shape));
    }
    match &failed.done {
        Done::Word(_) => of,
        Done::Column { column, value } if value.text() == Some("{now}") => {
            of.and(&format!("{} IS NULL", quoted(column)), [])
        }
        Done::Column { column, value } => {
            of.and_also(Condition::column(Is::NoneOf, column, value, target, shape))
        }
    }
}

impl Look {
    /// The number of rows beyond the quantity.
    fn surplus_rows(&self) -> u64 {
        self.numbers.rows.saturating_sub(self.quantity)
    }

    fn are_respelled(&self) -> bool {
        self.respelled * 2 > self.in_both
    }

    fn sold(&self, means: Option<UsersMean>) -> Sold {
        let most = self.quantity.cast_signed();
        Sold {
            quantity: self.quantity,
            count: self.numbers.count.map(|count| count.clamp(0, most)),
            admitted: self.numbers.admitted(means),
            rows: self.numbers.rows,
        }
    }

    /// Returns the facts from both looks: a difference counts only if both saw it.
    pub fn and(&self, second: Self, target: &Target<'_>) -> Facts {
        let campaign = target.campaign;
        let users = campaign.users.as_ref();
        let has_no_users = users.is_some() && second.numbers.size.is_none();
        let has_no_count = campaign.count.is_some() && second.numbers.count.is_none();
        let means = users.map(|users| users.means);
        let is_selling = self.sold(means) != second.sold(means);
        let are_respelled = self.are_respelled() || second.are_respelled();
        let surplus_rows = self.surplus_rows().min(second.surplus_rows());
        let sets = second.sets.both(&self.sets);
        let in_flight = self.sets.unissued.len() - sets.unissued.len();
        let surplus = if self.surplus.is_empty() {
            Vec::new()
        } else {
            second.surplus
        };
        let has_stock_moved = self.stock != second.stock;
        let is_stock_wrong = second.stock.is_some_and(|it| it.says != it.due);
        let has_moved = self.sale != second.sale || has_stock_moved && is_stock_wrong;
        // `Value` has no order, but prints in one way only.
        let event = |event: &FailedEvent| format!("{:?} {}", event.key, event.user);
        let known: BTreeSet<String> = self.failed.iter().map(event).collect();
        let mut failed = second.failed;
        failed.retain(|it| known.contains(&event(it)));
        Facts {
            quantity: second.quantity,
            before: self.numbers,
            now: second.numbers,
            sets,
            is_selling,
            is_disjoint: second.is_disjoint,
            member: second.member,
            is_ordered: users.is_some_and(|users| users.kind == KeyType::SortedSet),
            is_over: target.is_over,
            has_expired: target.is_over && (has_no_users || has_no_count),
            means: means.filter(|_| second.numbers.size.is_some()),
            count_means: campaign.count.as_ref().map(|count| count.means),
            is_quantity_settled: campaign.quantity_sql.is_some(),
            in_both: self.in_both.min(second.in_both),
            are_respelled,
            stock: second.stock.filter(|it| self.stock == Some(*it)),
            sale: second.sale.filter(|it| self.sale == Some(*it)),
            has_moved,
            failed,
            unnamed_surplus: if surplus.is_empty() { surplus_rows } else { 0 },
            surplus,
            in_flight: in_flight as u64,
            unselected: None,
            leaves_out_rows: false,
            failing: HashSet::new(),
            may_double: false,
            added: HashSet::new(),
            dated_late: BTreeSet::new(),
        }
    }
}

/// Leaves out members that the column cannot hold as they are written, such as a placeholder among
/// numbers: they must not take a coupon from others.
fn leave_out_unstorable(sets: &mut UserSets, shape: &TableShape) {
    let unstorable = &mut sets.unstorable;
    sets.unissued.retain(|user, _| {
        let can_have_row = shape.user(user).is_some();
        if !can_have_row {
            unstorable.insert(user.clone());
        }
        can_have_row
    });
}

#[cfg(test)]
mod tests {
    use chrono::Utc;

    use super::*;
    use crate::config::AttachFile;
    use crate::judge::judge;
    use firstcome_shared::report::Unproven;

    const FILE: &str = r#"
database = "mysql://app@db/shop"
redis = "redis://cache"
[[campaign]]
name = "Winter"
quantity = 10
stock = { table = "stock", where = { id = 7 }, left = "remaining" }
rows = { table = "coupon", user = "user_id", where = { event_id = 7 } }
"#;

    /// A look at ten coupons, of which five are given out.
    fn look(stock_says: i64, sale: bool) -> Look {
        Look {
            ended: Instant::now(),
            quantity: 10,
            numbers: Numbers {
                size: None,
                count: None,
                rows: 5,
            },
            sets: UserSets::default(),
            odd: BTreeMap::new(),
            spelling: Spelling::Plain,
            is_disjoint: false,
            member: None,
            in_both: 0,
            respelled: 0,
            stock: Some(StockColumn {
                says: stock_says,
                due: 5,
            }),
            sale: Some(sale),
            failed: Vec::new(),
            surplus: Vec::new(),
        }
    }

    #[test]
    fn stock_or_sale_that_moved_is_unclear_unless_the_stock_is_right_now() {
        let file = AttachFile::parse(FILE).unwrap();
        let target = file.campaigns[0].drops(Utc::now())[0];
        for (first, second, differs, is_unclear) in [
            (look(5, true), look(5, true), false, false),
            (look(4, true), look(3, true), false, true),
            (look(5, true), look(4, true), false, true),
            (look(4, true), look(5, true), false, false),
            (look(5, false), look(5, true), false, true),
            (look(4, true), look(4, true), true, false),
            (look(5, false), look(5, false), true, false),
        ] {
            let facts = first.and(second, &target);
            let judged = judge(&facts);
            assert_eq!(!judged.found.is_empty(), differs, "{facts:?}");
            assert_eq!(judged.counts_unclear, is_unclear, "{facts:?}");
        }
    }

    /// The keys of a campaign may expire after its end.
    #[test]
    fn campaign_whose_keys_have_expired_is_not_known_to_be_exact() {
        let stores = "users = { key = \"users\", type = \"set\" }\n\
            count = { key = \"count\", means = \"tickets\" }";
        let file = AttachFile::parse(&format!("{FILE}{stores}")).unwrap();
        let running = file.campaigns[0].drops(Utc::now())[0];
        let over = Target {
            is_over: true,
            ..running
        };
        let expired = Some(Unproven::KeysExpired);
        for (target, size, count, expected) in [
            (over, None, None, expired),
            (over, Some(5), None, expired),
            (over, None, Some(5), expired),
            (over, Some(5), Some(5), None),
            (running, Some(5), None, None),
        ] {
            let mut second = look(5, true);
            second.numbers.size = size;
            second.numbers.count = count;
            let facts = second.and(second.clone(), &target);
            assert_eq!(facts.unproven(), expected, "{size:?} {count:?}");
        }
    }
}
