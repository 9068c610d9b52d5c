//! The file: the statements and keys of a team's coupon system (docs/ATTACH.md). Unknown words are
//! refused. An error names the campaign and the field, and says what to write.

mod checks;
mod keys;
mod old;
mod stage;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use firstcome_shared::domain::CouponId;
use firstcome_shared::hash::hash64;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use crate::text::Statement;

pub use self::keys::{CountKey, Counts, HashValues, KeyKind, UsersKey, fill};
pub use self::stage::Stage;

/// The stores, the campaigns, and the checks of the whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachFile {
    /// Address of their MySQL, MariaDB or PostgreSQL, or `$NAME` of a variable that holds it.
    pub database: String,
    /// Address of their Redis, likewise. Not needed if only rows are checked.
    pub redis: Option<String>,
    #[serde(default)]
    pub redis_cluster: bool,
    /// Brokers of their Kafka, likewise.
    pub kafka: Option<String>,
    /// Properties of librdkafka, such as a login, likewise.
    pub kafka_properties: Option<String>,
    #[serde(default, rename = "campaign")]
    pub campaigns: Vec<Campaign>,
    #[serde(default, rename = "check")]
    pub checks: Vec<FileCheck>,
}

/// A `[[campaign]]`: one coupon, or with `each` one for each row that it selects.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    pub name: String,
    /// Selects id, name and quantity of each campaign.
    pub each: Option<Statement>,
    pub quantity: Option<u64>,
    /// Who was promised a coupon.
    #[serde(default)]
    pub promised: Promised,
    /// Selects every row that answers a promise: the user, and optionally how many coupons it
    /// counts.
    pub issued: Option<Statement>,
    /// Claims that their consumer could not process.
    pub failed: Option<Failed>,
    pub count: Option<CountKey>,
    /// The stages between their answer and the row. `None`: not described.
    pub queue: Option<Vec<Stage>>,
    #[serde(default, deserialize_with = "duration")]
    in_flight: Option<Duration>,
    #[serde(default)]
    pub mode: Mode,
    /// Closes a failed event.
    pub resolve: Option<Statement>,
    /// Writes a user's row.
    #[serde(default)]
    pub issue: Vec<Statement>,
    /// Statements that return no row while the campaign is right. `None`: not described.
    pub check: Option<Vec<Statement>>,
    /// Identifies the block's text and stores, for confirmations.
    #[serde(skip)]
    pub fingerprint: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Reads and reports.
    #[default]
    Observe,
    /// Also writes rows.
    Repair,
}

/// Where the users are who were promised a coupon.
#[derive(Debug, Clone, Default)]
pub enum Promised {
    #[default]
    NotDescribed,
    Keys(Vec<UsersKey>),
    Select(Statement),
}

/// Where claims are that their consumer could not process.
#[derive(Debug, Clone)]
pub enum Failed {
    /// Selects an event's id and its user.
    Select(Statement),
    Topic(FailedTopic),
}

/// A dead letter topic. It is read without a group, and nothing is committed.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FailedTopic {
    pub topic: String,
    /// JSON pointer to the user in a message.
    pub user: String,
    /// Values of other pointers in messages of this campaign.
    #[serde(default, rename = "where")]
    pub only: BTreeMap<String, String>,
}

/// A `[[check]]`: a SELECT that returns no row while nothing is wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileCheck {
    pub name: String,
    pub sql: Statement,
    /// What an operator does if it returns rows.
    pub to_do: String,
    #[serde(default, deserialize_with = "duration")]
    every: Option<Duration>,
    /// Another database than that of the file, such as a replica.
    pub database: Option<String>,
}

impl Campaign {
    /// Returns the id under which the block is recorded.
    pub fn coupon_id(&self) -> CouponId {
        CouponId::of_campaign(&self.name)
    }

    /// A difference younger than this may be a claim on its way.
    pub fn in_flight(&self) -> Duration {
        let has_stages = self.queue.as_ref().is_some_and(|stages| !stages.is_empty());
        let default = if has_stages { 20 } else { 60 };
        self.in_flight.unwrap_or(Duration::from_secs(default))
    }

    /// Returns the stages; none if they are not described.
    pub fn stages(&self) -> &[Stage] {
        self.queue.as_deref().unwrap_or_default()
    }

    pub fn checks(&self) -> &[Statement] {
        self.check.as_deref().unwrap_or_default()
    }
}

impl FileCheck {
    /// Returns the id under which the check is recorded.
    pub fn coupon_id(&self) -> CouponId {
        CouponId::of_campaign(&format!("check\n{}", self.name))
    }

    pub fn every(&self) -> Duration {
        self.every.unwrap_or(Duration::from_secs(600))
    }
}

impl AttachFile {
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| path.display().to_string())
    }

    /// # Errors
    /// Everything that is wrong, one line each.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let table: Table = toml::from_str(text)?;
        let old = old::words(&table);
        ensure!(old.is_empty(), "{}", old.join("\n"));
        let mut file: Self = toml::from_str(text)?;
        file.fill_in_variables()?;
        let wrong = checks::wrong(&file);
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let blocks = table.get("campaign").and_then(Value::as_array);
        let stores = [
            Some(&file.database),
            file.redis.as_ref(),
            file.kafka.as_ref(),
        ]
        .map(|address| address.map(|address| without_login(address)));
        let stores = format!("{stores:?}");
        for (campaign, block) in file.campaigns.iter_mut().zip(blocks.into_iter().flatten()) {
            campaign.fingerprint = hash64(format!("{stores}{block:?}"));
        }
        Ok(file)
    }

    /// Replaces `$NAME` by the variable of this name.
    fn fill_in_variables(&mut self) -> anyhow::Result<()> {
        let optional = [&mut self.redis, &mut self.kafka, &mut self.kafka_properties];
        let checks = self.checks.iter_mut().map(|check| &mut check.database);
        let optional = optional
            .into_iter()
            .chain(checks)
            .filter_map(Option::as_mut);
        for address in std::iter::once(&mut self.database).chain(optional) {
            if let Some(name) = address.strip_prefix('$') {
                *address = std::env::var(name)
                    .with_context(|| format!("the variable {name} is not set"))?;
            }
        }
        Ok(())
    }

    pub fn repairs(&self) -> bool {
        let mut campaigns = self.campaigns.iter();
        campaigns.any(|campaign| campaign.mode == Mode::Repair)
    }

    /// Returns the names of campaigns and checks by the ids under which they are recorded.
    pub fn names(&self) -> BTreeMap<CouponId, String> {
        let mut names = BTreeMap::new();
        for campaign in &self.campaigns {
            names.insert(campaign.coupon_id(), campaign.name.clone());
        }
        for check in &self.checks {
            names.insert(check.coupon_id(), check.name.clone());
        }
        names
    }

    /// # Errors
    /// If the file has no campaign of this name.
    pub fn coupon_id(&self, campaign: &str) -> Result<CouponId, String> {
        let found = self.campaigns.iter().find(|it| it.name == campaign);
        found
            .map(Campaign::coupon_id)
            .ok_or_else(|| format!("the file has no campaign {campaign:?}"))
    }
}

/// Returns an address without user and password, which may change while the store stays the same.
fn without_login(address: &str) -> &str {
    address.rsplit_once('@').map_or(address, |(_, host)| host)
}

impl<'de> Deserialize<'de> for Promised {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let promised = match Value::deserialize(deserializer)? {
            Value::String(text) => return Ok(Self::Select(Statement::new(&text))),
            Value::Array(keys) => keys,
            key => vec![key],
        };
        let keys: Result<_, _> = promised.into_iter().map(UsersKey::deserialize).collect();
        keys.map(Self::Keys).map_err(D::Error::custom)
    }
}

impl<'de> Deserialize<'de> for Failed {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => Ok(Self::Select(Statement::new(&text))),
            topic => FailedTopic::deserialize(topic)
                .map(Self::Topic)
                .map_err(D::Error::custom),
        }
    }
}

/// Reads a duration such as `"20s"`, `"10m"` or `"1h"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let unit = |unit: char, seconds: u64| {
        let number: u64 = text.strip_suffix(unit)?.trim().parse().ok()?;
        number.checked_mul(seconds).map(Duration::from_secs)
    };
    let read = unit('s', 1)
        .or_else(|| unit('m', 60))
        .or_else(|| unit('h', 3_600));
    read.map(Some)
        .ok_or_else(|| D::Error::custom(format!("{text:?} is no duration such as \"20s\"")))
}
