//! An installation of Firstcome: its settings, and the programs that it starts with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::{TimeDelta, Utc};
use firstcome_stack::{built_program, mysql_connection};
use mysql_async::prelude::Queryable as _;
use serde_json::Value;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use super::{Servers, Service};
use crate::identity::token_settings;
use crate::ops::Ops;

/// A six-field cron expression that fires once a year, so that passes run only on request.
const NEVER: &str = "0 0 0 1 1 *";
const LIMIT: Duration = Duration::from_secs(60);
/// Number of slots that [`Installation::every_row`] counts at a time.
const PART: u16 = 1_000;
/// The address of any free port.
pub const ANY_PORT: &str = "127.0.0.1:0";

/// Settings that all processes of the installation share, and the folder of its programs.
#[derive(Debug)]
pub struct Installation {
    pub servers: Arc<Servers>,
    /// The settings by variable name.
    pub settings: BTreeMap<&'static str, String>,
    pub ops_token: String,
    programs: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub struct InstallationCoupon {
    pub id: i64,
    pub drop: i64,
    pub quantity: u32,
}

impl Installation {
    /// Creates tables and topic, with the programs in the folder of this program.
    pub async fn create(
        servers: &Arc<Servers>,
        own: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        built_program("firstcome-reconciler")?;
        let api = built_program("firstcome-api")?;
        let programs = api.parent().context("no folder")?;
        Self::create_by(servers, programs, own).await
    }

    /// Creates one of several installations on the same servers, with a separate database, key
    /// prefix, topic and group. Passes run only on request. Uses the programs in the folder of this
    /// program, or those of another build.
    pub async fn named(
        servers: &Arc<Servers>,
        name: &str,
        other_build: Option<&Path>,
    ) -> Result<Self> {
        let mysql = &servers.stack.mysql;
        let database = format!("firstcome_{name}");
        mysql
            .query(&format!("CREATE DATABASE IF NOT EXISTS {database}"))
            .await?;
        let own = [
            ("DATABASE_URL", mysql.database_url(&database)),
            ("REDIS_KEY_PREFIX", format!("fc-{name}")),
            ("KAFKA_TOPIC", format!("claims-{name}")),
            ("KAFKA_GROUP", format!("issuer-{name}")),
            ("RECONCILE_CRON", NEVER.into()),
        ];
        match other_build {
            Some(programs) => Self::create_by(servers, programs, own).await,
            None => Self::create(servers, own).await,
        }
    }

    async fn create_by(
        servers: &Arc<Servers>,
        programs: &Path,
        own: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        let ops_token = format!(
            "{:032x}{:032x}",
            rand::random::<u128>(),
            rand::random::<u128>()
        );
        let mut settings: BTreeMap<_, _> = servers
            .stack
            .env()
            .into_iter()
            .filter(|(name, _)| *name != "SMTP_URL")
            .collect();
        let signing_key = format!("{:032x}", rand::random::<u128>());
        let secrets = [
            ("OPS_TOKEN", ops_token.clone()),
            ("KAFKA_SIGNING_KEY", signing_key),
        ];
        settings.extend(
            secrets
                .into_iter()
                .chain([("USER_AUTH", "trusted-header".to_owned())]),
        );
        settings.extend(own);
        let installation = Self {
            servers: servers.clone(),
            settings,
            ops_token,
            programs: programs.to_owned(),
        };
        let output = installation
            .command("firstcome-api", &["migrate"])
            .output()
            .await
            .context("firstcome-api")?;
        if !output.status.success() {
            bail!(
                "firstcome-api migrate failed ({}):\n{}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(installation)
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Returns the command of a program of the product, with its settings.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).envs(&self.settings).kill_on_drop(true);
        command
    }

    pub async fn api(&self) -> Result<Service> {
        self.api_at("api", ANY_PORT).await
    }

    pub async fn api_at(&self, name: &str, address: &str) -> Result<Service> {
        let mut command = self.command("firstcome-api", &["serve"]);
        self.servers
            .spawn(name, command.env("LISTEN_ADDR", address), "")
            .await
    }

    /// Starts an API with coupon pages, for users whose tokens are signed with this secret (HS256).
    pub async fn pages_at(&self, address: &str, secret: &str) -> Result<Service> {
        let mut command = self.command("firstcome-api", &["serve"]);
        command.envs([("LISTEN_ADDR", address), ("COUPON_PAGE", "on")]);
        command.envs(token_settings(secret));
        self.servers.spawn("pages", &mut command, "").await
    }

    pub async fn consumer(&self) -> Result<Service> {
        self.consumer_at("consumer", ANY_PORT).await
    }

    pub async fn consumer_at(&self, name: &str, address: &str) -> Result<Service> {
        let mut command = self.command("firstcome-api", &["consume"]);
        self.servers
            .spawn(name, command.env("LISTEN_ADDR", address), "consuming ")
            .await
    }

    pub async fn reconciler(&self) -> Result<Service> {
        self.reconciler_at(ANY_PORT).await
    }

    pub async fn reconciler_at(&self, address: &str) -> Result<Service> {
        let mut command = self.command("firstcome-reconciler", &["daemon"]);
        self.servers
            .spawn("reconciler", command.env("LISTEN_ADDR", address), "")
            .await
    }

    /// Returns a client of the operators' routes of a service.
    pub fn ops(&self, service: &Service) -> Result<Ops> {
        Ok(Ops {
            target: service.target()?,
            token: self.ops_token.clone(),
        })
    }

    /// Waits until an API admits users.
    pub async fn until_ready(&self, api: &Service) -> Result<()> {
        let ops = self.ops(api)?;
        let begun = Instant::now();
        loop {
            let (is_ready, body) = ops.readiness().await?;
            if is_ready {
                return Ok(());
            }
            if begun.elapsed() > LIMIT {
                bail!(
                    "{} is not ready after {LIMIT:?}: {body}\n{}",
                    api.name(),
                    api.log_tail()
                );
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Creates a coupon that is open now, and waits until it can be claimed.
    pub async fn coupon(&self, api: &Service, quantity: u32) -> Result<InstallationCoupon> {
        let ops = self.ops(api)?;
        let made = ops
            .make_coupon("Bench", quantity, Utc::now(), TimeDelta::hours(6))
            .await?;
        let id = made["id"]
            .as_i64()
            .with_context(|| format!("no coupon was created: {made}"))?;
        let begun = Instant::now();
        loop {
            let coupon = ops.get(&format!("/v1/coupons/{id}")).await?;
            let (_, ready) = ops.readiness().await?;
            let open = coupon["current_drop"]["state"] == "open";
            if open
                && serde_json::from_str::<Value>(&ready).is_ok_and(|ready| ready["status"] == "ok")
            {
                let drop = coupon["current_drop"]["id"].as_i64().context("no drop")?;
                return Ok(InstallationCoupon { id, drop, quantity });
            }
            if begun.elapsed() > LIMIT {
                bail!(
                    "coupon {id} did not open: {coupon} {ready}\n{}",
                    api.log_tail()
                );
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all slots of a coupon have rows.
    pub async fn every_row(&self, coupon: InstallationCoupon) -> Result<()> {
        let mut conn = self.mysql().await?;
        let last = coupon.quantity;
        // Counts part by part. Counting all rows of a large drop repeatedly costs MySQL more than
        // writing them.
        for first in (1..=last).step_by(usize::from(PART)) {
            let upto = last.min(first.saturating_add(u32::from(PART) - 1));
            let rows = format!(
                "SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {} AND slot BETWEEN {first} AND {upto}",
                coupon.drop
            );
            until("every row", async || {
                Ok(conn.query_first(&rows).await? == Some(upto - first + 1))
            })
            .await?;
        }
        Ok(conn.disconnect().await?)
    }

    pub async fn mysql(&self) -> Result<mysql_async::Conn> {
        Ok(mysql_connection(self.setting("DATABASE_URL")).await?)
    }

    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.setting("REDIS_URL"))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
        Ok(client
            .get_multiplexed_async_connection_with_config(&config)
            .await?)
    }
}

/// Polls until `wanted` returns true.
pub async fn until<F: AsyncFnMut() -> Result<bool>>(what: &str, mut wanted: F) -> Result<()> {
    let begun = Instant::now();
    while !wanted().await? {
        if begun.elapsed() > 4 * LIMIT {
            bail!("{what} did not happen within {:?}", 4 * LIMIT);
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
