//! The servers of a run, and the processes that are measured on them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use firstcome_rush::live::step;
use firstcome_rush::ops::Ops;
use firstcome_rush::system::Service;
use firstcome_stack::{Stack, StackOptions};
use mysql_async::{Opts, OptsBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

/// Once a year: no pass runs unless it is asked for.
const NEVER: &str = "0 0 0 1 1 *";
const LIMIT: Duration = Duration::from_secs(60);

/// Servers, and a folder for logs.
#[derive(Debug)]
pub struct World {
    /// Redis (AOF `always`), MySQL and Kafka of this run alone.
    pub stack: Stack,
    logs: TempDir,
    bin: PathBuf,
    /// The programs of another build.
    other: Option<PathBuf>,
}

impl World {
    pub async fn start(other: Option<&Path>) -> Result<Self> {
        step("starting Redis, MySQL and Kafka");
        let stack = Stack::start(StackOptions::default()).await?;
        let bin = std::env::current_exe()?.parent().context("this program has no folder")?.to_owned();
        for name in ["firstcome-api", "firstcome-reconciler"] {
            if !bin.join(name).exists() {
                bail!("{} is missing: build it with the same profile first", bin.join(name).display());
            }
        }
        Ok(Self { stack, logs: TempDir::new()?, bin, other: other.map(Path::to_owned) })
    }

    /// A command of this program.
    pub fn own(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(args);
        Ok(command)
    }

    /// Starts a program and waits until it says that it is ready.
    pub async fn spawn(&self, name: &str, command: Command, ready: &str) -> Result<Service> {
        Service::spawn(name, command, ready, self.logs.path()).await
    }

    /// The CPU seconds that a server took so far, `None` for one that is not ours.
    pub fn cpu(&self, pid: Option<u32>) -> f64 {
        pid.and_then(|pid| crate::process::cpu_seconds(pid).ok()).unwrap_or(0.0)
    }

    /// Whether Redis waits for the disk at every write (`always`), or leaves it to a second's batch (`everysec`).
    pub async fn fsync(&self, policy: &str) -> Result<()> {
        let mut conn = redis::Client::open(self.stack.redis.url())?.get_multiplexed_async_connection().await?;
        Ok(redis::cmd("CONFIG").arg("SET").arg("appendfsync").arg(policy).query_async(&mut conn).await?)
    }
}

/// An installation of Firstcome in this world: its own database, key prefix, topic and group.
#[derive(Debug)]
pub struct Site<'w> {
    /// The world it is in.
    pub world: &'w World,
    pub name: String,
    settings: Vec<(&'static str, String)>,
    token: String,
    bin: &'w Path,
}

/// A coupon with its one drop.
#[derive(Debug, Clone, Copy)]
pub struct Coupon {
    pub id: i64,
    pub drop: i64,
    pub quantity: u32,
}

impl<'w> Site<'w> {
    /// Makes database, tables and topic.
    pub async fn make(world: &'w World, name: &str) -> Result<Self> {
        Self::with(world, name, &world.bin).await
    }

    /// The same, of the other build, if there is one.
    pub async fn of_another_build(world: &'w World, name: &str) -> Result<Option<Self>> {
        match &world.other {
            Some(bin) => Ok(Some(Self::with(world, name, bin).await?)),
            None => Ok(None),
        }
    }

    async fn with(world: &'w World, name: &str, bin: &'w Path) -> Result<Self> {
        let stack = &world.stack;
        let database = format!("firstcome_{name}");
        stack.mysql.query(&format!("CREATE DATABASE IF NOT EXISTS {database}")).await?;
        let token = format!("{:032x}{:032x}", rand::random::<u128>(), rand::random::<u128>());
        let settings = vec![
            ("DATABASE_URL", stack.mysql.database_url(&database)),
            ("REDIS_URL", stack.redis.url()),
            ("KAFKA_BROKERS", stack.kafka.bootstrap()),
            ("REDIS_KEY_PREFIX", format!("fc-{name}")),
            ("KAFKA_TOPIC", format!("claims-{name}")),
            ("KAFKA_GROUP", format!("issuer-{name}")),
            ("OPS_TOKEN", token.clone()),
            ("USER_AUTH", "trusted-header".into()),
            ("RECONCILE_CRON", NEVER.into()),
            ("LISTEN_ADDR", "127.0.0.1:0".into()),
            ("CONSUME_LISTEN_ADDR", "127.0.0.1:0".into()),
        ];
        let site = Self { world, name: name.to_owned(), settings, token, bin };
        let output = site.command("firstcome-api", &["migrate"]).output().await?;
        if !output.status.success() {
            bail!("firstcome-api migrate: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(site)
    }

    /// A value of its settings.
    pub fn setting(&self, name: &str) -> &str {
        self.settings.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }

    pub fn database(&self) -> String {
        format!("firstcome_{}", self.name)
    }

    /// A program of the product with its settings.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(self.bin.join(program));
        command.args(args).envs(self.settings.iter().map(|(name, value)| (*name, value))).kill_on_drop(true);
        command
    }

    pub async fn api(&self) -> Result<Service> {
        self.world.spawn("api", self.command("firstcome-api", &["serve"]), "").await
    }

    pub async fn consumer(&self) -> Result<Service> {
        self.world.spawn("consumer", self.command("firstcome-api", &["consume"]), "consuming ").await
    }

    /// A reconciler that runs no pass by itself but the first, and keeps the gate open.
    pub async fn reconciler(&self) -> Result<Service> {
        self.world.spawn("reconciler", self.command("firstcome-reconciler", &["daemon"]), "").await
    }

    /// The routes of operators of one of its services.
    pub fn ops(&self, service: &Service) -> Result<Ops> {
        Ok(Ops { target: service.target()?, token: self.token.clone() })
    }

    /// Makes a coupon that is open now, and waits until it can be claimed.
    pub async fn coupon(&self, api: &Service, quantity: u32) -> Result<Coupon> {
        let now = chrono::Utc::now();
        let body = json!({
            "name": "Bench", "quantity": quantity, "once_per": "coupon", "waiting_list": 0,
            "schedule": {"type": "once", "opens_at": now, "closes_at": now + chrono::TimeDelta::hours(6)},
        });
        let ops = self.ops(api)?;
        let id = ops.post("/v1/coupons", &body).await?["id"].as_i64().context("no id")?;
        let begun = Instant::now();
        loop {
            let coupon = ops.get(&format!("/v1/coupons/{id}")).await?;
            let (_, ready) = ops.get_text("/readyz").await?;
            let open = coupon["current_drop"]["state"] == "open";
            if open && serde_json::from_str::<Value>(&ready).is_ok_and(|ready| ready["status"] == "ok") {
                let drop = coupon["current_drop"]["id"].as_i64().context("no drop")?;
                return Ok(Coupon { id, drop, quantity });
            }
            if begun.elapsed() > LIMIT {
                bail!("coupon {id} does not open: {coupon} {ready}\n{}", api.log_tail());
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// A connection to its database.
    pub async fn mysql(&self) -> Result<mysql_async::Conn> {
        connection(self.setting("DATABASE_URL")).await
    }

    /// A connection to Redis.
    pub async fn redis(&self) -> Result<redis::aio::MultiplexedConnection> {
        let client = redis::Client::open(self.setting("REDIS_URL"))?;
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(LIMIT));
        Ok(client.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

/// A connection to MySQL at exactly this address.
pub async fn connection(url: &str) -> Result<mysql_async::Conn> {
    let options = OptsBuilder::from_opts(Opts::from_url(url)?).prefer_socket(Some(false));
    Ok(mysql_async::Conn::new(options).await?)
}

/// Where a service listens, as an address.
pub fn address(service: &Service) -> Result<SocketAddr> {
    service.target()?.to_string().trim_start_matches("http://").parse().context("an address")
}

/// Looks until `wanted` is so.
pub async fn until<F: AsyncFnMut() -> Result<bool>>(what: &str, mut wanted: F) -> Result<()> {
    let begun = Instant::now();
    while !wanted().await? {
        if begun.elapsed() > 4 * LIMIT {
            bail!("{what}: not within {:?}", 4 * LIMIT);
        }
        sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
