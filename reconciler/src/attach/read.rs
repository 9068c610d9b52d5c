//! Two looks at a target. The first compares everything: hashes of the members of the users' key
//! (16 bytes each, so that a million users fit in 64 MB) with the rows, page by page, and names
//! what differs. The second looks, after the time that a claim may be on its way, only at those
//! names and at the numbers. What both saw is a fact for [`judge`](super::judge).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::{BuildHasher as _, RandomState};

use mysql_async::Value;
use tokio::time::Instant;

use super::AttachError;
use super::check::{Shape, TableShape, text};
use super::config::{Done, FailedTable, Target, UsersKey, UsersMean};
use super::judge::{Facts, FailedEvent, Member, is_off};
use super::keys::{Keys, PAGE};
use super::sql::{Condition, Sql, bound, quoted};

/// Rows read per page.
const ROWS: usize = 2_000;

/// Users of one kind that a pass names and repairs. The next pass goes on.
pub const NAMED: usize = 100_000;

/// Failed events of one pass.
const FAILED: usize = 20_000;

/// Surplus rows that are named.
const SURPLUS: u64 = 1_000;

/// The numbers of a target.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Members of the users' key; `None` if there is no such key, or it expired after the end.
    pub size: Option<u64>,
    pub count: Option<i64>,
    pub rows: u64,
    /// What is left in their stock row.
    pub left: Option<i64>,
}

/// What the first look saw.
pub struct FirstLook {
    pub began: Instant,
    pub numbers: Numbers,
    pub quantity: u64,
    unissued: Vec<Member>,
    rowless: Vec<String>,
    twice: Vec<String>,
    failed: Vec<FailedEvent>,
    /// Differences beyond [`NAMED`].
    pub more: u64,
}

/// Reads one target.
pub struct Reader<'a> {
    pub target: Target<'a>,
    pub shape: &'a Shape,
    pub sql: &'a mut Sql,
    pub keys: &'a mut Keys,
}

/// The members of a key as keyed hashes, and which of them have a row. The keys are random, so
/// nobody can choose names that collide.
struct Members {
    states: [RandomState; 2],
    hashes: Vec<u128>,
    with_row: Vec<bool>,
}

impl Members {
    fn hash(&self, user: &[u8]) -> u128 {
        let [high, low] = [0, 1].map(|at| u128::from(self.states[at].hash_one(user)));
        high << 64 | low
    }

    fn find(&self, user: &[u8]) -> Option<usize> {
        self.hashes.binary_search(&self.hash(user)).ok()
    }
}

impl Reader<'_> {
    /// Returns the users' key, unless the target is over and the key has expired.
    async fn users(&mut self) -> Result<Option<(UsersKey, String, u64)>, AttachError> {
        let Some(users) = &self.target.campaign.users else {
            return Ok(None);
        };
        let key = self.target.fill(&users.key);
        let size = self.keys.size(users, &key).await?;
        let is_expired = self.target.is_over && size == 0;
        Ok((!is_expired).then(|| (users.clone(), key, size)))
    }

    pub fn of_rows(&self) -> Condition {
        Condition::of(&self.target.campaign.rows.of, &self.target)
    }

    /// Reads the quantity.
    pub async fn quantity(&mut self) -> Result<u64, AttachError> {
        let campaign = self.target.campaign;
        if let Some(quantity) = campaign.quantity {
            return Ok(quantity);
        }
        let sql = campaign.quantity_sql.as_deref().unwrap_or_default();
        let number = self.sql.number(sql, Vec::new()).await?;
        let number = number.and_then(|number| u32::try_from(number).ok());
        let no_number = || AttachError::Misfit("quantity_sql selects no number from 0 on".to_owned());
        number.map(u64::from).ok_or_else(no_number)
    }

    /// Reads the numbers, the users first: a system that counts before it adds a user then never
    /// shows more users than its counter.
    pub async fn numbers(&mut self, rows: Option<u64>) -> Result<Numbers, AttachError> {
        let size = self.users().await?.map(|(.., size)| size);
        let count = match &self.target.campaign.count {
            Some(count) => self.keys.count(&self.target.fill(&count.key)).await?,
            None => None,
        };
        let rows = match rows {
            Some(rows) => rows,
            None => self.count_rows().await?,
        };
        let left = self.left().await?;
        Ok(Numbers { size, count, rows, left })
    }

    pub async fn count_rows(&mut self) -> Result<u64, AttachError> {
        let table = quoted(&self.target.campaign.rows.table);
        let of = self.of_rows();
        let sql = format!("SELECT COUNT(*) FROM {table} WHERE {}", of.sql);
        let rows = self.sql.number(&sql, of.values).await?;
        Ok(rows.and_then(|rows| rows.try_into().ok()).unwrap_or_default())
    }

    async fn left(&mut self) -> Result<Option<i64>, AttachError> {
        let Some(stock) = &self.target.campaign.stock else {
            return Ok(None);
        };
        let Some(left) = &stock.left else {
            return Ok(None);
        };
        let of = Condition::of(&stock.of, &self.target);
        let sql = format!("SELECT {} FROM {} WHERE {}", quoted(left), quoted(&stock.table), of.sql);
        self.sql.number(&sql, of.values).await
    }

    /// Compares everything.
    pub async fn first(&mut self) -> Result<FirstLook, AttachError> {
        let began = Instant::now();
        let quantity = self.quantity().await?;
        let users = self.users().await?;
        let members = self.members(users.as_ref()).await?;
        let mut look = FirstLook {
            began,
            numbers: Numbers::default(),
            quantity,
            unissued: Vec::new(),
            rowless: Vec::new(),
            twice: Vec::new(),
            failed: self.failed().await?,
            more: 0,
        };
        let members = self.compare_rows(members, users.is_some(), &mut look).await?;
        let rows = look.numbers.rows;
        if let Some((users, key, _)) = &users
            && users.means == UsersMean::Admitted
            && members.with_row.contains(&false)
        {
            self.name_unissued(users, key, &members, &mut look).await?;
        }
        look.numbers = self.numbers(Some(rows)).await?;
        Ok(look)
    }

    async fn members(&mut self, users: Option<&(UsersKey, String, u64)>) -> Result<Members, AttachError> {
        let size = users.map_or(0, |(.., size)| *size);
        let mut members = Members {
            states: [RandomState::new(), RandomState::new()],
            hashes: Vec::with_capacity(usize::try_from(size).unwrap_or_default()),
            with_row: Vec::new(),
        };
        if let Some((users, key, _)) = users {
            let mut hashes = std::mem::take(&mut members.hashes);
            let each = |member: Vec<u8>, _| hashes.push(members.hash(&member));
            self.keys.scan(users, key, each).await?;
            hashes.sort_unstable();
            hashes.dedup();
            members.hashes = hashes;
        }
        members.with_row = vec![false; members.hashes.len()];
        Ok(members)
    }

    /// Reads all rows, and notes which members have one, who has one without being a member, and
    /// who has two.
    async fn compare_rows(
        &mut self,
        mut members: Members,
        has_users: bool,
        look: &mut FirstLook,
    ) -> Result<Members, AttachError> {
        let rows = &self.target.campaign.rows;
        let (table, user) = (rows.table.clone(), rows.user.clone());
        let key = self.shape.rows.key.clone();
        let mut strangers: HashMap<String, u32> = HashMap::new();
        let mut twice: HashSet<String> = HashSet::new();
        let mut last: Vec<Value> = Vec::new();
        loop {
            let of = self.of_rows().after(&key, &last);
            let page = self.page(&table, &user, &key, of, ROWS).await?;
            look.numbers.rows += page.len() as u64;
            for (_, name) in &page {
                let is_second = match members.find(name.as_bytes()) {
                    Some(at) => std::mem::replace(&mut members.with_row[at], true),
                    None if has_users && strangers.len() < NAMED => {
                        let rows = strangers.entry(name.clone()).or_default();
                        *rows += 1;
                        *rows > 1
                    }
                    None => {
                        look.more += u64::from(has_users);
                        false
                    }
                };
                if is_second && twice.len() < NAMED {
                    twice.insert(name.clone());
                }
            }
            let is_last = page.len() < ROWS;
            match page.into_iter().next_back() {
                Some((key, _)) if !is_last => last = key,
                _ => break,
            }
        }
        if !has_users && !self.shape.is_unique {
            twice.extend(self.doubles().await?);
        }
        look.rowless = strangers.into_keys().collect();
        look.twice = twice.into_iter().collect();
        Ok(members)
    }

    /// Returns users with two rows by MySQL's own grouping, if no key in Redis names the users.
    async fn doubles(&mut self) -> Result<Vec<String>, AttachError> {
        let rows = &self.target.campaign.rows;
        let (table, user) = (quoted(&rows.table), quoted(&rows.user));
        let of = self.of_rows();
        let sql = format!(
            "SELECT CAST({user} AS CHAR) FROM {table} WHERE {} GROUP BY {user} HAVING COUNT(*) > 1 LIMIT {SURPLUS}",
            of.sql
        );
        let rows = self.sql.rows(&sql, of.values).await?;
        Ok(rows.iter().map(|row| text(row, 0)).collect())
    }

    /// Reads a page of a table: the key and the user of each row.
    async fn page(
        &mut self,
        table: &str,
        user: &str,
        key: &[String],
        of: Condition,
        limit: usize,
    ) -> Result<Vec<(Vec<Value>, String)>, AttachError> {
        let key: Vec<String> = key.iter().map(|name| quoted(name)).collect();
        let key = key.join(", ");
        let sql = format!(
            "SELECT CAST({} AS CHAR), {key} FROM {} WHERE {} ORDER BY {key} LIMIT {limit}",
            quoted(user),
            quoted(table),
            of.sql
        );
        let rows = self.sql.rows(&sql, of.values).await?;
        let split = |row: mysql_async::Row| {
            let user = text(&row, 0);
            let mut values = row.unwrap();
            values.remove(0);
            (values, user)
        };
        Ok(rows.into_iter().map(split).collect())
    }

    async fn name_unissued(
        &mut self,
        users: &UsersKey,
        key: &str,
        members: &Members,
        look: &mut FirstLook,
    ) -> Result<(), AttachError> {
        let mut named: BTreeMap<String, Option<f64>> = BTreeMap::new();
        let mut more = 0;
        let each = |member: Vec<u8>, score: Option<f64>| {
            let has_row = members.find(&member).is_none_or(|at| members.with_row[at]);
            if has_row {
                return;
            }
            match String::from_utf8(member) {
                Ok(user) if named.len() < NAMED || named.contains_key(&user) => {
                    named.insert(user, score);
                }
                // What is no text cannot be named, but is not hidden either.
                _ => more += 1,
            }
        };
        self.keys.scan(users, key, each).await?;
        look.more += more;
        look.unissued = named.into_iter().map(|(user, score)| Member { user, score }).collect();
        Ok(())
    }

    /// Reads the open failed events, oldest key first.
    async fn failed(&mut self) -> Result<Vec<FailedEvent>, AttachError> {
        let (Some(failed), Some(shape)) = (&self.target.campaign.failed, &self.shape.failed) else {
            return Ok(Vec::new());
        };
        let (mut all, mut last) = (Vec::new(), Vec::new());
        while all.len() < FAILED {
            let of = open(failed, &self.target).after(&shape.key, &last);
            let page = self.page(&failed.table, &failed.user, &shape.key, of, ROWS).await?;
            let is_last = page.len() < ROWS;
            if let Some((key, _)) = page.last() {
                last.clone_from(key);
            }
            all.extend(page.into_iter().map(|(key, user)| FailedEvent {
                key,
                user,
                rows: 0,
                is_member: None,
            }));
            if is_last {
                break;
            }
        }
        Ok(all)
    }

    /// Looks again at what the first look saw, and returns what both saw.
    pub async fn second(&mut self, first: FirstLook) -> Result<Facts, AttachError> {
        let users = self.users().await?;
        let numbers = self.numbers(None).await?;
        let quantity = self.quantity().await?;
        let suspects = first.unissued.iter().map(|member| &member.user);
        let suspects = suspects.chain(&first.rowless).chain(&first.twice);
        let suspects = suspects.chain(first.failed.iter().map(|event| &event.user));
        let suspects: Vec<String> = suspects.cloned().collect::<HashSet<_>>().into_iter().collect();
        let rows = self.rows_of(&suspects).await?;
        let rows_of = |user: &str| rows.get(user).copied().unwrap_or_default();
        let mut members: HashMap<&str, bool> = HashMap::new();
        if let Some((users, key, _)) = &users {
            let asked = suspects.iter().map(String::as_str);
            let told = self.keys.are_members(users, key, asked).await?;
            members = suspects.iter().map(String::as_str).zip(told).collect();
        }
        let is_member = |user: &str| members.get(user).copied();
        let failed = self.still_open(first.failed).await?;
        let failed = failed.into_iter().map(|event| FailedEvent {
            rows: rows_of(&event.user),
            is_member: is_member(&event.user),
            ..event
        });
        let mut unissued = first.unissued;
        let suspected = unissued.len();
        unissued.retain(|it| is_member(&it.user) == Some(true) && rows_of(&it.user) == 0);
        let in_flight = suspected - unissued.len();
        let mut missing = first.rowless;
        missing.retain(|user| is_member(user) == Some(false) && rows_of(user) > 0);
        missing.sort_unstable();
        let mut twice: Vec<(String, u64)> = first.twice.into_iter().map(|user| (rows_of(&user), user))
            .filter_map(|(rows, user)| (rows > 1).then_some((user, rows)))
            .collect();
        twice.sort_unstable();
        let surplus = numbers.rows.saturating_sub(quantity);
        Ok(Facts {
            quantity,
            numbers,
            is_selling: numbers != first.numbers,
            is_over: self.target.is_over,
            means: users.map(|(users, ..)| users.means),
            count_means: self.target.campaign.count.as_ref().map(|count| count.means),
            failed: failed.collect(),
            unissued,
            missing,
            twice,
            surplus: self.surplus(surplus).await?,
            in_flight: in_flight as u64,
            more: first.more,
        })
    }

    /// Returns how many rows each of these users has.
    pub async fn rows_of(&mut self, users: &[String]) -> Result<HashMap<String, u64>, AttachError> {
        let rows = &self.target.campaign.rows;
        let (table, user) = (quoted(&rows.table), quoted(&rows.user));
        let mut all: HashMap<String, u64> = HashMap::new();
        let values: Vec<Value> = users.iter().filter_map(|user| self.shape.rows.user(user)).collect();
        for some in values.chunks(PAGE) {
            let marks = vec!["?"; some.len()].join(", ");
            let of = self.of_rows().and(&format!("{user} IN ({marks})"), some.to_vec());
            let sql = format!("SELECT CAST({user} AS CHAR) FROM {table} WHERE {}", of.sql);
            for row in self.sql.rows(&sql, of.values).await? {
                *all.entry(text(&row, 0)).or_default() += 1;
            }
        }
        Ok(all)
    }

    /// Keeps the failed events that nobody has processed since.
    async fn still_open(&mut self, events: Vec<FailedEvent>) -> Result<Vec<FailedEvent>, AttachError> {
        let (Some(failed), Some(shape)) = (&self.target.campaign.failed, &self.shape.failed) else {
            return Ok(Vec::new());
        };
        let key: Vec<String> = shape.key.iter().map(|name| quoted(name)).collect();
        let mark = format!("({})", vec!["?"; key.len()].join(", "));
        let mut open_events = Vec::new();
        for some in events.chunks(PAGE) {
            let marks = vec![mark.as_str(); some.len()].join(", ");
            let values = some.iter().flat_map(|event| event.key.clone());
            let of = open(failed, &self.target).and(&format!("({}) IN ({marks})", key.join(", ")), values);
            let page = self.page(&failed.table, &failed.user, &shape.key, of, some.len()).await?;
            let there: HashSet<String> = page.iter().map(|it| format!("{it:?}")).collect();
            let is_there = |event: &&FailedEvent| {
                there.contains(&format!("{:?}", (event.key.clone(), event.user.clone())))
            };
            open_events.extend(some.iter().filter(is_there).cloned());
        }
        Ok(open_events)
    }

    /// Names the users of the last rows.
    async fn surplus(&mut self, rows: u64) -> Result<Vec<String>, AttachError> {
        if rows == 0 {
            return Ok(Vec::new());
        }
        let campaign = &self.target.campaign.rows;
        let order = campaign.order.iter().chain(&self.shape.rows.key);
        let order: Vec<String> = order.map(|name| format!("{} DESC", quoted(name))).collect();
        let of = self.of_rows();
        let sql = format!(
            "SELECT CAST({} AS CHAR) FROM {} WHERE {} ORDER BY {} LIMIT {}",
            quoted(&campaign.user),
            quoted(&campaign.table),
            of.sql,
            order.join(", "),
            rows.min(SURPLUS)
        );
        let rows = self.sql.rows(&sql, of.values).await?;
        Ok(rows.iter().map(|row| text(row, 0)).collect())
    }
}

/// The open failed events of a target.
pub fn open(failed: &FailedTable, target: &Target<'_>) -> Condition {
    let of = Condition::of(&failed.of, target);
    match &failed.done {
        Done::Word(_) => of,
        Done::Column(done) => {
            let column = quoted(&done.column);
            let value = bound(&done.value, target);
            of.and(&format!("({column} IS NULL OR {column} <> ?)"), [value])
        }
    }
}

impl FirstLook {
    /// Whether a second look can find anything.
    pub fn differs(&self, target: &Target<'_>) -> bool {
        let Numbers { size, count, rows, left } = self.numbers;
        let is_named = !self.unissued.is_empty()
            || !self.rowless.is_empty()
            || !self.twice.is_empty()
            || !self.failed.is_empty();
        let admitted = size.filter(|_| {
            let users = target.campaign.users.as_ref();
            users.is_some_and(|users| users.means == UsersMean::Admitted)
        });
        let taken = rows.max(admitted.unwrap_or_default());
        let means = target.campaign.count.as_ref().map(|count| count.means);
        let is_count_off = means.is_some_and(|means| is_off(means, count, taken, self.quantity));
        let expected = self.quantity.saturating_sub(rows).cast_signed();
        let is_left_off = left.is_some_and(|left| left != expected);
        let is_more = self.more > 0 || rows > self.quantity || admitted > Some(self.quantity);
        is_named || is_count_off || is_left_off || is_more
    }
}
