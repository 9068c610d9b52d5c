//! The file of `attach`: which keys and tables of a team's coupon system belong together. Parsed by
//! serde with unknown fields refused; every error names the campaign, the field, and what to write.

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

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachFile {
    /// Address of their MySQL, or `$NAME` of an environment variable that holds it.
    pub database: String,
    /// Address of their Redis, likewise.
    pub redis: String,
    #[serde(default)]
    pub redis_cluster: bool,
    /// The most rows that their MySQL reads and writes for us in a second.
    #[serde(default = "rows_per_second")]
    pub max_rows_per_second: u32,
    #[serde(rename = "campaign")]
    pub campaigns: Vec<Campaign>,
}

/// One coupon of theirs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    pub name: String,
    #[serde(default)]
    pub mode: Mode,
    pub quantity: Option<u32>,
    /// A SELECT of one number, for a quantity that they keep in a table.
    pub quantity_sql: Option<String>,
    /// Required with `{date}`: the zone in which their days begin.
    pub time_zone: Option<Tz>,
    /// Nobody can claim after this time, so no counter is lowered then.
    pub ends: Option<DateTime<Utc>>,
    /// A difference younger than this may be a claim on its way.
    #[serde(default = "in_flight", deserialize_with = "seconds")]
    pub in_flight: Duration,
    /// Repairs of one pass that need no confirmation.
    pub repair_limit: Option<u64>,
    pub users: Option<UsersKey>,
    pub count: Option<CountKey>,
    pub rows: RowsTable,
    pub failed: Option<FailedTable>,
    /// Their stock row, which repairs lock.
    pub stock: Option<StockRow>,
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

/// What a member of the users' key was told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UsersMean {
    /// Each member was promised a coupon.
    #[default]
    Admitted,
    /// Each member asked for one; the counter decided.
    Applied,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountKey {
    pub key: String,
    pub means: CountMeans,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CountMeans {
    /// Everybody increments it, so it may run past the quantity.
    Tickets,
    /// The number of coupons given out: never more than the quantity.
    Issued,
}

/// Columns with a value each.
pub type Columns = BTreeMap<String, Scalar>;

/// The table with a row for each coupon that was issued.
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
    /// The column that tells which rows came last.
    pub order: Option<String>,
    /// Needed for repairs if no unique key of the table refuses a user's second row.
    pub duplicates: Option<Duplicates>,
}

/// How a second row of a user is prevented without a unique key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Duplicates {
    /// Their writers lock the row of `stock` before they look for the user and insert.
    Locked,
    /// It is not: a late message may write one, and the next pass reports it.
    Reported,
}

/// Their table of events that could not be processed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedTable {
    pub table: String,
    pub user: String,
    #[serde(default, rename = "where")]
    pub of: Columns,
    pub done: Done,
}

/// What marks a failed event as processed: `"delete"`, or a column that has another value, or none,
/// while the event is open.
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
}

/// A value of a column. In texts `{date}` is the day of the drop, and `{null}` is NULL; as an
/// inserted value, `{now}` is the time and `{uuid}` a new UUID.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(
    untagged,
    expecting = "write true, a whole number, or a text in quotes"
)]
pub enum Scalar {
    Flag(bool),
    Number(i64),
    Text(String),
}

impl Scalar {
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Text(text) if text == "{null}")
    }
}

fn rows_per_second() -> u32 {
    20_000
}

fn in_flight() -> Duration {
    Duration::from_secs(60)
}

/// A pass waits this long between its looks, and a schedule counts as missed after five minutes.
const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(240);

fn seconds<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let number = text
        .strip_suffix('s')
        .and_then(|number| number.parse().ok());
    let time = number.and_then(|number| Duration::try_from_secs_f64(number).ok());
    let time = time.filter(|time| *time <= LONGEST_IN_FLIGHT);
    time.ok_or_else(|| D::Error::custom(format!("{text:?}: write seconds up to \"240s\"")))
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

    /// Finds a campaign by its name, or by that of one of its drops, as mails print it.
    pub fn campaign(&self, name: &str) -> Option<&Campaign> {
        let is_named = |it: &&Campaign| {
            let mut drops = it.drops(Utc::now()).into_iter();
            it.name == name || drops.any(|drop| drop.name() == name)
        };
        self.campaigns.iter().find(is_named)
    }

    /// Returns the names of its campaigns by their ids.
    pub fn names(&self) -> BTreeMap<CouponId, String> {
        let campaigns = self.campaigns.iter();
        campaigns
            .map(|it| (it.coupon_id(), it.name.clone()))
            .collect()
    }

    /// Finds the id of a campaign that is named.
    ///
    /// # Errors
    /// A sentence, if there is none.
    pub fn coupon_id(&self, name: Option<&String>) -> Result<Option<CouponId>, String> {
        let id = name.map(|name| {
            let campaign = self.campaign(name).map(Campaign::coupon_id);
            campaign.ok_or_else(|| format!("the file has no campaign {name:?}"))
        });
        id.transpose()
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file = toml::from_str(text);
        let mut file: Self = file.map_err(|mut error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or(text);
            // The error would quote the line, which may have a password.
            error.set_input(None);
            anyhow::anyhow!("line {}: {error}", before.split('\n').count())
        })?;
        for (field, address) in [("database", &mut file.database), ("redis", &mut file.redis)] {
            if let Some(name) = address.strip_prefix('$') {
                let value = std::env::var(name);
                *address = value.with_context(|| format!("{field}: ${name} is not set"))?;
            }
        }
        ensure!(
            file.max_rows_per_second > 0,
            "max_rows_per_second: write at least 1"
        );
        ensure!(!file.campaigns.is_empty(), "it has no [[campaign]]");
        let mut names = BTreeSet::new();
        for (number, campaign) in file.campaigns.iter().enumerate() {
            let name = &campaign.name;
            ensure!(
                names.insert(name),
                "two campaigns are named {name:?}: rename one"
            );
            campaign
                .check()
                .with_context(|| format!("campaign {name:?}"))?;
            let others = &file.campaigns[..number];
            let same = others.iter().find(|other| campaign.overlaps(other));
            ensure!(
                same.is_none(),
                "campaign {name:?} has the users, counter, rows or failed events of campaign {:?}: one would repair what belongs to the other",
                same.map_or(name, |other| &other.name)
            );
        }
        Ok(file)
    }
}

impl Campaign {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            !self.name.is_empty() && self.name.len() <= 100,
            "name: write 1 to 100 bytes"
        );
        ensure!(
            self.quantity.is_some() != self.quantity_sql.is_some(),
            "quantity: write quantity = 100, or quantity_sql = \"SELECT total FROM event WHERE id = 7\""
        );
        let sql = self.quantity_sql.as_deref().unwrap_or("SELECT");
        let is_select = sql
            .get(..6)
            .is_some_and(|word| word.eq_ignore_ascii_case("select"));
        ensure!(
            is_select && !sql.contains(';'),
            "quantity_sql: write one SELECT of one number"
        );
        let keys = [
            self.users.as_ref().map(|users| &users.key),
            self.count.as_ref().map(|count| &count.key),
        ];
        let keys: Vec<&String> = keys.into_iter().flatten().collect();
        ensure!(
            !keys.is_empty(),
            "users: write users = {{ key = \"…\", type = \"set\" }}, or a count, or both"
        );
        let rows = &self.rows;
        let is_daily = self.is_daily();
        ensure!(
            keys.iter().all(|key| key.contains("{date") == is_daily),
            "{{date}} must stand in every key and in rows.where, or nowhere: a key of one day is compared with the rows of that day"
        );
        ensure!(
            !is_daily || self.time_zone.is_some(),
            "time_zone: write \"Asia/Seoul\""
        );
        ensure!(
            !is_daily || self.ends.is_none(),
            "ends: leave it out: a day ends by itself"
        );
        let failed = self.failed.as_ref();
        ensure!(
            !is_daily || failed.is_none_or(|failed| has_date(&failed.of)),
            "failed.where: write {{date}} here, too: an event of one day must not become a row of another"
        );
        let is_other = |(name, value): &(&String, &Scalar)| {
            rows.of.get(*name).is_some_and(|of| of != *value) || **name == rows.user
        };
        let other = rows.insert.iter().find(is_other).map(|it| it.0);
        ensure!(
            other.is_none(),
            "rows.insert: leave {other:?} out: where and user say it"
        );
        let is_repairing = self.mode == Mode::Repair;
        ensure!(
            !is_repairing || rows.duplicates != Some(Duplicates::Locked) || self.stock.is_some(),
            "duplicates = \"locked\" needs the row that their writers lock: write stock = {{ table = \"…\", where = {{ id = 7 }} }}"
        );
        let users = self.users.as_ref();
        let is_sorted = users.is_some_and(|it| it.kind == KeyType::SortedSet);
        ensure!(
            !is_repairing || !is_sorted || rows.order.is_some(),
            "rows.order: name a column: a member of a sorted set gets its time or number as score"
        );
        Ok(())
    }

    /// Whether it has the users, the counter, the rows or the failed events of another one.
    fn overlaps(&self, other: &Self) -> bool {
        let users = self.users.as_ref().zip(other.users.as_ref());
        let count = self.count.as_ref().zip(other.count.as_ref());
        let failed = self.failed.as_ref().zip(other.failed.as_ref());
        users.is_some_and(|(a, b)| a.key == b.key)
            || count.is_some_and(|(a, b)| a.key == b.key)
            || (&self.rows.table, &self.rows.of) == (&other.rows.table, &other.rows.of)
            || failed.is_some_and(|(a, b)| (&a.table, &a.of) == (&b.table, &b.of))
    }

    /// Whether it has a drop a day.
    fn is_daily(&self) -> bool {
        has_date(&self.rows.of)
    }

    /// Returns its id in our tables: negative, so that it is no coupon of our own.
    pub fn coupon_id(&self) -> CouponId {
        CouponId(negative_id(&self.name))
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
    values.any(|value| matches!(value, Scalar::Text(text) if text.contains("{date")))
}

/// What is compared and repaired at once: a campaign, or its drop of one day.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    pub campaign: &'a Campaign,
    pub date: Option<NaiveDate>,
    /// Nobody can claim any more.
    pub is_over: bool,
}

impl Target<'_> {
    pub fn drop_id(&self) -> DropId {
        DropId(negative_id(&format!(
            "{}\n{:?}",
            self.campaign.name, self.date
        )))
    }

    pub fn name(&self) -> String {
        let date = self
            .date
            .map(|date| format!(" ({date})"))
            .unwrap_or_default();
        format!("{}{date}", self.campaign.name)
    }

    /// Replaces `{date}` and `{date:%Y%m%d}` in the name of a key or the text of a column. A format
    /// that is none stays as it is.
    pub fn fill(&self, text: &str) -> String {
        let day = self.date.zip(text.split_once("{date"));
        let Some((date, (before, Some((format, after))))) =
            day.map(|(date, (before, rest))| (date, (before, rest.split_once('}'))))
        else {
            return text.to_owned();
        };
        let format = format.strip_prefix(':').unwrap_or("%Y-%m-%d");
        let mut filled = before.to_owned();
        match write!(filled, "{}{after}", date.format(format)) {
            Ok(()) => filled,
            Err(std::fmt::Error) => text.to_owned(),
        }
    }
}

/// The first 52 bits of a hash, negative: exact in JSON, and the id of no coupon or drop of ours.
fn negative_id(name: &str) -> i64 {
    let hash = Sha256::digest(format!("attach\n{name}"));
    let bits = hash[..8]
        .iter()
        .fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    -(bits >> 12).cast_signed() - 1
}
