//! Two processes of each role. Another release replaces them one by one while users claim.

use std::collections::BTreeSet;

use firstcome_testkit::{
    ApiClient, Http, LIMIT, MadeCoupon, Process, ReconcilerClient, Release, Running, World,
    WorldStores, all_issued, assert_exact, assert_nothing_found, eventually, eventually_some,
};
use serde_json::json;

use super::crowd::SteadyCrowd;
use crate::faults::waves::HEALED;

/// More slots than users who claim during the replacement.
const QUANTITY: u32 = 100_000;

/// Number of answers to wait for between two steps.
const BETWEEN: usize = 40;

/// Settings that only older releases read (docs/decisions/0035-what-goes.md).
const BEFORE_0035: [(&str, &str); 5] = [
    ("ALERT_PATIENCE_SECONDS", "0"),
    ("CONSUME_LISTEN_ADDR", "127.0.0.1:0"),
    ("KAFKA_PARTITIONS", "3"),
    ("QUESTION_TIMEOUT_MS", "10000"),
    ("REDIS_TIMEOUT_MS", "10000"),
];

#[derive(Debug, Clone, Copy)]
pub(super) enum UpgradedRole {
    Reconciler,
    Consumer,
    Api,
}

pub(super) struct SystemToUpgrade {
    pub(super) world: World,
    pub(super) apis: Vec<Running<ApiClient>>,
    consumers: Vec<Running<Http>>,
    daemons: Vec<Running<ReconcilerClient>>,
    coupon: MadeCoupon,
    pub(super) crowd: SteadyCrowd,
    /// The era of Redis in which the crowd began to claim.
    begun_in: Option<String>,
}

/// Creates or migrates the tables with this release.
pub(super) async fn migrate(world: &World, release: Release) {
    for (name, value) in BEFORE_0035 {
        world.set(name, value);
    }
    world.use_release(release);
    let migrate = world.start("firstcome-api", &["migrate"], &[]);
    assert_eq!(migrate.ended(LIMIT).await, 0, "{}", migrate.log());
}

impl SystemToUpgrade {
    /// Starts all processes of one release under load, on tables that this release created.
    pub(super) async fn of(release: Release, name: &str) -> Self {
        let world = World::bare(WorldStores::shared().await, name).await;
        world.set("RECONCILE_CRON", "* * * * * *");
        migrate(&world, release).await;
        let mut apis = Vec::new();
        let mut consumers = Vec::new();
        let mut daemons = Vec::new();
        for _ in 0..2 {
            daemons.push(world.daemon_with(&[]).await);
            consumers.push(world.consume().await);
            apis.push(world.serve().await);
        }
        for api in &apis {
            ready(api).await;
        }
        let coupon = apis[0].open_coupon(QUANTITY).await;
        let crowd = SteadyCrowd::begin(&coupon, clients(&apis));
        crowd.goes_on(BETWEEN).await;
        let mut system = Self {
            world,
            apis,
            consumers,
            daemons,
            coupon,
            crowd,
            begun_in: None,
        };
        system.begun_in = system.life().await;
        system
    }

    /// Replaces both processes of a role one by one. The old and the new process run together for a
    /// while.
    pub(super) async fn replace(&mut self, role: UpgradedRole, by: Release) {
        self.world.use_release(by);
        for _ in 0..2 {
            let (old, what) = match role {
                UpgradedRole::Reconciler => {
                    let new = self.world.daemon_with(&[]).await;
                    let passes = async || new.process.log().contains("pass ended");
                    eventually(
                        "the new reconciler runs passes along with the old",
                        HEALED,
                        passes,
                    )
                    .await;
                    self.daemons.push(new);
                    (self.daemons.remove(0).process, "reconciler")
                }
                UpgradedRole::Consumer => {
                    let new = self.world.consume().await;
                    let has_partitions = async || {
                        new.metric("firstcome_consumer_rebalances_total", &[]).await >= Some(1.0)
                    };
                    eventually(
                        "the new consumer has partitions along with the old",
                        HEALED,
                        has_partitions,
                    )
                    .await;
                    self.consumers.push(new);
                    (self.consumers.remove(0).process, "consumer")
                }
                UpgradedRole::Api => {
                    let new = self.world.serve().await;
                    ready(&new).await;
                    self.apis.push(new);
                    self.crowd.ask(clients(&self.apis));
                    self.crowd.goes_on(BETWEEN).await;
                    self.crowd.ask(clients(&self.apis[1..]));
                    (self.apis.remove(0).process, "API")
                }
            };
            self.crowd.goes_on(BETWEEN).await;
            stop(&old, what).await;
            self.crowd.goes_on(BETWEEN).await;
        }
    }

    /// Stops the APIs, lets the consumers read the topic to its end, and replaces all processes.
    pub(super) async fn replace_without_load(&mut self, by: Release) {
        self.crowd.pauses().await;
        for api in self.apis.drain(..) {
            stop(&api.process, "API").await;
        }
        eventually("the consumers have read the topic", HEALED, async || {
            self.world.topic.lag().await == 0
        })
        .await;
        self.replace(UpgradedRole::Reconciler, by).await;
        self.replace(UpgradedRole::Consumer, by).await;
        for _ in 0..2 {
            let api = self.world.serve().await;
            ready(&api).await;
            self.apis.push(api);
        }
        self.crowd.ask(clients(&self.apis));
        self.crowd.goes_on(BETWEEN).await;
    }

    /// Returns the era of Redis by which older releases decide whether to admit, if one was begun.
    async fn life(&self) -> Option<String> {
        self.world
            .redis
            .command(&["GET", &self.world.redis.own("epoch")])
            .await
    }

    /// Stops the crowd. Fails unless everything is exact, no promise is broken, no user was refused
    /// and passes found nothing. If an older release begins a new era of Redis, users may be
    /// refused and passes may have findings.
    pub(super) async fn ends_exact(self) {
        let is_same_life = self.begun_in == self.life().await;
        let Self {
            world,
            apis,
            consumers,
            daemons,
            coupon,
            crowd,
            ..
        } = self;
        let told = crowd.end().await;
        let refusals = told.refusals();
        let closed = told.longest_closed();
        println!(
            "upgrade: {} answers, {} refusals, longest time without a yes {closed:?}",
            told.len(),
            refusals.len()
        );
        assert!(
            refusals.iter().all(|(_, answer)| answer.is("unavailable")),
            "{refusals:?}"
        );
        assert!(!is_same_life || refusals.is_empty(), "{refusals:?}");

        let answers = told.answers();
        let given: BTreeSet<&String> = answers.iter().map(|(user, _)| user).collect();
        let given = u32::try_from(given.len()).unwrap();
        all_issued(&world, coupon.drop, given as usize).await;
        // Lowers the quantity to the number of slots that were given out.
        let lowered = apis[0].patch(coupon.id, &json!({"quantity": given})).await;
        assert_eq!(lowered.status, 200, "{lowered:?}");
        assert_exact(&world, &coupon, given, &answers).await;
        for process in daemons
            .iter()
            .map(|it| &it.process)
            .chain(consumers.iter().map(|it| &it.process))
        {
            assert_eq!(process.stop().await, 0, "{}", process.log());
        }
        assert_nothing_found(&world.pass().await);
        for left in ["broken_promises", "failed_claims"] {
            assert_eq!(
                world.sql.query(&format!("SELECT * FROM {left}")).await,
                Vec::<Vec<String>>::new()
            );
        }
        let found = world
            .sql
            .query("SELECT kind, detail FROM reconcile_findings")
            .await;
        // A daemon that is replaced during a pass reports that the pass was stopped.
        let replaced = |row: &[String]| row == ["stalled", "the process was told to stop"];
        let expected =
            |row: &Vec<String>| replaced(row) || (!is_same_life && row[0] == "redis_lost");
        assert!(found.iter().all(expected), "{found:?}");
    }
}

fn clients(apis: &[Running<ApiClient>]) -> Vec<ApiClient> {
    apis.iter().map(|api| ApiClient::clone(api)).collect()
}

async fn ready(api: &ApiClient) {
    eventually_some("the API is ready", HEALED, async || {
        let reply = api.http().get("/readyz").await;
        if reply.status == 200 {
            Ok(())
        } else {
            Err(reply.text)
        }
    })
    .await;
}

async fn stop(process: &Process, what: &str) {
    assert_eq!(process.stop().await, 0, "the {what}: {}", process.log());
}
