//! The file of `attach`: which keys and tables of a team's coupon system belong together. Unknown
//! fields are refused. An error names the line or the field, with the campaign if it concerns one,
//! and usually says what to write.

mod checks;
mod names;
mod stage;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::schedule::Tz;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use sha2::{Digest as _, Sha256};

use self::stage::Stages;
use crate::forms::{Form, Members};

use self::checks::apart;
pub(crate) use self::names::{has_part, may_be_taken_back, may_change_later};
pub use self::stage::Stage;

/// The version of the rules by which this program reads what [`AttachFile::mapping`] hashes. Raise
/// it if the same file now selects other rows, users or failed events, or if repairs write other
/// values: each campaign's repairs then wait until its mapping is trusted again.
const READING: u32 = 1;

/// The file that describes the attached system: its stores and its campaigns.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachFile {
    /// Address of their MySQL, or `$NAME` of an environment variable that holds it.
    pub database: String,
    /// Address of their Redis, likewise.
    pub redis: String,
    #[serde(default)]
    pub redis_cluster: bool,
    /// Brokers of their Kafka, likewise; needed if a queue names a topic.
    pub kafka: Option<String>,
    /// Properties of librdkafka, such as a login, likewise.
    pub kafka_properties: Option<String>,
    /// Maximum number of rows per second that our statements return or change in their MySQL.
    #[serde(default = "rows_per_second")]
    pub max_rows_per_second: u32,
    #[serde(rename = "campaign")]
    pub campaigns: Vec<Campaign>,
}

/// A coupon of the attached system, as a `[[campaign]]` of the file describes it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    pub name: String,
    #[serde(default)]
    pub mode: Mode,
    pub quantity: Option<u32>,
    /// A SELECT of one number, for a quantity that they keep in a table.
    pub quantity_sql: Option<String>,
    /// The zone of `{date}`, of `{now}`, and of times that become scores; required with `{date}`.
    /// `None`: that of their server.
    pub time_zone: Option<Tz>,
    /// Nobody can claim after this time. Rows are still inserted then, but nothing is written to
    /// Redis.
    pub ends: Option<DateTime<Utc>>,
    /// A difference younger than this may be a claim on its way.
    #[serde(default, deserialize_with = "seconds")]
    in_flight: Option<Duration>,
    /// If a pass has more repairs than this, all need a confirmation. `None`: a fifth of the
    /// quantity, or fifty if that is more.
    pub repair_limit: Option<u64>,
    pub users: Option<UsersKey>,
    pub count: Option<CountKey>,
    pub rows: RowsTable,
    pub failed: Option<FailedTable>,
    /// Their stock row, which repairs lock before they insert rows.
    pub stock: Option<StockRow>,
    /// The key in Redis that says that coupons are left.
    pub sale: Option<SaleKey>,
    /// The stages that a promise passes on its way to its row.
    #[serde(default, deserialize_with = "stages")]
    pub queue: Vec<Stage>,
    /// Columns of `rows.where` in which another campaign of the same table has no value in common.
    #[serde(skip)]
    pub(crate) told_apart_by: BTreeSet<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reads and reports, writes nothing to their stores.
    #[default]
    Observe,
    Repair,
}

/// The key in Redis that holds the users.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsersKey {
    pub key: String,
    #[serde(rename = "type")]
    pub kind: KeyType,
    #[serde(default)]
    pub means: UsersMean,
    /// The value of a user who is added to a hash; `None`: the value that the other users share.
    pub value: Option<String>,
    /// How their program writes users and, unless `key_form` is set, the key's name.
    #[serde(default)]
    pub form: Form,
    pub key_form: Option<Form>,
    /// The text around an id, as in `user:{id}`.
    pub member: Option<String>,
    /// Members that are not users, such as a placeholder that keeps the key alive.
    #[serde(default)]
    pub except: Vec<String>,
}

impl UsersKey {
    /// Returns the key's name as Redis has it.
    pub fn name(&self, target: &Target<'_>) -> Vec<u8> {
        let form = self.key_form.unwrap_or(self.form);
        form.key(&target.fill(&self.key))
    }

    /// Returns how its members are written.
    ///
    /// # Errors
    /// What to write instead of `member`.
    pub fn members(&self) -> Result<Members, String> {
        Members::new(self.form, self.member.as_deref())
    }

    /// Returns the spellings of each placeholder.
    pub fn excepted(&self, members: &Members) -> Vec<Vec<Vec<u8>>> {
        let names = self.except.iter();
        names
            .map(|name| {
                let mut spellings = members.all(name);
                spellings.push(name.as_bytes().to_vec());
                spellings
            })
            .collect()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum KeyType {
    #[serde(rename = "set")]
    Set,
    #[serde(rename = "sorted set")]
    SortedSet,
    #[serde(rename = "hash")]
    Hash,
}

/// What an entry in the users' key means for its user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsersMean {
    /// Each member was promised a coupon.
    #[default]
    Admitted,
    /// Each member asked for a coupon; the counter decided who got one.
    Applied,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountKey {
    pub key: String,
    /// The field that holds the counter, if the key is a hash.
    pub field: Option<String>,
    pub means: CountMeans,
    /// How the program writes the names of key and field. The number itself is always plain,
    /// because Redis increments it.
    #[serde(default)]
    pub form: Form,
}

impl CountKey {
    /// Returns the names of key and field as Redis has them.
    pub fn name(&self, target: &Target<'_>) -> CountName {
        let field = self.field.as_ref().map(|field| target.fill(field));
        CountName {
            key: self.form.key(&target.fill(&self.key)),
            field: field.map(|field| self.form.field(&field)),
        }
    }
}

/// Where a counter is in Redis.
#[derive(Debug, Clone)]
pub struct CountName {
    pub key: Vec<u8>,
    pub field: Option<Vec<u8>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum CountMeans {
    /// Every claim increments it, even one that is refused, so it may exceed the quantity.
    #[serde(rename = "tickets")]
    Tickets,
    /// The number of coupons given out: never more than the quantity.
    #[serde(rename = "issued")]
    Issued,
    /// The number of coupons that are left: never below 0 while nobody claims.
    #[serde(rename = "left")]
    Left,
    /// Every claim decrements it, even one that is refused, so it may fall below 0.
    #[serde(rename = "left tickets")]
    LeftTickets,
}

impl CountMeans {
    /// Whether it counts down from the quantity.
    pub fn is_left(self) -> bool {
        match self {
            Self::Tickets | Self::Issued => false,
            Self::Left | Self::LeftTickets => true,
        }
    }

    /// Whether it is exact while nobody claims, even after claims were refused.
    pub fn is_exact(self) -> bool {
        match self {
            Self::Tickets | Self::LeftTickets => false,
            Self::Issued | Self::Left => true,
        }
    }

    /// Converts the counter's value into coupons given out, and back.
    pub fn given(self, value: i64, quantity: i64) -> i64 {
        if self.is_left() {
            quantity.saturating_sub(value)
        } else {
            value
        }
    }
}

/// A key that says that something is left: it exists, it has this value, it is a set with this
/// member, or it is a hash with this field (which has `value`, if both are given).
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SaleKey {
    pub key: String,
    pub value: Option<String>,
    pub member: Option<String>,
    pub field: Option<String>,
    /// How the program writes the names of key and field, and the member.
    #[serde(default)]
    pub form: Form,
}

/// Columns and their values.
pub type Columns = BTreeMap<String, Scalar>;

/// The table with a row for each issued coupon.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsTable {
    pub table: String,
    pub user: String,
    /// Selects the rows of this campaign.
    #[serde(default, rename = "where")]
    pub of: Columns,
    /// Further columns of a row that a repair inserts.
    #[serde(default)]
    pub insert: Columns,
    /// The column that tells which rows came last, and from which the scores of added members
    /// follow.
    pub order: Option<String>,
    /// Columns that say neither which rows belong to this campaign nor whether a coupon was taken
    /// back.
    #[serde(default)]
    pub ignore: Vec<String>,
    /// Needed for repairs if no unique key of the table refuses a user's second row.
    pub duplicates: Option<Duplicates>,
}

/// What prevents a user's second row if no unique key does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Their writers lock the row of `stock` before they look for the user and insert.
    Locked,
    /// Nothing prevents it: a late message may write one, and the next pass reports it.
    Reported,
}

/// Their table of events that could not be processed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedTable {
    pub table: String,
    pub user: String,
    /// Selects the events of this campaign. Required for repairs if `rows` has a `where`: otherwise
    /// an event of another campaign could get a row of this one, or be closed as a duplicate.
    #[serde(rename = "where")]
    pub of: Option<Columns>,
    /// Events with one of these values are correct refusals, not promises.
    #[serde(default)]
    pub skip: Columns,
    /// Columns that do not say which events are of this campaign.
    #[serde(default)]
    pub ignore: Vec<String>,
    pub done: Done,
}

impl FailedTable {
    /// Returns what selects the events of this campaign.
    pub fn selection(&self) -> Columns {
        self.of.clone().unwrap_or_default()
    }
}

/// How a repair marks a failed event as processed: it deletes the event, or sets a column to a
/// value. While an event is open, that column is NULL or has another value; with `{now}` it is
/// NULL, and with `{null}` it is not.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "write done = \"delete\", or done = { column = \"resolved\", value = 1 }"
)]
pub enum Done {
    Word(Delete),
    Column { column: String, value: Scalar },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delete {
    Delete,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockRow {
    pub table: String,
    #[serde(rename = "where")]
    pub of: Columns,
    /// Its column that counts what is left.
    pub left: Option<String>,
    /// Its column that counts what was given out.
    pub given: Option<String>,
    /// `false`: no column of the stock row changes when a coupon's row is inserted.
    pub counts: Option<bool>,
}

impl StockRow {
    /// Returns the column that counts, and whether it counts down.
    pub fn column(&self) -> Option<(&str, bool)> {
        let left = self.left.as_deref().map(|name| (name, true));
        left.or_else(|| self.given.as_deref().map(|name| (name, false)))
    }
}

/// A value of a column. In a text, `{date}` is the day of the drop. The text `{null}` is NULL. As a
/// value that a repair writes, `{now}` is the current time, `{now+30d}` the same time of day 30
/// days later, `{uuid}` a new id, and `{random:16}` 16 random hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "write true, a whole number, or a text in quotes"
)]
pub enum Scalar {
    Flag(bool),
    Number(i64),
    Text(String),
    /// In `where` and `skip`: any of these. A row that is inserted gets the first.
    AnyOf(Vec<Scalar>),
}

impl Scalar {
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Text(text) if text == "{null}")
    }

    /// Whether NULL is among the values that a column may have.
    pub fn may_be_null(&self) -> bool {
        self.all().iter().any(Self::is_null)
    }

    /// The values that a column may have.
    pub fn all(&self) -> &[Self] {
        match self {
            Self::AnyOf(all) => all,
            one => std::slice::from_ref(one),
        }
    }

    /// The value that an inserted row gets.
    pub fn first(&self) -> &Self {
        self.all().first().unwrap_or(self)
    }

    /// The value as MySQL may compare it: 7 equals '7', true equals 1, and case is ignored.
    pub fn in_mysql(&self) -> String {
        match self.first() {
            Self::Flag(flag) => i64::from(*flag).to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.to_lowercase(),
            Self::AnyOf(_) => String::new(),
        }
    }

    /// The number of random digits that a value such as `{random:16}` asks for.
    pub fn random_digits(&self) -> Option<u8> {
        let length = self.text()?.strip_prefix("{random:")?.strip_suffix('}')?;
        length.parse().ok().filter(|it| (1..=64).contains(it))
    }

    /// The number of days from now: 0 for `{now}`, 30 for `{now+30d}`.
    pub fn days_from_now(&self) -> Option<u16> {
        match self.text()?.strip_prefix("{now")?.strip_suffix('}')? {
            "" => Some(0),
            later => later.strip_prefix('+')?.strip_suffix('d')?.parse().ok(),
        }
    }

    /// Whether it looks like a placeholder such as `{now}`, but is not one of the known ones.
    pub fn is_unknown_word(&self) -> bool {
        let Some(word) = self.text().and_then(|text| text.strip_prefix('{')) else {
            return false;
        };
        let Some(word) = word.strip_suffix('}') else {
            return false;
        };
        // A brace without a word after it is no placeholder: it may begin JSON.
        let is_word = word.starts_with(|first: char| first.is_ascii_alphabetic())
            && !word.contains(['"', '{', ' ']);
        let is_known = word == "uuid"
            || self.is_null()
            || word.starts_with("date")
            || self.days_from_now().is_some()
            || self.random_digits().is_some();
        is_word && !is_known
    }

    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Flag(_) | Self::Number(_) | Self::AnyOf(_) => None,
        }
    }
}

fn rows_per_second() -> u32 {
    20_000
}

fn stages<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Stage>, D::Error> {
    Stages::deserialize(from).map(Into::into)
}

const IN_FLIGHT: Duration = Duration::from_secs(60);
/// Shorter than [`IN_FLIGHT`], because a claim that waits in a queue is not in flight.
const IN_FLIGHT_BESIDE_QUEUE: Duration = Duration::from_secs(20);

/// Maximum sum of the `in_flight` waits before the first stage of a queue and after each stage, so
/// that at least half of [`PATIENCE`](crate::queue::PATIENCE) is left for what waits in the queue.
const LONGEST_BESIDE_QUEUE: Duration = Duration::from_secs(120);

/// Maximum of `in_flight`, for which a pass waits between its looks: a schedule counts as missed
/// after five minutes.
const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(240);

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(from)?;
    let number = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok());
    let time = number
        .and_then(|number| Duration::try_from_secs_f64(number).ok())
        .filter(|time| *time <= LONGEST_IN_FLIGHT);
    time.map(Some)
        .ok_or_else(|| D::Error::custom(format!("{text:?}: write seconds up to \"240s\"")))
}

impl AttachFile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path);
        let parsed = text
            .map_err(anyhow::Error::from)
            .and_then(|text| Self::parse(&text));
        parsed.with_context(|| path.display().to_string())
    }

    /// Whether any campaign is repaired.
    pub fn repairs(&self) -> bool {
        self.campaigns.iter().any(|it| it.mode == Mode::Repair)
    }

    /// Finds a campaign by its name, or by the name of one of its drops, which is what mails print.
    pub fn campaign(&self, name: &str) -> Option<&Campaign> {
        self.campaigns.iter().find(|it: &&Campaign| {
            let mut drops = it.drops(Utc::now()).into_iter();
            it.name == name || drops.any(|drop| drop.name() == name)
        })
    }

    /// Returns the names of its campaigns by their ids.
    pub fn names(&self) -> BTreeMap<CouponId, String> {
        let campaigns = self.campaigns.iter();
        campaigns
            .map(|it| (it.coupon_id(), it.name.clone()))
            .collect()
    }

    /// Returns the id of the campaign with this name; `None` without a name.
    ///
    /// # Errors
    /// A sentence, if the file has no such campaign.
    pub fn coupon_id(&self, name: Option<&String>) -> Result<Option<CouponId>, String> {
        let id = name.map(|name| {
            let campaign = self.campaign(name).map(Campaign::coupon_id);
            campaign.ok_or_else(|| format!("the file has no campaign {name:?}"))
        });
        id.transpose()
    }

    /// Replaces `$NAME` by the value of the environment variable.
    fn read_variables(&mut self) -> anyhow::Result<()> {
        let mut fields = vec![("database", &mut self.database), ("redis", &mut self.redis)];
        fields.extend(self.kafka.iter_mut().map(|it| ("kafka", it)));
        fields.extend(
            self.kafka_properties
                .iter_mut()
                .map(|it| ("kafka_properties", it)),
        );
        for (field, value) in fields {
            if let Some(name) = value.strip_prefix('$') {
                let found = std::env::var(name);
                *value = found.with_context(|| format!("{field}: ${name} is not set"))?;
            }
        }
        Ok(())
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut file: Self = toml::from_str(text).map_err(|mut error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or(text);
            // The error would quote the line, which may contain a password.
            error.set_input(None);
            let why = without_addresses(&error.to_string());
            anyhow::anyhow!("line {}: {why}", before.split('\n').count())
        })?;
        file.read_variables()?;
        ensure!(
            file.max_rows_per_second > 0,
            "max_rows_per_second: write at least 1"
        );
        ensure!(!file.campaigns.is_empty(), "it has no [[campaign]]");
        let mut names = BTreeSet::new();
        for (number, campaign) in file.campaigns.iter().enumerate() {
            let name = &campaign.name;
            ensure!(
                !name.contains("://"),
                "name of campaign {}: that is an address: it belongs to `database` or `redis`",
                number + 1
            );
            ensure!(
                names.insert(name),
                "two campaigns are named {name:?}: rename one"
            );
            campaign
                .check()
                .with_context(|| format!("campaign {name:?}"))?;
            ensure!(
                file.kafka.is_some() || !campaign.queue.iter().any(Stage::is_topic),
                "campaign {name:?}: queue: a topic needs its brokers: write kafka = \
                \"host:9092\" beside redis"
            );
            let others = &file.campaigns[..number];
            let same = others.iter().find(|other| campaign.overlaps(other));
            ensure!(
                same.is_none(),
                "campaign {name:?} has the users, counter, rows or failed events of campaign \
                {:?}: one would repair what belongs to the other. Give each separate keys, and \
                a column in `where` with other values",
                same.map_or(name, |other| &other.name)
            );
        }
        let all = file.campaigns.clone();
        for campaign in &mut file.campaigns {
            let others = all.iter().filter(|it| it.rows.table == campaign.rows.table);
            let columns = others.flat_map(|it| apart(&campaign.rows.of, &it.rows.of));
            campaign.told_apart_by = columns.cloned().collect();
        }
        Ok(file)
    }

    /// Returns a hash of what a campaign compares. Trust in its repairs ends when the hash changes.
    pub fn mapping(&self, campaign: &Campaign) -> String {
        self.mapping_as_read(READING, campaign)
    }

    fn mapping_as_read(&self, reading: u32, campaign: &Campaign) -> String {
        // Leave out the logins: they may change although the campaign stays the same.
        let kafka = self.kafka.as_ref().unwrap_or(&self.redis);
        let [database, redis, kafka] = [&self.database, &self.redis, kafka].map(|address| {
            let host = address.rsplit_once('@');
            host.map_or(address.as_str(), |(_, host)| host)
        });
        let Campaign {
            quantity_sql,
            time_zone,
            users,
            count,
            rows,
            failed,
            stock,
            sale,
            queue,
            ..
        } = campaign;
        let stores = format!("{database}\n{redis}\n{kafka}\n{quantity_sql:?}\n{time_zone:?}");
        // Another campaign of the same table may show that a flag in `where` is no status, and rows
        // are then read in another way.
        let changing = campaign.changing();
        let what = format!(
            "{stores}\n{users:?}\n{count:?}\n{rows:?}\n{changing:?}\n{failed:?}\n{stock:?}\n\
            {sale:?}\n{queue:?}"
        );
        let hash = Sha256::digest(format!("{reading}\n{what}"));
        hash[..16].iter().fold(String::new(), |mut text, byte| {
            _ = write!(text, "{byte:02x}");
            text
        })
    }
}

/// Removes addresses, which may contain a password, from a message that quotes a value.
fn without_addresses(text: &str) -> String {
    let mut words = text.split_inclusive(['"', '`', '\'', ' ', '\n']);
    words.by_ref().fold(String::new(), |mut safe, word| {
        let end = word.len() - word.chars().next_back().map_or(0, char::len_utf8);
        if word.contains("://") || word.contains('@') {
            safe.push('…');
            safe.push_str(word.get(end..).unwrap_or_default());
        } else {
            safe.push_str(word);
        }
        safe
    })
}

impl Campaign {
    /// Whether a repair may insert rows: a key or a table names users who were promised a coupon.
    pub fn inserts_rows(&self) -> bool {
        let users = self.users.as_ref();
        self.failed.is_some() || users.is_some_and(|it| it.means == UsersMean::Admitted)
    }

    /// Returns the time within which a claim that is in no queue becomes a row, or reaches the next
    /// stage.
    pub fn in_flight(&self) -> Duration {
        let usual = if self.queue.is_empty() {
            IN_FLIGHT
        } else {
            IN_FLIGHT_BESIDE_QUEUE
        };
        self.in_flight.unwrap_or(usual)
    }

    /// Whether it has one drop per day.
    fn is_daily(&self) -> bool {
        has_date(&self.rows.of)
    }

    /// Returns its id in our tables.
    pub fn coupon_id(&self) -> CouponId {
        CouponId::of_campaign(&self.name)
    }

    /// Returns what a pass at this time compares: the campaign, or its drops of today and
    /// yesterday, whose last claims may have been on their way at midnight.
    pub fn drops(&self, now: DateTime<Utc>) -> Vec<Target<'_>> {
        let target = |date, is_over| Target {
            campaign: self,
            date,
            is_over,
        };
        let Some(zone) = self.time_zone.filter(|_| self.is_daily()) else {
            return vec![target(None, self.ends.is_some_and(|ends| now >= ends))];
        };
        let today = zone.local(now).date_naive();
        let yesterday = today - TimeDelta::days(1);
        vec![target(Some(yesterday), true), target(Some(today), false)]
    }
}

fn has_date(columns: &Columns) -> bool {
    let mut values = columns.values();
    values.any(|value| value.text().is_some_and(|text| text.contains("{date")))
}

/// What is compared and repaired at once: a campaign, or its drop of one day.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub campaign: &'a Campaign,
    pub date: Option<NaiveDate>,
    /// Users can no longer claim.
    pub is_over: bool,
}

impl Target<'_> {
    pub fn drop_id(&self) -> DropId {
        DropId::of_campaign(&self.campaign.name, self.date)
    }

    pub fn name(&self) -> String {
        let date = self
            .date
            .map(|date| format!(" ({date})"))
            .unwrap_or_default();
        format!("{}{date}", self.campaign.name)
    }

    /// Replaces each `{date}` and `{date:%Y%m%d}` in the name of a key or the text of a column. An
    /// invalid format stays as it is.
    pub fn fill(&self, text: &str) -> String {
        let Some(date) = self.date else {
            return text.to_owned();
        };
        let mut parts = text.split("{date");
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let Some((format, after)) = part.split_once('}') else {
                filled.push_str("{date");
                filled.push_str(part);
                continue;
            };
            let pattern = format.strip_prefix(':').unwrap_or("%Y-%m-%d");
            let before = filled.len();
            if write!(filled, "{}", date.format(pattern)).is_err() {
                filled.truncate(before);
                filled.extend(["{date", format, "}"]);
            }
            filled.push_str(after);
        }
        filled
    }

    /// The offset of the campaign's time zone from UTC, in MySQL's notation.
    pub fn offset(&self, now: DateTime<Utc>) -> Option<String> {
        let zone = self.campaign.time_zone?;
        Some(zone.local(now).format("%:z").to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::{AttachFile, READING};

    /// Returns a file with a campaign for each value of a flag.
    fn file(flags: &[bool]) -> AttachFile {
        let stores = "database = \"mysql://app@db/shop\"\nredis = \"redis://cache\"\n".to_owned();
        let campaign = |flag| {
            format!(
                r#"
                [[campaign]]
                name = "Winter {flag}"
                quantity = 100
                users = {{ key = "users:{flag}", type = "set" }}
                rows = {{ table = "coupon", user = "user_id", where = {{ is_vip = {flag} }} }}
                "#
            )
        };
        let campaigns = flags.iter().map(campaign);
        AttachFile::parse(&campaigns.fold(stores, |all, campaign| all + &campaign)).unwrap()
    }

    #[test]
    fn mapping_changes_if_another_campaign_is_told_apart_by_a_flag() {
        let [alone, beside] = [&[false][..], &[false, true]].map(file);
        let mapping = |file: &AttachFile| file.mapping(&file.campaigns[0]);
        assert_ne!(mapping(&alone), mapping(&beside));
    }

    #[test]
    fn mapping_that_is_read_by_other_rules_is_another_mapping() {
        let file = file(&[false]);
        let campaign = &file.campaigns[0];
        let trusted = file.mapping_as_read(READING, campaign);
        assert_eq!(file.mapping(campaign), trusted);
        assert_ne!(file.mapping_as_read(READING + 1, campaign), trusted);
    }
}
