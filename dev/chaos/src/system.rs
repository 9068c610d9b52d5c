//! The system under test of one schedule: a separate database, keys and topic, the processes of the
//! product, and open coupons.

use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, ensure};
use firstcome_testkit::histories::Recorder;
use firstcome_testkit::{ApiClient, MadeCoupon, PrefixedKeys, World};
use serde_json::json;

use crate::fault::Fault;
use crate::place::GarbagePlace;
use crate::replica::{Replica, follow};
use crate::schedule::{FaultSchedule, Timed};
use crate::servers::ProxiedServers;
use crate::supervisor::Supervisor;
use crate::wait::{pause, until};

const READY: Duration = Duration::from_secs(40);

/// The system that a schedule breaks.
pub struct SystemUnderTest {
    pub servers: Arc<ProxiedServers>,
    pub supervisor: Supervisor,
    /// Database, keys, topic, mails and logs. Its own connections bypass the proxies.
    pub world: World,
    /// An up-to-date replica, for a schedule that promotes one.
    pub(crate) replica: tokio::sync::Mutex<Option<Replica>>,
    coupons: Vec<MadeCoupon>,
    written_before: u64,
    /// Failures that were seen while the schedule ran.
    wrong: Mutex<BTreeSet<String>>,
    /// Garbage that a fault has written, with the ID of the last finding before it.
    garbage: Mutex<Vec<(u64, GarbagePlace)>>,
}

/// Settings of all processes: a pass every second, and short delays unless the schedule sets
/// others.
const SETTINGS: [(&str, &str); 6] = [
    ("RECONCILE_CRON", "* * * * * *"),
    ("STORE_TIMEOUT_MS", "2000"),
    ("PUBLISH_DEADLINE_MS", "1000"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "5000"),
    ("FIRSTCOME_TEST_ALERT_COOLDOWN_SECONDS", "3600"),
    ("FIRSTCOME_TEST_STARTUP_WAIT_SECONDS", "20"),
];

impl SystemUnderTest {
    /// Starts the system and creates the coupons. [`SystemUnderTest::supervise`] keeps it running.
    /// If that fails, keeps the logs of its processes in the folder.
    pub async fn start(
        servers: Arc<ProxiedServers>,
        schedule: &FaultSchedule,
        logs: &Path,
    ) -> Result<Self> {
        let world = servers.world(&format!("chaos{}", schedule.seed)).await;
        let own = schedule
            .settings
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in SETTINGS.into_iter().chain(own) {
            world.set(name, value);
        }
        let mut system = Self {
            servers,
            supervisor: Supervisor::new(schedule)?,
            world,
            replica: tokio::sync::Mutex::default(),
            coupons: Vec::new(),
            written_before: 0,
            wrong: Mutex::default(),
            garbage: Mutex::default(),
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
        system.coupons = opened?;
        let needs_replica = |timed: &Timed| {
            matches!(
                timed.fault,
                Fault::StaleReplica { .. } | Fault::Demotion { .. }
            )
        };
        if schedule.faults.iter().any(needs_replica) {
            *system.replica.lock().await = Some(follow(&system.servers).await?);
        }
        system.written_before = std::fs::metadata(system.servers.append_only_file()?)?.len();
        Ok(system)
    }

    async fn open(&self, schedule: &FaultSchedule) -> Result<Vec<MadeCoupon>> {
        let all = schedule.processes;
        ensure!(
            until(READY, || self.supervisor.apis().len() == all).await,
            "the APIs did not start"
        );
        let mut coupons = Vec::new();
        for number in 0..schedule.coupons {
            let allow = (number == 0 && schedule.listed > 0).then_some("list");
            coupons.push(
                self.make_coupon(schedule, allow, "INTERVAL 30 MINUTE")
                    .await?,
            );
        }
        while !self.redis().gates_are_open().await {
            pause(50).await;
        }
        Ok(coupons)
    }

    /// Creates a coupon that opened half an hour ago and stays open for this period. With `allow`,
    /// only the users that the schedule lists may claim it.
    pub async fn make_coupon(
        &self,
        schedule: &FaultSchedule,
        allow: Option<&str>,
        open_for: &str,
    ) -> Result<MadeCoupon> {
        let instants = format!(
            "SELECT DATE_FORMAT(UTC_TIMESTAMP() - INTERVAL 30 MINUTE, '%Y-%m-%dT%H:%i:%sZ'),
                    DATE_FORMAT(UTC_TIMESTAMP() + {open_for}, '%Y-%m-%dT%H:%i:%sZ')"
        );
        let instants = self.world.sql.rows(&instants).await?;
        let body = json!({
            "name": "Chaos coupon", "quantity": schedule.quantity, "once_per": schedule.once_per,
            "waiting_list": schedule.waiting_list, "allow": allow,
            "schedule": {"type": "once", "opens_at": instants[0][0], "closes_at": instants[0][1]},
        });
        let api = self
            .supervisor
            .apis()
            .into_iter()
            .next()
            .context("no API runs")?;
        let api = ApiClient::patient(
            &api,
            Duration::from_secs(10),
            Recorder::new(std::io::sink()),
        );
        let coupon = api
            .try_create_coupon(&body)
            .await
            .map_err(|why| anyhow!(why))?;
        if allow.is_some() {
            let reply = api
                .try_list(coupon.id, &schedule.listed_people(), true)
                .await
                .map_err(|why| anyhow!(why))?;
            ensure!(
                reply.status == 200,
                "the allow list was not created: {reply:?}"
            );
        }
        Ok(coupon)
    }

    /// Keeps the processes running, forever.
    pub async fn supervise(&self) {
        self.supervisor.supervise(&self.world).await;
    }

    /// Returns the open coupons. There is at least one.
    pub fn coupons(&self) -> &[MadeCoupon] {
        &self.coupons
    }

    /// Returns the coupon that was drawn for a fault.
    pub(crate) fn coupon(&self, drawn: usize) -> &MadeCoupon {
        &self.coupons[drawn % self.coupons.len()]
    }

    /// Records a failure.
    pub(crate) fn object(&self, what: String) {
        self.wrong.lock().insert(what);
    }

    pub(crate) fn note_garbage(&self, places: impl Iterator<Item = (u64, GarbagePlace)>) {
        self.garbage.lock().extend(places);
    }

    pub(crate) fn put_garbage(&self) -> Vec<(u64, GarbagePlace)> {
        self.garbage.lock().clone()
    }

    pub(crate) fn objections(&self) -> Vec<String> {
        self.wrong.lock().iter().cloned().collect()
    }

    /// Returns the length of Redis's append-only file in bytes when the schedule began.
    pub fn written_before(&self) -> u64 {
        self.written_before
    }

    /// Returns the keys in the current Redis master.
    pub fn redis(&self) -> PrefixedKeys {
        let prefix = self.world.setting("REDIS_KEY_PREFIX");
        PrefixedKeys::new(&self.servers.redis().url(), &prefix)
    }

    /// Resets every proxy.
    pub async fn heal(&self) -> Result<()> {
        self.servers.heal().await
    }
}

/// Returns the single number that a query selects.
pub(crate) async fn number(system: &SystemUnderTest, sql: &str) -> Result<u64> {
    Ok(system.world.sql.rows(sql).await?[0][0].parse()?)
}
