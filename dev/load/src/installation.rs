//! An installation of Firstcome: its settings, and the programs that it starts with them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use chrono::TimeDelta;
use firstcome_stack::{built_program, mysql_connection};
use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep};

use crate::launch::{Servers, Service};
use crate::ops::Ops;

/// A six-field cron expression that fires once a year, so that passes run only on request.
const NEVER: &str = "0 0 0 1 1 *";
const LIMIT: Duration = Duration::from_secs(240);
/// Number of slots that [`Installation::every_row`] counts at a time.
const PART: u16 = 1_000;

/// A process of the product.
#[derive(Debug, Clone, Copy)]
pub enum Role {
    Api,
    Consumer,
    Reconciler,
}

/// Settings that all processes of the installation share, and the folder of its programs.
#[derive(Debug)]
pub struct Installation {
    pub servers: Arc<Servers>,
    /// The settings by variable name.
    pub settings: BTreeMap<&'static str, String>,
    programs: PathBuf,
}

#[derive(Debug, Clone, Copy)]
pub struct InstallationCoupon {
    pub id: i64,
    pub drop: i64,
    pub quantity: u32,
}

impl Installation {
    /// Creates tables and topic. `build` is the folder of the programs; by default that of this
    /// program.
    pub async fn create(
        servers: &Arc<Servers>,
        build: Option<&Path>,
        own: impl IntoIterator<Item = (&'static str, String)>,
    ) -> Result<Self> {
        let api = built_program("firstcome-api")?;
        let programs = build.or(api.parent()).context("no folder")?.to_owned();
        let secret = || {
            format!(
                "{:032x}{:032x}",
                rand::random::<u128>(),
                rand::random::<u128>()
            )
        };
        let mut settings: BTreeMap<_, _> = servers.stack.env().into();
        settings.remove("SMTP_URL");
        settings.extend([
            ("OPS_TOKEN", secret()),
            ("KAFKA_SIGNING_KEY", secret()),
            ("USER_AUTH", "trusted-header".to_owned()),
            ("LISTEN_ADDR", "127.0.0.1:0".to_owned()),
        ]);
        settings.extend(own);
        let installation = Self {
            servers: servers.clone(),
            settings,
            programs,
        };
        let migrate = installation.command("firstcome-api", &["migrate"]);
        let done = tokio::process::Command::from(migrate).output().await?;
        let log = String::from_utf8_lossy(&done.stderr);
        ensure!(
            done.status.success(),
            "firstcome-api migrate failed:\n{log}"
        );
        Ok(installation)
    }

    /// Creates one of several installations on the same servers, with a separate database, key
    /// prefix, topic and group. Passes run only on request.
    pub async fn named(servers: &Arc<Servers>, name: &str, build: Option<&Path>) -> Result<Self> {
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
        Self::create(servers, build, own).await
    }

    pub fn setting(&self, name: &str) -> &str {
        self.settings.get(name).map_or("", String::as_str)
    }

    /// Returns the command of a program of the product, with its settings.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.programs.join(program));
        command.args(args).envs(&self.settings);
        command
    }

    /// Starts a process with a free port.
    pub async fn start(&self, role: Role) -> Result<Service> {
        self.start_named(&format!("{role:?}").to_lowercase(), role, &[])
            .await
    }

    /// Starts a process with additional settings. Its log has this name.
    pub async fn start_named(
        &self,
        name: &str,
        role: Role,
        own: &[(&str, &str)],
    ) -> Result<Service> {
        let (program, word, ready) = match role {
            Role::Api => ("firstcome-api", "serve", ""),
            Role::Consumer => ("firstcome-api", "consume", "consuming "),
            Role::Reconciler => ("firstcome-reconciler", "daemon", ""),
        };
        let mut command = self.command(program, &[word]);
        command.envs(own.iter().copied());
        self.servers.spawn(name, &mut command, ready).await
    }

    /// Returns a client of the operators' routes of a service.
    pub fn ops(&self, service: &Service) -> Result<Ops> {
        Ops::new(&service.url, self.setting("OPS_TOKEN"))
    }

    /// Waits until an API admits users.
    pub async fn until_ready(&self, api: &Service) -> Result<()> {
        let ops = self.ops(api)?;
        until("admission opens", async || ops.is_ready().await)
            .await
            .with_context(|| api.log_tail())
    }

    /// Creates a coupon that is open now, and waits until it can be claimed.
    pub async fn coupon(&self, api: &Service, quantity: u32) -> Result<InstallationCoupon> {
        let ops = self.ops(api)?;
        let id = ops
            .make_coupon("Bench", quantity, TimeDelta::zero())
            .await?;
        let path = format!("/v1/coupons/{id}");
        until("the coupon opens", async || {
            let state = &ops.get(&path).await?["current_drop"]["state"];
            Ok(state == "open" && ops.is_ready().await?)
        })
        .await
        .with_context(|| api.log_tail())?;
        let drop = ops.get(&path).await?["current_drop"]["id"].as_i64();
        let drop = drop.context("no drop")?;
        Ok(InstallationCoupon { id, drop, quantity })
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
            until("every row exists", async || {
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
        if begun.elapsed() > LIMIT {
            bail!("not within {LIMIT:?}: {what}");
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
