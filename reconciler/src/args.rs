//! Settings of the reconciler. Each is a flag, and most are also environment variables.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use chrono::Utc;
use clap::Args;
use croner::Cron;
use croner::parser::{CronParser, Seconds};
use firstcome_shared::config::{
    KafkaArgs, MysqlArgs, NumberOrUnset, PaceArgs, PublishArgs, RedisArgs, listen_address,
    number_or_unset, secret,
};
use firstcome_shared::http::Limits;
use firstcome_shared::http::ops::{OpsToken, check_tokens};
use firstcome_shared::http::probe::ProbeArgs;
use firstcome_shared::mysql::Db;
use firstcome_shared::redis::Redis;
use firstcome_shared::schedule::Tz;
use secrecy::SecretString;

use crate::context::{PassSettings, Stores};
use crate::notify::{NotifyArgs, WebhookArgs};
use crate::queries::processes::Deadlines;
use crate::report::Fingerprint;
use crate::times::Times;
use crate::topic::Topic;

/// The daemon's default `LISTEN_ADDR`.
pub(crate) const LISTEN_ADDR: &str = "127.0.0.1:8081";

/// Settings of `health`.
#[derive(Debug, Args)]
pub struct DaemonHealthArgs {
    #[command(flatten)]
    pub probe: ProbeArgs,
    /// Where the daemon listens
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub listen_addr: SocketAddr,
}

#[derive(Debug, Clone, Args)]
pub struct ReconcileArgs {
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
    #[command(flatten)]
    pub kafka: KafkaArgs,
    /// Maximum time for an admission to reach Kafka.
    #[command(flatten)]
    pub publish: PublishArgs,
    #[command(flatten)]
    pub pace: PaceArgs,
    /// For how many days records are kept (default: a year): runs with their findings, resolved
    /// promises and operators' actions; ended alerts at most 90 days, mails and resolved dead letters
    /// 30, runs with the result of the one before 1. If it is set, user ids in rows of sealed drops
    /// become pseudonyms after it and their codes useless, which cannot be undone
    #[arg(long, help_heading = "Reconciling", env = "RETENTION_DAYS", value_name = "DAYS", default_value = "", hide_default_value = true, value_parser = number_or_unset::<1, 36_500>)]
    pub retention_days: NumberOrUnset,
}

impl ReconcileArgs {
    /// Creates handles to all stores without connecting.
    pub fn stores(&self) -> anyhow::Result<Stores> {
        let db_settings = self.mysql.settings()?;
        let timeout = self.mysql.store_timeout();
        let redis = self.redis.settings(timeout, &self.mysql.tls)?;
        Ok(Stores {
            db: Db::new(&db_settings)?,
            db_settings,
            redis: Redis::new(&redis)?,
            topic: Topic::new(self.kafka.settings(&self.mysql.tls)?),
        })
    }

    pub fn settings(&self) -> PassSettings {
        let ms = |time: Duration| i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
        PassSettings {
            deadlines: Deadlines {
                publish_ms: ms(self.publish.deadline()),
                in_flight_ms: ms(self.publish.longest_in_flight()),
            },
            retention_days: self.retention_days.0,
            rows_per_second: self.pace.rows_per_second.0,
        }
    }
}

/// Settings of `daemon`.
#[derive(Debug, Clone, Args)]
pub struct DaemonArgs {
    #[command(flatten)]
    pub reconcile: ReconcileArgs,
    #[command(flatten)]
    pub schedules: ScheduleArgs,
    #[command(flatten)]
    pub http: DaemonHttpArgs,
    #[command(flatten)]
    pub notify: NotifyArgs,
    #[command(flatten)]
    pub webhooks: WebhookArgs,
}

/// When passes run.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Schedules (six fields: second minute hour day month weekday)")]
pub struct ScheduleArgs {
    /// Passes over everything that is not sealed
    #[arg(long, env = "RECONCILE_CRON", default_value = "*/30 * * * * *", value_parser = parse_cron)]
    pub reconcile_cron: Cron,
    /// Passes that include sealed drops
    #[arg(long, env = "DEEP_CRON", default_value = "0 30 3 * * *", value_parser = parse_cron)]
    pub deep_cron: Cron,
    /// The daily digest
    #[arg(long, env = "DIGEST_CRON", default_value = "0 0 0 * * *", value_parser = parse_cron)]
    pub digest_cron: Cron,
    /// Time zone of these schedules, an IANA name
    #[arg(long, env = "CRON_TIME_ZONE", default_value = "UTC")]
    pub cron_time_zone: Tz,
}

impl ScheduleArgs {
    pub(crate) fn in_zone(&self, cron: &Cron) -> Times {
        let cron = cron.clone();
        let zone = self.cron_time_zone;
        Times { cron, zone }
    }
}

/// Parses a cron expression with six fields, or one such as `@daily`, that has a future occurrence.
pub fn parse_cron(text: &str) -> Result<Cron, String> {
    let fields = text.split_whitespace().count();
    if fields != 6 && !(fields == 1 && text.starts_with('@')) {
        let wanted = "second minute hour day month weekday";
        return Err(format!("it has {fields} fields; six are needed: {wanted}"));
    }
    let parser = CronParser::builder()
        .seconds(Seconds::Required)
        .dom_and_dow(true)
        .build();
    let cron = parser
        .parse(text)
        .map_err(|error| format!("it cannot be read: {error}"))?;
    cron.find_next_occurrence(&Utc::now(), false)
        .map_err(|_| "it never comes".to_owned())?;
    Ok(cron)
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "HTTP")]
pub struct DaemonHttpArgs {
    /// Address to listen on
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address)]
    pub listen_addr: SocketAddr,
    /// Token of the operators, at least 32 characters; two separated by a comma while you replace
    /// it
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true, value_parser = secret(ops_token))]
    pub ops_token: SecretString,
    /// Token that can only read (default: none)
    #[arg(long, env = "OPS_VIEW_TOKEN", hide_env_values = true, value_parser = secret(ops_view_token))]
    pub ops_view_token: Option<SecretString>,
}

/// Maximum number of connections from operators and their browsers.
const CONNECTIONS: usize = 500;

/// The limits of the daemon's HTTP server.
pub(crate) fn limits() -> Limits {
    Limits {
        connections: CONNECTIONS,
        ..Limits::DEFAULT
    }
}

impl DaemonHttpArgs {
    /// Checks and returns the operators' tokens.
    pub fn token(&self) -> anyhow::Result<OpsToken> {
        let token = OpsToken::new(&self.ops_token, self.ops_view_token.as_ref());
        token.map_err(anyhow::Error::msg)
    }
}

pub(crate) fn ops_view_token(text: &str) -> Result<(), String> {
    check_tokens("OPS_VIEW_TOKEN", text)
}

pub(crate) fn ops_token(text: &str) -> Result<(), String> {
    check_tokens("OPS_TOKEN", text)
}

/// Settings of `once`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "This pass")]
pub struct OnceArgs {
    /// Dry run: change nothing, list the repairs
    #[arg(long)]
    pub dry_run: bool,
    /// Only this coupon
    #[arg(long, value_name = "ID")]
    pub coupon: Option<i64>,
    /// Only this drop
    #[arg(long, value_name = "ID")]
    pub drop: Option<i64>,
    /// Also examine empty drops, sealed drops and uses of codes
    #[arg(long)]
    pub deep: bool,
    /// Confirm the repairs above the repair limit that a dry run has shown with this fingerprint
    #[arg(long, value_name = "FINGERPRINT")]
    pub confirm: Vec<Fingerprint>,
    /// Print the run as JSON
    #[arg(long)]
    pub json: bool,
    /// Print user ids in full; the default masks them
    #[arg(long)]
    pub full_ids: bool,
    /// Write all findings, and the numbers before and after, to this file as CSV
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Maximum wait for a pass that is running elsewhere, in seconds
    #[arg(long, default_value_t = 60)]
    pub wait_seconds: u64,
    #[command(flatten)]
    pub reconcile: ReconcileArgs,
    #[command(flatten)]
    pub notify: NotifyArgs,
    #[command(flatten)]
    pub webhooks: WebhookArgs,
}

/// Settings of `explain`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Story")]
pub struct ExplainArgs {
    /// The coupon
    #[arg(long, value_name = "ID")]
    pub coupon: i64,
    /// The user
    #[arg(long, value_name = "ID")]
    pub user: String,
    /// The drop; by default the last one in which the user is known
    #[arg(long, value_name = "ID")]
    pub drop: Option<i64>,
    /// Print the history as JSON
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub mysql: MysqlArgs,
    #[command(flatten)]
    pub redis: RedisArgs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cron_expressions_are_parsed_or_refused_with_the_reason() {
        let next = |text: &str| {
            let cron = parse_cron(text).unwrap();
            let next = cron.find_next_occurrence(&chrono::DateTime::UNIX_EPOCH, false);
            next.unwrap().to_string()
        };
        assert_eq!(next("*/30 * * * * *"), "1970-01-01 00:00:30 UTC");
        assert_eq!(next("@daily"), "1970-01-02 00:00:00 UTC");
        assert_eq!(next("0 0 3 ? * MON"), "1970-01-05 03:00:00 UTC");
        for (text, says) in [
            ("30 3 * * *", "six are needed: second"),
            ("CRON_TZ=Asia/Seoul 0 0 3 * * *", "7 fields"),
            ("0 0 3 * * ? 2027", "7 fields"),
            ("0 0 0 31 2 *", "never"),
            ("@every 5m", "2 fields"),
            ("x * * * * *", "cannot be read"),
        ] {
            let why = parse_cron(text).unwrap_err();
            assert!(why.contains(says), "{text}: {why}");
        }
    }
}
