//! One run of the system on a ground: a database, keys and a topic of its own, our processes, and one open coupon.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use firstcome_testkit::{OPS_TOKEN, Stores, World};
use serde_json::{Value, json};

use crate::cast::{Cast, Clock};
use crate::fault::{Fault, Store};
use crate::ground::Ground;
use crate::inflict::redis::{Replica, follow};
use crate::inflict::{pause, until};
use crate::schedule::Schedule;

const READY: Duration = Duration::from_secs(40);

/// An open coupon and its drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drop {
    pub coupon: i64,
    pub id: i64,
}

/// Everything that a schedule happens to.
pub struct Stage {
    pub ground: Arc<Ground>,
    pub cast: Cast,
    /// Database, keys, topic, mails and logs.
    pub world: World,
    _clock: Option<Clock>,
    /// A replica that has everything, for a schedule that promotes one.
    pub(crate) replica: tokio::sync::Mutex<Option<Replica>>,
    drops: Vec<Drop>,
    written_before: u64,
}

impl Stage {
    /// Starts the system and makes the coupons. What it needs to keep running is [`Stage::look_after`].
    pub async fn set(ground: Arc<Ground>, schedule: &Schedule, settings: &[(&str, &str)]) -> Result<Self> {
        let stores = Stores::at(&ground.redis().url(), &ground.mysql.url(), &ground.kafka.bootstrap());
        let world = World::on(stores, &format!("chaos{}", schedule.seed)).await;
        world.set("REDIS_URL", &ground.redis_url());
        world.set("DATABASE_URL", &ground.database_url(world.database()));
        world.set("RECONCILE_CRON", "* * * * * *");
        world.set("REDIS_TIMEOUT_MS", "2000");
        world.set("PUBLISH_DEADLINE_MS", "1000");
        world.set("DATABASE_TIMEOUT_MS", "5000");
        world.set("ALERT_COOLDOWN_SECONDS", "3600");
        world.set("STARTUP_WAIT_SECONDS", "20");
        for (name, value) in settings {
            world.set(name, value);
        }
        let clock = Clock::find()?;
        if let Some(clock) = &clock {
            clock.wind(&world);
        }
        let cast = Cast::new(clock.as_ref());
        let mut stage = Self {
            ground,
            cast,
            world,
            _clock: clock,
            replica: tokio::sync::Mutex::default(),
            drops: Vec::new(),
            written_before: 0,
        };
        tokio::select! {
            opened = stage.cast_and_open(schedule) => stage.drops = opened?,
            () = tokio::time::sleep(READY) => anyhow::bail!("the system did not get ready within {READY:?}"),
        }
        if schedule.faults.iter().any(|timed| matches!(timed.fault, Fault::StaleReplica { .. })) {
            *stage.replica.lock().await = Some(follow(&stage).await?);
        }
        stage.written_before = std::fs::metadata(stage.ground.append_only_file()?)?.len();
        Ok(stage)
    }

    async fn cast_and_open(&self, schedule: &Schedule) -> Result<Vec<Drop>> {
        tokio::select! {
            () = self.look_after() => anyhow::bail!("nobody looks after the processes"),
            made = self.open(schedule) => made,
        }
    }

    async fn open(&self, schedule: &Schedule) -> Result<Vec<Drop>> {
        ensure!(until(READY, || self.cast.apis().len() == 2).await, "the APIs did not start");
        let canary = self.world.redis.own("canary");
        let mut conn = self.ground.redis_connection().await?;
        while !redis::cmd("EXISTS").arg(&canary).query_async::<bool>(&mut conn).await? {
            pause(50).await;
        }
        let mut drops = Vec::new();
        for _ in 0..schedule.coupons {
            drops.push(self.make_coupon(schedule, None).await?);
        }
        Ok(drops)
    }

    /// Makes a coupon that is open, until an instant if one is given.
    pub async fn make_coupon(&self, schedule: &Schedule, closes_at: Option<&str>) -> Result<Drop> {
        let body = json!({
            "name": "Chaos coupon", "quantity": schedule.quantity, "once_per": schedule.once_per,
            "waiting_list": schedule.waiting_list,
            "schedule": {"type": "once", "opens_at": "2026-01-01T00:00:00Z", "closes_at": closes_at},
        });
        let api = self.cast.apis().into_iter().next().context("no API runs")?;
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(10)).build()?;
        let asked = client.post(format!("{api}/v1/coupons")).bearer_auth(OPS_TOKEN).json(&body);
        let made = asked.send().await?;
        let (status, made) = (made.status(), made.json::<Value>().await?);
        ensure!(status == 201, "a coupon was not made: {status} {made}");
        let id = made["current_drop"]["id"].as_i64().context("a drop")?;
        Ok(Drop { coupon: made["id"].as_i64().context("an id")?, id })
    }

    /// Keeps the processes running, for ever.
    pub async fn look_after(&self) {
        self.cast.look_after(&self.world).await;
    }

    /// The open drops, at least one.
    pub fn drops(&self) -> &[Drop] {
        &self.drops
    }

    pub fn database(&self) -> &str {
        self.world.database()
    }

    /// Length of Redis's append-only file when the schedule began, bytes.
    pub fn written_before(&self) -> u64 {
        self.written_before
    }

    /// A key of a drop in Redis.
    pub fn key(&self, drop: Drop, name: &str) -> String {
        self.world.redis.of_drop(drop.coupon, drop.id, name)
    }

    /// Rows of a query straight to MySQL; an error while it is broken.
    pub async fn sql(&self, sql: &str) -> Result<Vec<Vec<String>>> {
        let sql = sql.replace("$db", self.database());
        let rows = self.ground.mysql.query(&sql);
        tokio::time::timeout(Duration::from_secs(3), rows).await.context("MySQL does not answer")?
    }

    /// All servers answer and no proxy disturbs.
    pub async fn heal(&self) -> Result<()> {
        for store in [Store::Redis, Store::Mysql, Store::Kafka] {
            self.ground.proxy(store).set(firstcome_stack::Fault::Pass).await?;
        }
        self.cast.set_clocks_right()?;
        Ok(())
    }
}
