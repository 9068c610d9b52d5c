//! The file: the statements and keys of a team's coupon system (docs/ATTACH.md). Unknown words are
//! refused. An error names the campaign and the field, and says what to write.

mod keys;
mod refusals;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use firstcome_shared::domain::CouponId;
use firstcome_shared::hash::hash64;
use jiff::SignedDuration;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use toml::{Table, Value};

use crate::text::Statement;

pub use self::keys::{CountKey, Counts, KeyKind, Stage, UsersKey, fill};

/// The stores and the campaigns. A check of the whole file is a campaign that has nothing else.
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
    checks: Vec<CheckWords>,
}

/// A `[[campaign]]`: one coupon, or with `each` one for each row that it selects.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Campaign {
    pub name: String,
    /// Selects id, name and quantity of each campaign.
    pub each: Option<Statement>,
    pub quantity: Option<u64>,
    /// Who was promised a coupon.
    pub promised: Option<Promised>,
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
    /// Only in a check of the whole file.
    #[serde(skip)]
    pub whole: Option<WholeCheck>,
    /// Identifies the block's text and stores, for confirmations.
    #[serde(skip)]
    pub fingerprint: u64,
}

/// What a check of the whole file has beside its statement.
#[derive(Debug, Clone)]
pub struct WholeCheck {
    /// What an operator does if it returns rows.
    pub to_do: String,
    pub every: Duration,
    /// Another database than that of the file, such as a replica.
    pub database: Option<String>,
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
#[derive(Debug, Clone)]
pub enum Promised {
    Keys(Vec<UsersKey>),
    Select(Statement),
}

/// Where claims are that their consumer could not process.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "failed: a SELECT, or { topic = …, user = …, where = { … } }"
)]
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
struct CheckWords {
    name: String,
    sql: Statement,
    to_do: String,
    #[serde(default, deserialize_with = "duration")]
    every: Option<Duration>,
    database: Option<String>,
}

impl From<CheckWords> for Campaign {
    fn from(words: CheckWords) -> Self {
        Self {
            name: words.name,
            check: Some(vec![words.sql]),
            whole: Some(WholeCheck {
                to_do: words.to_do,
                every: words.every.unwrap_or(Duration::from_secs(600)),
                database: words.database,
            }),
            ..Self::default()
        }
    }
}

impl Campaign {
    /// Returns the id under which the block is recorded.
    pub fn coupon_id(&self) -> CouponId {
        match self.whole {
            None => CouponId::of_campaign(&self.name),
            Some(_) => CouponId::of_campaign(&format!("check\n{}", self.name)),
        }
    }

    /// A difference younger than this may be a claim on its way.
    pub fn in_flight(&self) -> Duration {
        let default = if self.stages().is_empty() { 60 } else { 20 };
        self.in_flight.unwrap_or(Duration::from_secs(default))
    }

    /// Returns the keys of `promised`; none if it is a SELECT, or not described.
    pub fn keys(&self) -> &[UsersKey] {
        match &self.promised {
            Some(Promised::Keys(keys)) => keys,
            Some(Promised::Select(_)) | None => &[],
        }
    }

    /// Returns the stages; none if they are not described.
    pub fn stages(&self) -> &[Stage] {
        self.queue.as_deref().unwrap_or_default()
    }

    pub fn checks(&self) -> &[Statement] {
        self.check.as_deref().unwrap_or_default()
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
        let gone = refusals::gone(&table);
        ensure!(gone.is_empty(), "{}", gone.join("\n"));
        let mut file: Self = toml::from_str(text)?;
        let checks = std::mem::take(&mut file.checks);
        file.campaigns
            .extend(checks.into_iter().map(Campaign::from));
        file.fill_in_variables()?;
        let wrong = file.refusals();
        ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
        let addresses = [
            Some(&file.database),
            file.redis.as_ref(),
            file.kafka.as_ref(),
        ];
        // User and password may change while the store stays the same.
        let stores = addresses.map(|address| address.and_then(|it| it.rsplit('@').next()));
        let stores = format!("{stores:?}");
        let blocks = table.get("campaign").and_then(Value::as_array);
        for (campaign, block) in file.campaigns.iter_mut().zip(blocks.into_iter().flatten()) {
            campaign.fingerprint = hash64(format!("{stores}{block:?}"));
        }
        Ok(file)
    }

    /// Replaces `$NAME` by the variable of this name.
    fn fill_in_variables(&mut self) -> anyhow::Result<()> {
        let checks = self
            .campaigns
            .iter_mut()
            .filter_map(|campaign| campaign.whole.as_mut()?.database.as_mut());
        let optional = [&mut self.redis, &mut self.kafka, &mut self.kafka_properties];
        let addresses = optional.into_iter().filter_map(Option::as_mut);
        for address in addresses.chain([&mut self.database]).chain(checks) {
            if let Some(name) = address.strip_prefix('$') {
                *address = std::env::var(name)
                    .with_context(|| format!("the variable {name} is not set"))?;
            }
        }
        Ok(())
    }

    /// Returns the names of campaigns and checks by the ids under which they are recorded.
    pub fn names(&self) -> BTreeMap<CouponId, String> {
        let campaigns = self.campaigns.iter();
        campaigns
            .map(|campaign| (campaign.coupon_id(), campaign.name.clone()))
            .collect()
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

/// Reads a duration such as `"20s"`, `"10m"` or `"1h"`.
fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse::<SignedDuration>()
        .and_then(Duration::try_from)
        .map(Some)
        .map_err(|_| D::Error::custom(format!("{text:?} is no duration such as \"20s\"")))
}
