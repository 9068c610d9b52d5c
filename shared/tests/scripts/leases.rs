//! Leases: how long they last, and what must not happen while an API answers without Redis.

use std::collections::BTreeSet;
use std::ops::{Deref, DerefMut};
use std::time::Duration;

use firstcome_shared::domain::{DropId, OncePer};
use firstcome_shared::redis::Redis;
use firstcome_shared::redis::admission::{Admission, Candidates, LeaseReply};
use firstcome_shared::redis::keys::DropKeys;
use firstcome_stack::{Clocks, ProcessClock, RedisServer, eventually};
use proptest::prelude::*;
use proptest::test_runner::TestCaseError;

use crate::command::{FencedCommand, ScriptCommand, Start};
use crate::gate::{ask, replica_of};
use crate::model::Model;
use crate::world::{ScriptWorld, connect, server_with};

const LIMIT: Duration = Duration::from_secs(20);

/// The time at which every history begins, by Redis's clock.
pub(crate) const BEGUN_AT_MS: i64 = 1_800_000_000_000;

/// A drop on a Redis whose clock moves only by commands.
pub(crate) struct TimedWorld<'a> {
    world: ScriptWorld,
    clock: &'a ProcessClock,
    now_ms: i64,
}

impl Deref for TimedWorld<'_> {
    type Target = ScriptWorld;

    fn deref(&self) -> &ScriptWorld {
        &self.world
    }
}

impl DerefMut for TimedWorld<'_> {
    fn deref_mut(&mut self) -> &mut ScriptWorld {
        &mut self.world
    }
}

impl<'a> TimedWorld<'a> {
    pub(crate) async fn open(
        url: &str,
        coupon: i64,
        start: &Start,
        clock: &'a ProcessClock,
    ) -> Self {
        clock.stop_at_ms(BEGUN_AT_MS).unwrap();
        Self {
            world: ScriptWorld::open(url, coupon, start).await,
            clock,
            now_ms: BEGUN_AT_MS,
        }
    }

    /// Applies a command. Returns the result in words, and the admission of each user.
    pub(crate) async fn apply(&mut self, command: &ScriptCommand) -> (String, Vec<Admission>) {
        match command {
            ScriptCommand::Wait(ms) => self.now_ms += ms,
            ScriptCommand::SetBack(ms) => self.now_ms -= ms,
            other => return self.world.apply(other).await,
        }
        self.clock.stop_at_ms(self.now_ms).unwrap();
        (String::new(), Vec::new())
    }
}

/// The end of the lease as the APIs count it, by a clock that is never set back.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    now_ms: i64,
    end_ms: i64,
}

impl Leases {
    /// Checks that no slot is given while an API may answer `sold_out` without Redis. Skips leases
    /// that began before the coupon was closed, because a gate stays closed for longer than they
    /// last, or before a key was lost, which may have contained their end.
    pub(crate) fn judge(
        &mut self,
        command: &ScriptCommand,
        answer: &str,
        admissions: &[Admission],
        model: &Model,
    ) -> Result<(), TestCaseError> {
        match command {
            ScriptCommand::Wait(ms) => self.now_ms += ms,
            ScriptCommand::Lease(_) if answer.contains("lease") => {
                let left = model.lease_left();
                self.end_ms = self.end_ms.max(self.now_ms + left);
            }
            ScriptCommand::Close | ScriptCommand::Tamper(_) => self.end_ms = 0,
            _ => {}
        }
        let is_given = admissions
            .iter()
            .any(|admission| matches!(admission, Admission::Accepted(_)));
        let promotes = matches!(
            command,
            ScriptCommand::Fenced(FencedCommand::Promote(_)) if answer.starts_with("Done([(")
        );
        let is_leased = self.now_ms < self.end_ms;
        prop_assert!(
            !is_leased || !(is_given || promotes),
            "{command:?} gave a slot during a lease"
        );
        Ok(())
    }
}

const NEXT: DropId = DropId(4);

/// Starts a Redis whose clock stands still, with a coupon of one slot that `a` has.
async fn sold_out(once_per: OncePer) -> (Clocks, RedisServer, ScriptWorld) {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    let server = server_with(&clock).await;
    clock.stop_at_ms(BEGUN_AT_MS).unwrap();
    let mut world = ScriptWorld::open(&server.url(), 1, &Start::new(1, once_per, 0)).await;
    assert_eq!(world.claims("a").await, "[Accepted(1)]");
    (clocks, server, world)
}

/// Asks for a lease with a claim of `b`, who gets `sold_out`. Returns the lease.
async fn lease(world: &ScriptWorld, second: Option<&DropKeys>) -> Option<LeaseReply> {
    let candidates = Candidates {
        first: &world.keys,
        second,
    };
    let said = world.admissions(candidates, "b", true).await.unwrap();
    assert_eq!(said.replies, [Some(Admission::SoldOut)]);
    said.lease
}

/// Windows are in milliseconds from now.
#[tokio::test]
async fn lease_ends_before_its_drop_closes_and_before_another_one_may_answer() {
    const LONG: [i64; 2] = [-60_000, 60_000];
    let per_drop = OncePer::Drop;
    for (once_per, own, next, left) in [
        (per_drop, LONG, None, Some(200)),
        (per_drop, [-60_000, 50], None, Some(50)),
        (per_drop, LONG, Some([30, 90_000]), Some(30)),
        (per_drop, LONG, Some([60_000, 90_000]), Some(200)),
        // The neighbour's holders may be retrying.
        (per_drop, [-1_000, 60_000], Some([-60_000, -1_000]), None),
        (
            per_drop,
            [-16_000, 60_000],
            Some([-60_000, -16_000]),
            Some(200),
        ),
        (OncePer::Coupon, LONG, None, Some(200)),
        (OncePer::Coupon, LONG, Some([60_000, 90_000]), None),
    ] {
        let (_clocks, server, world) = sold_out(once_per).await;
        let next_keys = world.redis.keys(world.coupon, NEXT);
        ask::<bool>(&server, &["COPY", &world.keys.meta, &next_keys.meta]).await;
        for (keys, window) in [(&world.keys, Some(own)), (&next_keys, next)] {
            for (field, ms) in ["opens_at_ms", "closes_at_ms"]
                .iter()
                .zip(window.unwrap_or(LONG))
            {
                let at = (BEGUN_AT_MS + ms).to_string();
                ask::<i64>(&server, &["HSET", &keys.meta, field, &at]).await;
            }
        }
        let granted = lease(&world, next.map(|_| &next_keys)).await;
        let granted = granted.map(|lease| lease.left.as_millis());
        assert_eq!(granted, left, "{once_per:?}, {own:?}, {next:?}");
    }
}

#[tokio::test]
async fn user_with_a_claim_of_another_drop_prevents_a_lease() {
    let (_clocks, server, world) = sold_out(OncePer::Coupon).await;
    ask::<i64>(&server, &["HSET", &world.keys.claimants, "c", "99:1"]).await;
    assert_eq!(lease(&world, None).await, None);
}

#[tokio::test]
async fn lease_is_not_replicated_and_a_redis_that_refuses_writes_grants_none() {
    let (_clocks, server, mut world) = sold_out(OncePer::Drop).await;
    let replica = replica_of(&server).await;
    assert!(lease(&world, None).await.is_some());
    let end = ["HGET", &world.keys.meta, "lease_until"];
    assert!(ask::<Option<i64>>(&server, &end).await.is_some());
    world.revoke('a', 1, None).await;
    eventually("the replica has the free slot", LIMIT, async || {
        ask::<i64>(&replica, &["ZCARD", &world.keys.free]).await > 0
    })
    .await;
    assert_eq!(ask::<Option<i64>>(&replica, &end).await, None);
    let withheld = world.claims("b").await;
    assert_eq!(withheld, "[SoldOut]", "the slot is free, but leased");

    let (_clocks, server, world) = sold_out(OncePer::Drop).await;
    let refuse = ["CONFIG", "SET", "min-replicas-to-write", "1"];
    ask::<()>(&server, &refuse).await;
    assert_eq!(lease(&world, None).await, None);
}

#[tokio::test]
async fn holder_pages_are_complete_and_come_only_from_a_master_with_an_open_gate() {
    let (_clocks, server, mut world) = sold_out(OncePer::Drop).await;
    let add = "for i = 2, 4500 do redis.call('ZADD', KEYS[1], i, 'u-' .. i) end redis.call('SET', KEYS[2], 4500)";
    let keys = world.keys.clone();
    ask::<()>(&server, &["EVAL", add, "2", &keys.users, &keys.count]).await;
    ask::<i64>(&server, &["HSET", &keys.meta, "quantity", "4500"]).await;
    let version = lease(&world, None).await.unwrap().version;
    let mut users = BTreeSet::new();
    for after in [0, 2_000, 4_000] {
        let page = world.redis.holders_page(&keys, world.era, after).await;
        let page = page.unwrap().unwrap();
        assert_eq!((page.version, page.count), (version, 4_500));
        users.extend(page.users);
    }
    assert_eq!(users.len(), 4_500);

    let is_read = async |redis: &Redis, era| {
        let page = redis.holders_page(&keys, era, 0).await;
        page.unwrap().is_some()
    };
    assert!(is_read(&world.redis, world.era).await);
    let replica = replica_of(&server).await;
    assert!(!is_read(&connect(&replica.url()), world.era).await);
    assert!(!is_read(&world.redis, world.era + 1).await);
    world.close().await;
    assert!(
        !is_read(&world.redis, world.era).await,
        "the gate is closed"
    );
}
