//! The system under test of one schedule: a separate database, keys and topic, the processes of the
//! product, and open coupons.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use firstcome_harness::{ApiClient, MadeCoupon, PrefixedKeys, World};
use firstcome_oracle::Recorder;
use parking_lot::Mutex;
use serde_json::json;

use crate::fault::{Fault, GarbagePlace};
use crate::schedule::FaultSchedule;
use crate::servers::{ProxiedServers, Replica};
use crate::supervisor::Supervisor;
use crate::wait::{pause, until, until_time};

const READY: Duration = Duration::from_secs(90);

/// Time to create the coupons of a schedule whose next day begins at a certain time.
const SETUP: Duration = Duration::from_secs(4);

/// The system that a schedule breaks.
pub(crate) struct SystemUnderTest {
    pub(crate) servers: Arc<ProxiedServers>,
    pub(crate) supervisor: Supervisor,
    /// Database, keys, topic, mails and logs. Its own connections to Redis and MySQL bypass the
    /// proxies.
    pub(crate) world: World,
    /// An up-to-date replica, for a schedule that promotes one.
    pub(crate) replica: tokio::sync::Mutex<Option<Replica>>,
    /// The first drop of each coupon, then the second one of each coupon that has two.
    drops: Vec<MadeCoupon>,
    /// When the second drops open and the first ones close.
    pub(crate) next_day_at: Option<DateTime<Utc>>,
    /// Number of coupons.
    coupons: usize,
    /// The length of Redis's append-only file in bytes when the schedule began.
    pub(crate) written_before: u64,
    /// Failures that were seen while the schedule ran.
    wrong: Mutex<BTreeSet<String>>,
    /// Removed garbage, which another fault may restore, with the ID of the last finding before it
    /// was written.
    pub(crate) garbage: Mutex<Vec<(u64, GarbagePlace)>>,
    /// Whether messages may have been lost with the old topic, or skipped by positions beyond them.
    pub(crate) messages_skipped: AtomicBool,
}

/// Settings of all processes: a pass every second, and short delays unless the schedule sets
/// others.
const SETTINGS: [(&str, &str); 7] = [
    ("RECONCILE_CRON", "* * * * * *"),
    ("STORE_TIMEOUT_MS", "2000"),
    ("PUBLISH_DEADLINE_MS", "1000"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "5000"),
    ("FIRSTCOME_TEST_ALERT_COOLDOWN_SECONDS", "3600"),
    ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "20"),
    // Makes processes answer crowds of this size from memory, too.
    ("FIRSTCOME_TEST_CROWD_OF_LOSERS", "1"),
];

impl SystemUnderTest {
    /// Starts the system and creates the coupons. If that fails, keeps the logs of its processes in
    /// the folder. [`SystemUnderTest::supervise`] then keeps the system running.
    pub(crate) async fn start(
        servers: Arc<ProxiedServers>,
        schedule: &FaultSchedule,
        logs: &Path,
    ) -> Result<Self> {
        let world = servers.world(&format!("chaos{}", schedule.seed)).await;
        let own = schedule.settings.iter();
        let own = own.map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in SETTINGS.into_iter().chain(own) {
            world.set(name, value);
        }
        let mut system = Self {
            supervisor: Supervisor::new(schedule, &servers.clocks)?,
            servers,
            world,
            replica: tokio::sync::Mutex::default(),
            drops: Vec::new(),
            next_day_at: None,
            coupons: schedule.coupons as usize,
            written_before: 0,
            wrong: Mutex::default(),
            garbage: Mutex::default(),
            messages_skipped: AtomicBool::default(),
        };
        let opened = tokio::select! {
            opened = system.open(schedule) => opened,
            () = system.supervise() => Err(anyhow!("supervision ended")),
            () = tokio::time::sleep(READY) => {
                Err(anyhow!("the system did not get ready within {READY:?}"))
            }
        };
        if opened.is_err() {
            system.world.keep_logs(logs)?;
        }
        (system.drops, system.next_day_at) = opened?;
        if schedule.has(|it| matches!(it, Fault::StaleReplica { .. } | Fault::Demotion { .. })) {
            *system.replica.lock().await = Some(system.servers.follow().await?);
        }
        system.written_before = std::fs::metadata(system.servers.append_only_file()?)?.len();
        Ok(system)
    }

    async fn open(
        &self,
        schedule: &FaultSchedule,
    ) -> Result<(Vec<MadeCoupon>, Option<DateTime<Utc>>)> {
        let all = schedule.processes;
        let started = until(READY, || self.supervisor.apis().len() == all).await;
        ensure!(started, "the APIs did not start");
        let before = schedule.next_day_ms.map(Duration::from_millis);
        // Schedules have whole seconds.
        let next_day_at = before.map(|before| (Utc::now() + SETUP + before).trunc_subsecs(0));
        let mut drops = Vec::new();
        for number in 0..schedule.coupons {
            let allow = (number == 0 && schedule.listed > 0).then_some("list");
            drops.push(self.make_coupon(schedule, allow, next_day_at).await?);
        }
        while !self.redis().gates_are_open().await {
            pause(50).await;
        }
        for first in drops.clone() {
            let second = first.body["next_drop"]["id"].as_i64();
            drops.extend(second.map(|drop| MadeCoupon { drop, ..first }));
        }
        if let (Some(at), Some(before)) = (next_day_at, before) {
            until_time(at - before).await;
        }
        ensure!(
            u32::try_from(drops.len())? == schedule.coupons * schedule.days(),
            "a coupon lacks a drop"
        );
        Ok((drops, next_day_at))
    }

    /// Creates a coupon that opened half an hour ago and stays open for another half hour, or a
    /// daily one whose next day begins at `next_day_at`, when the day before ends. With `allow`, only
    /// the users that the schedule lists may claim it.
    async fn make_coupon(
        &self,
        schedule: &FaultSchedule,
        allow: Option<&str>,
        next_day_at: Option<DateTime<Utc>>,
    ) -> Result<MadeCoupon> {
        let text = "'%Y-%m-%dT%H:%i:%sZ'";
        let half = "INTERVAL 30 MINUTE";
        let instants = format!(
            "SELECT DATE_FORMAT(UTC_TIMESTAMP() - {half}, {text}), DATE_FORMAT(UTC_TIMESTAMP() + {half}, {text})"
        );
        let instants = self.world.sql.rows(&instants).await?;
        let once = json!({"type": "once", "opens_at": instants[0][0], "closes_at": instants[0][1]});
        let daily = next_day_at.map(|at| {
            let [time, day] =
                [at.format("%H:%M:%S"), at.format("%Y-%m-%d")].map(|it| it.to_string());
            let before = (at - TimeDelta::days(1)).format("%Y-%m-%d").to_string();
            json!({"type": "daily", "time_zone": "UTC", "opens": time, "closes": time,
                "first_day": before, "last_day": day})
        });
        let body = json!({
            "name": "Chaos coupon", "quantity": schedule.quantity, "once_per": schedule.once_per,
            "waiting_list": schedule.waiting_list, "allow": allow,
            "schedule": daily.unwrap_or(once),
        });
        let base = self.supervisor.any_api().context("no API runs")?;
        let unrecorded = Recorder::new(std::io::sink());
        let api = ApiClient::patient(&base, Duration::from_secs(10), unrecorded);
        let coupon = api
            .try_create_coupon(&body)
            .await
            .map_err(|why| anyhow!(why))?;
        if allow.is_some() {
            let people = schedule.listed_people();
            let reply = api.try_list(coupon.id, &people, true).await;
            let reply = reply.map_err(|why| anyhow!(why))?;
            ensure!(reply.status == 200, "the list was not made: {reply:?}");
        }
        Ok(coupon)
    }

    /// Keeps the processes running, forever.
    pub(crate) async fn supervise(&self) {
        self.supervisor.supervise(&self.world).await;
    }

    /// Returns the coupons, each with its first drop. There is at least one.
    pub(crate) fn coupons(&self) -> &[MadeCoupon] {
        &self.drops[..self.coupons]
    }

    /// Returns the drops of all coupons, those of the first day first.
    pub(crate) fn drops(&self) -> &[MadeCoupon] {
        &self.drops
    }

    /// Returns the drops that close amid the schedule, and the others.
    pub(crate) fn by_end(&self) -> (&[MadeCoupon], &[MadeCoupon]) {
        self.drops.split_at(self.drops.len() - self.coupons)
    }

    /// Returns the ID of each drop of a coupon.
    pub(crate) fn drops_of(&self, coupon: &MadeCoupon) -> Vec<i64> {
        let drops = self.drops.iter().filter(|it| it.id == coupon.id);
        drops.map(|it| it.drop).collect()
    }

    /// Records a failure.
    pub(crate) fn object(&self, what: String) {
        self.wrong.lock().insert(what);
    }

    pub(crate) fn objections(&self) -> Vec<String> {
        self.wrong.lock().iter().cloned().collect()
    }

    /// Returns the keys in the current Redis master.
    pub(crate) fn redis(&self) -> PrefixedKeys {
        let prefix = self.world.setting("REDIS_KEY_PREFIX");
        PrefixedKeys::new(&self.servers.redis().url(), &prefix)
    }

    /// Returns the single number that a query selects.
    pub(crate) async fn number(&self, sql: &str) -> Result<u64> {
        Ok(self.world.sql.rows(sql).await?[0][0].parse()?)
    }
}
