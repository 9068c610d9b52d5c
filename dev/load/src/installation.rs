//! An installation of Firstcome: a [`System`], and the servers that it uses.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use chrono::TimeDelta;
use firstcome_harness::{Service, System};
use firstcome_stack::{Stack, mysql_connection};
use mysql_async::prelude::Queryable as _;
use tokio::time::{Instant, sleep};

use crate::ops::Ops;
use crate::process::cpu_seconds;

const LIMIT: Duration = Duration::from_secs(240);
/// Number of slots that [`Installation::every_row`] counts at a time.
const PART: u16 = 1_000;

#[derive(Debug)]
pub struct Installation {
    pub servers: Arc<Stack>,
    pub system: System,
}

#[derive(Debug, Clone, Copy)]
pub struct InstallationCoupon {
    pub id: i64,
    pub drop: i64,
    pub quantity: u32,
}

impl Deref for Installation {
    type Target = System;

    fn deref(&self) -> &System {
        &self.system
    }
}

impl Installation {
    /// Creates one of several installations on the same servers, with a separate database, key
    /// prefix, topic and group. `build` is the folder of the programs; by default that of this
    /// program. After its first passes, a daemon runs passes only on request.
    pub async fn named(servers: &Arc<Stack>, name: &str, build: Option<&Path>) -> Result<Self> {
        let mysql = &servers.mysql;
        let database = format!("firstcome_{name}");
        mysql
            .query(&format!("CREATE DATABASE IF NOT EXISTS {database}"))
            .await?;
        let own = [
            ("DATABASE_URL", mysql.database_url(&database)),
            ("REDIS_URL", servers.redis.url()),
            ("KAFKA_BROKERS", servers.kafka.bootstrap()),
        ];
        let own = System::named(&format!("fc-{name}")).into_iter().chain(own);
        let system = System::new(build, None, own)?;
        system.migrate(&[]).await?;
        Ok(Self {
            servers: servers.clone(),
            system,
        })
    }

    /// Returns the CPU seconds of MySQL, Redis and Kafka so far. 0 for a server that is down.
    pub fn cpu(&self) -> [f64; 3] {
        let Stack {
            mysql,
            redis,
            kafka,
            ..
        } = &*self.servers;
        [mysql.pid(), redis.pid(), kafka.pid()]
            .map(|pid| pid.and_then(|pid| cpu_seconds(pid).ok()).unwrap_or(0.0))
    }

    /// Returns a client of the operators' routes of a service.
    pub fn ops(&self, service: &Service) -> Ops {
        Ops::new(&service.url, &self.setting("OPS_TOKEN"))
    }

    /// Waits until an API admits users.
    pub async fn until_ready(&self, api: &Service) -> Result<()> {
        let ops = self.ops(api);
        until("admission opens", async || ops.is_ready().await)
            .await
            .with_context(|| api.program.log_tail())
    }

    /// Creates a coupon that is open now, and waits until it can be claimed.
    pub async fn coupon(&self, api: &Service, quantity: u32) -> Result<InstallationCoupon> {
        let ops = self.ops(api);
        let id = ops
            .make_coupon("Bench", quantity, TimeDelta::zero())
            .await?;
        let gate = format!("{}:{{{id}}}:gate", self.setting("REDIS_KEY_PREFIX"));
        let mut redis = self.redis().await?;
        // `/readyz` is about any open coupon.
        until("the coupon opens", async || {
            let gate: Option<String> = redis::cmd("GET").arg(&gate).query_async(&mut redis).await?;
            let is_open = gate.is_some_and(|gate| gate.ends_with(" open"));
            Ok(is_open && ops.is_open(id).await?)
        })
        .await
        .with_context(|| api.program.log_tail())?;
        let coupon = ops.get(&format!("/v1/coupons/{id}")).await?;
        let drop = coupon["current_drop"]["id"].as_i64();
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
        Ok(mysql_connection(&self.setting("DATABASE_URL")).await?)
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
