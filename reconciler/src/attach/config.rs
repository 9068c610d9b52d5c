//! The file of `attach`: which keys and tables of a team's coupon system belong together. Parsed by
//! serde with unknown fields refused; every error names the campaign, the field, and what to write.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chrono::{DateTime, NaiveDate, TimeDelta, Utc};
use firstcome_shared::domain::{CouponId, DropId};
use firstcome_shared::schedule::Tz;
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

fn rows_per_second() -> u32 {
    20_000
}

/// One coupon of theirs.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    pub name: String,
    #[serde(default)]
    pub mode: Mode,
    pub quantity: Option<u64>,
    /// A SELECT of one number, for a quantity that they keep in a table.
    pub quantity_sql: Option<String>,
    /// Required with `{date}`: the zone in which their days begin.
    pub time_zone: Option<Tz>,
    /// Nobody can claim after this time, so no counter is reset then.
    #[serde(default, deserialize_with = "time")]
    pub ends: Option<DateTime<Utc>>,
    /// A difference younger than this may be a claim on its way.
    #[serde(default = "in_flight", deserialize_with = "duration")]
    pub in_flight: Duration,
    /// Repairs of one pass that need no confirmation.
    pub repair_limit: Option<u64>,
    pub users: Option<UsersKey>,
    pub count: Option<CountKey>,
    pub rows: RowsTable,
    pub failed: Option<FailedTable>,
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
    /// The value of a hash field that a repair writes.
    pub value: Option<String>,
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

/// The table with a row for each coupon that was issued.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RowsTable {
    pub table: String,
    pub user: String,
    /// Columns and values that select the rows of this campaign.
    #[serde(default, rename = "where")]
    pub of: BTreeMap<String, Scalar>,
    /// Further columns of a row that a repair inserts.
    #[serde(default)]
    pub insert: BTreeMap<String, Scalar>,
    /// The column that tells which rows came last.
    pub order: Option<String>,
    /// Needed in mode repair if no unique key of the table refuses a user's second row.
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
    pub of: BTreeMap<String, Scalar>,
    pub done: Done,
}

/// What marks a failed event as processed.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Done {
    /// `"delete"`: its row is deleted.
    Word(DoneWord),
    Column(DoneColumn),
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DoneWord {
    Delete,
}

/// The column that tells it; an event is open while it has another value or none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DoneColumn {
    pub column: String,
    pub value: Scalar,
}

/// Their stock row: repairs lock it, and lower what is left.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StockRow {
    pub table: String,
    #[serde(rename = "where")]
    pub of: BTreeMap<String, Scalar>,
    /// The column with the number of coupons left.
    pub left: Option<String>,
}

/// A value of a column. In texts `{date}` is the day of the drop; as an inserted value, `{now}` is
/// the time and `{uuid}` a new UUID.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Scalar {
    Flag(bool),
    Number(i64),
    Decimal(f64),
    Text(String),
}

fn in_flight() -> Duration {
    Duration::from_secs(60)
}

/// A pass waits this long between its looks, and a schedule counts as missed after five minutes.
const LONGEST_IN_FLIGHT: Duration = Duration::from_secs(240);

fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    let number = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let parsed = number.parse().ok().and_then(|n| match &text[number.len()..] {
        "ms" => Some(Duration::from_millis(n)),
        "s" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_secs(n.checked_mul(60)?)),
        _ => None,
    });
    let fits = |time: &Duration| (Duration::from_millis(1)..=LONGEST_IN_FLIGHT).contains(time);
    parsed.filter(fits).ok_or_else(|| {
        serde::de::Error::custom(format!("{text:?} is no time from 1ms to 240s: write \"60s\""))
    })
}

fn time<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DateTime<Utc>>, D::Error> {
    let text = toml::value::Datetime::deserialize(from)?.to_string();
    let parsed = DateTime::parse_from_rfc3339(&text).map_err(|_| {
        let why = "it needs a time and an offset: write ends = 2026-12-31T18:00:00+09:00";
        serde::de::Error::custom(why)
    })?;
    Ok(Some(parsed.to_utc()))
}

impl AttachFile {
    /// Reads and checks a file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let name = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("{name} can't be read"))?;
        Self::parse(&text).with_context(|| name.to_string())
    }

    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut file: Self = toml::from_str(text).map_err(|error| {
            let told = error.to_string();
            // serde cannot tell which form of `done` was meant.
            let hint = told.contains("untagged enum Done").then_some(
                "\nfailed.done: write \"delete\", or { column = \"resolved\", value = 1 }",
            );
            anyhow::anyhow!("{}{}", told.trim_end(), hint.unwrap_or_default())
        })?;
        file.database = from_environment(&file.database, "database")?;
        file.redis = from_environment(&file.redis, "redis")?;
        ensure!(file.max_rows_per_second > 0, "max_rows_per_second: write at least 1");
        let mut names = BTreeSet::new();
        for campaign in &file.campaigns {
            let name = &campaign.name;
            ensure!(names.insert(name), "two campaigns have the name {name:?}: rename one");
            campaign.check().with_context(|| format!("campaign {name:?}"))?;
        }
        ensure!(!names.is_empty(), "it has no [[campaign]]");
        Ok(file)
    }
}

fn from_environment(text: &str, field: &str) -> anyhow::Result<String> {
    let Some(name) = text.strip_prefix('$') else {
        return Ok(text.to_owned());
    };
    env::var(name).with_context(|| format!("{field} = \"${name}\": this variable is not set"))
}

impl Campaign {
    fn check(&self) -> anyhow::Result<()> {
        ensure!(
            (1..=100).contains(&self.name.chars().count()),
            "name: write 1 to 100 characters"
        );
        match (&self.quantity, &self.quantity_sql) {
            (Some(_), None) => {}
            (None, Some(sql)) => is_one_select(sql)?,
            (Some(_), Some(_)) => bail!("quantity and quantity_sql: leave one out"),
            (None, None) => bail!(
                "quantity is missing: write quantity = 100, or quantity_sql = \"SELECT total FROM event WHERE id = 7\""
            ),
        }
        ensure!(
            self.quantity.is_none_or(|n| u32::try_from(n).is_ok()),
            "quantity: write at most {}",
            u32::MAX
        );
        ensure!(
            self.users.is_some() || self.count.is_some(),
            "users or count is missing: write users = {{ key = \"…\", type = \"set\" }}, count = {{ key = \"…\", means = \"tickets\" }}, or both"
        );
        if let Some(users) = &self.users {
            let is_hash = users.kind == KeyType::Hash;
            ensure!(is_hash || users.value.is_none(), "users.value: leave it out: only a hash has values");
        }
        self.check_dates()?;
        self.check_repairs()
    }

    /// A key of a day is compared with the rows of that day only.
    fn check_dates(&self) -> anyhow::Result<()> {
        let users = self.users.as_ref().map(|users| ("users.key", &users.key));
        let count = self.count.as_ref().map(|count| ("count.key", &count.key));
        let keys: Vec<_> = users.into_iter().chain(count).collect();
        let dated = keys.iter().filter(|(_, key)| key.contains("{date")).count();
        if dated == 0 && !has_date(&self.rows.of) {
            return Ok(());
        }
        ensure!(dated == keys.len(), "{{date}} must stand in users.key and in count.key, or in neither");
        ensure!(self.time_zone.is_some(), "time_zone is missing: write time_zone = \"Asia/Seoul\"");
        ensure!(
            has_date(&self.rows.of),
            "rows.where names no day, so the rows of all days would be compared with the key of one: add {{ day = \"{{date}}\" }}"
        );
        ensure!(self.ends.is_none(), "ends: leave it out: a drop of a day ends with its day");
        let example = NaiveDate::default();
        for (field, key) in keys {
            let filled = fill(key, Some(example));
            ensure!(!filled.contains('{') || !filled.contains("date"), "{field} {key:?}: write {{date}} or {{date:%Y%m%d}}");
        }
        Ok(())
    }

    fn check_repairs(&self) -> anyhow::Result<()> {
        let rows = &self.rows;
        if let Some((column, _)) = rows.of.iter().find(|(column, _)| rows.insert.contains_key(*column)) {
            ensure!(
                rows.of.get(column) == rows.insert.get(column),
                "rows.insert.{column} differs from rows.where.{column}: an inserted row would not be found again; leave it out"
            );
        }
        ensure!(!rows.insert.contains_key(&rows.user), "rows.insert.{}: leave it out: it is the user", rows.user);
        if self.mode == Mode::Observe {
            return Ok(());
        }
        ensure!(
            rows.duplicates != Some(Duplicates::Locked) || self.stock.is_some(),
            "rows.duplicates = \"locked\" needs the row that their writers lock: write stock = {{ table = \"…\", where = {{ id = 7 }} }}"
        );
        if self.users.as_ref().is_some_and(|users| users.kind == KeyType::SortedSet) {
            ensure!(
                rows.order.is_some(),
                "rows.order is missing: a sorted set needs a score for each member that a repair adds; name a column with a time or a number"
            );
        }
        Ok(())
    }

    /// Returns its id in our tables: negative, so that it is no coupon of our own.
    pub fn coupon_id(&self) -> CouponId {
        CouponId(negative_id(&self.name))
    }

    /// Returns what a pass at this time compares: the campaign, or its drops of today and
    /// yesterday, whose last claims may have been on their way at midnight.
    pub fn drops(&self, now: DateTime<Utc>) -> Vec<Target<'_>> {
        let Some(zone) = self.time_zone.filter(|_| has_date(&self.rows.of)) else {
            let is_over = self.ends.is_some_and(|ends| now >= ends);
            return vec![Target { campaign: self, date: None, is_over }];
        };
        let today = now.with_timezone(&zone).date_naive();
        let day = |date, is_over| Target { campaign: self, date: Some(date), is_over };
        let yesterday = today - TimeDelta::days(1);
        vec![day(yesterday, true), day(today, false)]
    }
}

fn is_one_select(sql: &str) -> anyhow::Result<()> {
    let begins = sql.trim_start().get(..6).is_some_and(|word| word.eq_ignore_ascii_case("select"));
    ensure!(begins && !sql.contains(';'), "quantity_sql: write one SELECT of one number, without a semicolon");
    Ok(())
}

fn has_date(of: &BTreeMap<String, Scalar>) -> bool {
    of.values().any(|value| matches!(value, Scalar::Text(text) if text.contains("{date")))
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
        let date = self.date.map(|date| format!("\n{date}")).unwrap_or_default();
        DropId(negative_id(&format!("{}{date}", self.campaign.name)))
    }

    /// Returns the name of a key, or the text of a column.
    pub fn fill(&self, text: &str) -> String {
        fill(text, self.date)
    }

    pub fn name(&self) -> String {
        let date = self.date.map(|date| format!(" ({date})"));
        format!("{}{}", self.campaign.name, date.unwrap_or_default())
    }
}

/// Replaces `{date}` and `{date:FORMAT}`. An unknown format stays as it is.
fn fill(text: &str, date: Option<NaiveDate>) -> String {
    let (Some(date), Some(from)) = (date, text.find("{date")) else {
        return text.to_owned();
    };
    let Some(to) = text[from..].find('}').map(|at| from + at) else {
        return text.to_owned();
    };
    let format = text[from + 5..to].strip_prefix(':').unwrap_or("%Y-%m-%d");
    let mut day = String::new();
    if std::fmt::Write::write_fmt(&mut day, format_args!("{}", date.format(format))).is_err() {
        return text.to_owned();
    }
    format!("{}{day}{}", &text[..from], fill(&text[to + 1..], Some(date)))
}

/// The first 52 bits of a hash, negative: exact in JSON, and the id of no coupon or drop of ours.
fn negative_id(name: &str) -> i64 {
    let hash = Sha256::digest(format!("attach\n{name}"));
    let bits = hash[..8].iter().fold(0_u64, |bits, byte| (bits << 8) | u64::from(*byte));
    -(bits >> 12).cast_signed() - 1
}
