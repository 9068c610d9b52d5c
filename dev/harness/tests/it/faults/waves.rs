//! The whole system with users who arrive in waves: before, during and after a fault. Afterwards
//! the drop must be exact.

use std::collections::BTreeMap;

use firstcome_chaos::schedule::IMPATIENT;
use firstcome_harness::{
    ApiClient, PrefixedKeys, PromisedAnswer, Running, rush_until_settled, tally,
};

use crate::prelude::*;

/// Number of users in a wave.
const WAVE: usize = 20;
/// Number of slots of the drop.
const QUANTITY: usize = 60;

/// An API, a consumer, a daemon, a drop, and users.
pub(crate) struct Waves {
    pub(crate) world: World,
    pub(crate) api: Running<ApiClient>,
    pub(crate) consumer: Running<Http>,
    daemon: Running<ReconcilerClient>,
    pub(crate) coupon: MadeCoupon,
    users: Vec<String>,
    /// The number of users who have come.
    came: usize,
}

/// Creates a world whose processes give up early, so that a test does not have to wait for them,
/// and whose daemons run a pass every second.
pub(crate) async fn impatient(stores: WorldStores, name: &str) -> World {
    let world = World::on(stores, name).await;
    let passes = ("RECONCILE_CRON", "* * * * * *");
    for (name, value) in IMPATIENT.into_iter().chain([passes]) {
        world.set(name, value);
    }
    world
}

impl Waves {
    /// Starts the processes with the world's settings, and a drop of 60 slots.
    pub(crate) async fn begin(world: World) -> Self {
        let (api, consumer, daemon) =
            tokio::join!(world.serve(), world.consume(), world.daemon_with(&[]));
        api.until_ready().await;
        let coupon = api.open_coupon(u32::try_from(QUANTITY).unwrap()).await;
        Self {
            world,
            api,
            consumer,
            daemon,
            coupon,
            users: people(QUANTITY + 10),
            came: 0,
        }
    }

    /// Lets each user of the next wave claim once. Returns the number of answers by word.
    pub(crate) async fn wave(&mut self) -> BTreeMap<String, usize> {
        tally(&self.next(WAVE).await)
    }

    /// Lets the next `number` users claim once each.
    pub(crate) async fn next(&mut self, number: usize) -> Vec<PromisedAnswer> {
        self.next_while(number, async |_| ()).await
    }

    /// Like [`Self::next`], concurrently with another action.
    pub(crate) async fn next_while(
        &mut self,
        number: usize,
        meanwhile: impl AsyncFnOnce(&Self),
    ) -> Vec<PromisedAnswer> {
        let come = (self.came + number).min(self.users.len());
        let some = &self.users[self.came..come];
        let claims = rush(&[&self.api], self.coupon.id, some, WAVE);
        let (answers, ()) = tokio::join!(claims, meanwhile(self));
        self.came = come;
        answers
    }

    /// Replaces the consumer.
    pub(crate) async fn consumer_with(&mut self, env: &[(&str, &str)]) {
        assert_eq!(self.consumer.process.stop().await, 0);
        self.consumer = self.world.consume_with(env).await;
    }

    /// Waits until the consumer has logged this.
    pub(crate) async fn consumer_says(&self, what: &str) {
        let what_for = format!("the consumer says {what}");
        let says = async || self.consumer.process.log().contains(what);
        eventually(&what_for, LIMIT, says).await;
    }

    /// Waits for this many rows, with no claim in flight.
    pub(crate) async fn issued(&self, rows: usize) {
        all_issued(&self.world, self.coupon.drop, rows).await;
    }

    /// Runs a wave without a fault, then the fault, which is over when `fault` returns. Then all
    /// users claim until they get an answer, and exactly the promised rows must exist.
    pub(crate) async fn survives(mut self, fault: impl AsyncFnOnce(&mut Self)) {
        self.wave().await;
        // On a busy machine an impatient system may answer 503 without a fault.
        self.until_answered(WAVE).await;
        self.issued(WAVE).await;
        fault(&mut self).await;
        self.until_answered(self.users.len()).await;
        self.issued(QUANTITY).await;
        let quantity = u32::try_from(QUANTITY).unwrap();
        assert_exact(&self.world, &self.coupon, quantity).await;
        assert_nobody_is_listed(&self.world).await;
        for process in [
            &self.api.process,
            &self.consumer.process,
            &self.daemon.process,
        ] {
            assert_eq!(process.status(), None, "{}", process.log());
        }
    }

    /// Lets the first `users` users claim until each has a promise or `sold_out`.
    pub(crate) async fn until_answered(&self, users: usize) {
        let apis = || vec![ApiClient::clone(&self.api)];
        let users = self.users[..users].to_vec();
        rush_until_settled(apis, self.coupon.id, users, WAVE).await;
    }
}

/// Fails if a promise was ever listed as broken. Then waits until a deep pass finds nothing.
pub(crate) async fn assert_nobody_is_listed(world: &World) {
    let left = world.sql.query("SELECT * FROM broken_promises").await;
    assert!(left.is_empty(), "{left:?}");
    eventually("a deep pass finds nothing", LIMIT, async || {
        let once = world.once_with(&["--deep"], &[]).await;
        once.code == 0 && once.run().all_findings().count() == 0
    })
    .await;
}

pub(crate) async fn replication(server: &RedisServer) -> String {
    PrefixedKeys::new(&server.url(), "")
        .command(&["INFO", "replication"])
        .await
}

/// Waits until a replica of this master is online.
pub(crate) async fn follows(master: &RedisServer) {
    eventually("the replica follows", LIMIT, async || {
        replication(master).await.contains("state=online")
    })
    .await;
}
