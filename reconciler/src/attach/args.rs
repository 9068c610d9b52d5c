//! Settings of `attach`. Each is a flag, and some an environment variable.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use firstcome_shared::config::{NumberOrUnset, TlsArgs, listen_address, number_or_unset, secret};
use secrecy::SecretString;

use crate::args::{LISTEN_ADDR, ScheduleArgs, ops_token, ops_view_token};
use crate::notify::{NotifyArgs, WebhookArgs};

/// Settings of `attach`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Attached system")]
pub struct AttachArgs {
    /// The file that describes the keys and tables of the campaigns (docs/ATTACH.md)
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Look until everything that differs is old enough, and exit: 0 nothing is left to do, 1
    /// something is, 2 could not compare
    #[arg(long)]
    pub once: bool,
    /// Only this campaign
    #[arg(long, value_name = "NAME", requires = "once")]
    pub campaign: Option<String>,
    /// Dry run: change nothing, list the repairs
    #[arg(long, requires = "once")]
    pub dry_run: bool,
    /// Confirm the repairs of a plan: the id of a recorded run, or a file with what --json printed.
    /// No others are made
    #[arg(long, value_name = "PLAN", requires = "once")]
    pub confirm: Option<String>,
    /// Print the run as JSON
    #[arg(long, requires = "once")]
    pub json: bool,
    /// Print user ids in full, and the commands and statements with them; the default masks them
    #[arg(long, requires = "once")]
    pub full_ids: bool,
    /// Write all findings, and the numbers before and after, to this file as CSV
    #[arg(long, value_name = "FILE", requires = "once")]
    pub report: Option<PathBuf>,
    /// A separate database for runs, alerts and mails; --once without it records nothing
    #[arg(
        long,
        env = "DATABASE_URL",
        hide_env_values = true,
        required_unless_present = "once"
    )]
    pub database_url: Option<SecretString>,
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Maximum wait for one reply of Redis, in milliseconds; MySQL gets more
    #[arg(long, env = "STORE_TIMEOUT_MS", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(10..=60_000), help_heading = "Stores")]
    pub store_timeout_ms: u64,
    /// Address of the daemon's health and metrics, and with OPS_TOKEN of its page and HTTP API
    #[arg(long, env = "LISTEN_ADDR", default_value = LISTEN_ADDR, value_parser = listen_address, help_heading = "HTTP")]
    pub listen_addr: SocketAddr,
    /// Token of the operators, as in `daemon`; without it there is no page and no HTTP API
    #[arg(long, env = "OPS_TOKEN", hide_env_values = true, value_parser = secret(ops_token), help_heading = "HTTP")]
    pub ops_token: Option<SecretString>,
    /// Token that can only read (default: none)
    #[arg(long, env = "OPS_VIEW_TOKEN", hide_env_values = true, value_parser = secret(ops_view_token), requires = "ops_token", help_heading = "HTTP")]
    pub ops_view_token: Option<SecretString>,
    /// Retention in days: for this time (default: a year) runs are kept with their findings; but
    /// ended alerts for at most 90 days, mails for at most 30, runs with the same result as the one
    /// before for a day
    #[arg(long, help_heading = "Reconciling", env = "RETENTION_DAYS", value_name = "DAYS", default_value = "", hide_default_value = true, value_parser = number_or_unset::<1, 36_500>)]
    pub retention_days: NumberOrUnset,
    #[command(flatten)]
    pub schedules: ScheduleArgs,
    #[command(flatten)]
    pub notify: NotifyArgs,
    #[command(flatten)]
    pub webhooks: WebhookArgs,
}
