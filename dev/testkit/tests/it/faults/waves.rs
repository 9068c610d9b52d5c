//! The whole system with users who arrive in waves: before, during and after a fault. Afterwards
//! the drop must be exact.

use std::collections::BTreeMap;
use std::time::Duration;

use firstcome_chaos::schedule::IMPATIENT;
use firstcome_stack::{
    FaultProxy, KafkaOptions, KafkaServer, MysqlOptions, MysqlServer, ProxyFault, RedisServer,
};
use firstcome_testkit::{
    ApiClient, Http, MadeCoupon, PrefixedKeys, Process, PromisedAnswer, ReconcilerClient, Running,
    World, WorldStores, all_issued, assert_exact, eventually, people, rush, tally,
};
use tokio::sync::{Mutex, MutexGuard, OnceCell};

/// Limit for recovery on a busy machine.
pub(crate) const HEALED: Duration = Duration::from_secs(60);

/// Number of users in a wave.
const WAVE: usize = 20;

/// An API, a consumer, a daemon with a pass every second, a drop, and users.
pub(crate) struct Waves {
    pub(crate) world: World,
    pub(crate) api: Running<ApiClient>,
    pub(crate) consumer: Running<Http>,
    pub(crate) daemon: Running<ReconcilerClient>,
    pub(crate) coupon: MadeCoupon,
    quantity: u32,
    users: Vec<String>,
    answers: Vec<PromisedAnswer>,
}

/// Creates a world whose processes give up early, so that a test does not have to wait for them.
pub(crate) async fn impatient(stores: WorldStores, name: &str) -> World {
    let world = World::on(stores, name).await;
    for (name, value) in IMPATIENT
        .into_iter()
        .chain([("RECONCILE_CRON", "* * * * * *")])
    {
        world.set(name, value);
    }
    world
}

impl Waves {
    /// Starts the processes with the world's settings, and a drop of 60 slots.
    pub(crate) async fn begin(world: World) -> Self {
        Self::begin_with(world, 60).await
    }

    /// Like [`Self::begin`], with a drop of this many slots.
    pub(crate) async fn begin_with(world: World, quantity: u32) -> Self {
        let (api, consumer, daemon) = tokio::join!(
            world.serve_with(&[]),
            world.consume_with(&[]),
            world.daemon_with(&[])
        );
        let is_open = async || api.http().get("/readyz").await.status == 200;
        eventually("the daemon has opened admission", HEALED, is_open).await;
        let coupon = api.open_coupon(quantity).await;
        let users = people(quantity as usize + 10);
        Self {
            world,
            api,
            consumer,
            daemon,
            coupon,
            quantity,
            users,
            answers: Vec::new(),
        }
    }

    /// Lets each user of the next wave claim once. Returns the number of answers by word.
    pub(crate) async fn wave(&mut self) -> BTreeMap<String, usize> {
        tally(self.next(WAVE).await)
    }

    /// Lets the next `number` users claim once each.
    pub(crate) async fn next(&mut self, number: usize) -> &[PromisedAnswer] {
        self.next_while(number, async |_| ()).await
    }

    /// Like [`Self::next`], concurrently with another action.
    pub(crate) async fn next_while(
        &mut self,
        number: usize,
        meanwhile: impl AsyncFnOnce(&Self),
    ) -> &[PromisedAnswer] {
        let asked = self.answers.len();
        let some = &self.users[asked..(asked + number).min(self.users.len())];
        let claims = rush(&[&self.api], self.coupon.id, some, WAVE);
        let (answers, ()) = tokio::join!(claims, meanwhile(self));
        self.answers.extend(answers);
        &self.answers[asked..]
    }

    /// Replaces the consumer.
    pub(crate) async fn consumer_with(&mut self, env: &[(&str, &str)]) {
        assert_eq!(self.consumer.process.stop().await, 0);
        self.consumer = self.world.consume_with(env).await;
    }

    /// Waits until the consumer has logged this.
    pub(crate) async fn consumer_says(&self, what: &str) {
        let what_for = format!("the consumer says {what}");
        eventually(&what_for, HEALED, async || {
            self.consumer.process.log().contains(what)
        })
        .await;
    }

    /// Waits for this many rows, with no claim in flight.
    pub(crate) async fn issued(&self, rows: usize) {
        all_issued(&self.world, self.coupon.drop, rows).await;
    }

    /// Runs a wave without a fault, then the fault, which is over when `fault` returns. Then all
    /// users claim until they get an answer, and exactly the promised rows must exist.
    pub(crate) async fn survives(mut self, fault: impl AsyncFnOnce(&mut Self)) {
        self.promised_wave().await;
        self.issued(WAVE).await;
        fault(&mut self).await;
        self.healed().await;
    }

    /// Lets each user of the next wave claim until they have a promise. On a busy machine an
    /// impatient system may answer 503 without a fault.
    pub(crate) async fn promised_wave(&mut self) {
        self.wave().await;
        let Self {
            api,
            coupon,
            answers,
            ..
        } = self;
        eventually("everybody has a promise", HEALED, async || {
            for (user, answer) in answers.iter_mut() {
                if answer.promised().is_none() {
                    *answer = api.claim(coupon.id, user).await;
                }
            }
            answers
                .iter()
                .all(|(_, answer)| answer.promised().is_some())
        })
        .await;
    }

    /// Lets all users claim until they get an answer. Then exactly the promised rows must exist.
    pub(crate) async fn healed(mut self) {
        let mut answers = std::mem::take(&mut self.answers);
        eventually("everybody has an answer", HEALED, async || {
            let settled = |user: &String| {
                answers.iter().any(|(u, answer)| {
                    u == user && (answer.promised().is_some() || answer.is("sold_out"))
                })
            };
            let asking: Vec<String> = self
                .users
                .iter()
                .filter(|user| !settled(user))
                .cloned()
                .collect();
            answers.extend(rush(&[&self.api], self.coupon.id, &asking, WAVE).await);
            asking.is_empty()
        })
        .await;
        self.issued(self.quantity as usize).await;
        assert_exact(&self.world, &self.coupon, self.quantity, &answers).await;
        let left = self.world.sql.query("SELECT * FROM broken_promises").await;
        assert!(left.is_empty(), "{left:?}");
        let open = "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL";
        eventually("no failed claim is left", HEALED, async || {
            self.world.sql.number(open).await == 0
        })
        .await;
        eventually("a pass finds nothing", HEALED, async || {
            let once = self.world.once_with(&[], &[]).await;
            once.code == 0 && once.run().all_findings().count() == 0
        })
        .await;
        for process in [
            &self.api.process,
            &self.consumer.process,
            &self.daemon.process,
        ] {
            assert_eq!(process.status(), None, "{}", process.log());
        }
    }
}

/// Waits until this user has been promised a slot.
pub(crate) async fn until_promised(api: &ApiClient, coupon: i64, user: &str) {
    eventually("the user is promised a slot", HEALED, async || {
        api.claim(coupon, user).await.promised().is_some()
    })
    .await;
}

static KAFKA: OnceCell<(KafkaServer, [FaultProxy; 2])> = OnceCell::const_new();
static KAFKA_TURN: Mutex<()> = Mutex::const_new(());

/// Returns the Kafka that tests may break. All clients reach it through a proxy, and the guard
/// gives one test at a time access to it.
pub(crate) async fn kafka_behind_proxy() -> (
    &'static KafkaServer,
    &'static FaultProxy,
    MutexGuard<'static, ()>,
) {
    let turn = KAFKA_TURN.lock().await;
    let start = async || {
        KafkaServer::start_behind_proxies(KafkaOptions::default())
            .await
            .unwrap()
    };
    let (kafka, [proxy, _]) = KAFKA.get_or_init(start).await;
    // A failed test may have left it dead or frozen.
    if kafka.pid().is_none() {
        kafka.start_again().await.unwrap();
    } else {
        kafka.thaw().await.unwrap();
    }
    proxy.set(ProxyFault::Pass).await.unwrap();
    (kafka, proxy, turn)
}

/// Starts a pass that holds its lock and is stalled.
pub(crate) async fn stalled_pass(world: &World) -> Process {
    let pass = world.start(
        "firstcome-reconciler",
        &["once"],
        &[("FIRSTCOME_STALL_AT", "run_begun")],
    );
    let running =
        "SELECT COUNT(*) FROM reconcile_runs WHERE status = 'running' AND triggered_by = 'cli'";
    eventually("the pass has begun", HEALED, async || {
        world.sql.number(running).await == 1
    })
    .await;
    pass
}

static MYSQL: OnceCell<MysqlServer> = OnceCell::const_new();
static MYSQL_TURN: Mutex<()> = Mutex::const_new(());

/// Returns the MySQL that tests may break. The guard gives one test at a time access to it.
pub(crate) async fn breakable_mysql() -> (&'static MysqlServer, MutexGuard<'static, ()>) {
    let turn = MYSQL_TURN.lock().await;
    let mysql = MYSQL
        .get_or_init(async || MysqlServer::start(MysqlOptions::default()).await.unwrap())
        .await;
    if mysql.pid().is_none() {
        mysql.start_again().await.unwrap();
    }
    for setting in [
        "super_read_only = OFF",
        "read_only = OFF",
        "lc_messages = 'en_US'",
    ] {
        mysql.query(&format!("SET GLOBAL {setting}")).await.unwrap();
    }
    (mysql, turn)
}

pub(crate) async fn replication(server: &RedisServer) -> String {
    PrefixedKeys::new(&server.url(), "")
        .command(&["INFO", "replication"])
        .await
}

/// Waits until the replica of this master is up to date.
pub(crate) async fn follows(master: &RedisServer) {
    eventually("the replica follows", HEALED, async || {
        replication(master).await.contains("state=online")
    })
    .await;
}
