//! Slots become free while users wait, or a quantity is raised. Waiting users get these slots
//! before newcomers: from the next pass, or from a running daemon within two seconds, whatever its
//! schedule. Scheduled passes run once a year here.

use chrono::{TimeDelta, Utc};
use firstcome_stack::Clocks;
use reqwest::Url;

use crate::prelude::*;

#[tokio::test]
async fn waiting_users_get_a_raised_quantity_in_order_from_the_next_pass() {
    // More than a pass promotes in one batch.
    const WAITING: u32 = 1_300;
    let fixture = Fixture::new("promotion").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, _) = fixture.held_of(&coupon_body("Line", 10, WAITING), 10).await;
    let line: Vec<String> = (0..WAITING).map(|n| format!("w-{n}")).collect();
    rush(&[api], coupon.id, &line, 100).await;
    let waiting = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    let line: Vec<String> = world.redis.command(&["ZRANGE", &waiting, "0", "-1"]).await;
    let newcomers: Vec<String> = (0..50).map(|n| format!("new-{n}")).collect();
    let all = 10 + WAITING as usize;
    let raised = async {
        api.change(coupon.id, &json!({"quantity": all})).await;
        world.once_with(&[], &[]).await;
        all_issued(world, coupon.drop, all).await;
    };
    let ((), newcomers) = tokio::join!(raised, rush(&[api], coupon.id, &newcomers, 5));
    let got = newcomers.iter().filter(|(_, answer)| answer.is_accepted());
    assert_eq!(got.count(), 0, "{newcomers:?}");
    let rows = rows(world, coupon.drop).await;
    assert!(rows.range(11..).map(|(_, user)| user).eq(&line));
}

async fn gets_row(world: &World, coupon: &MadeCoupon, user: &str) {
    let of = format!("drop_id = {} AND user_id = '{user}'", coupon.drop);
    let sql = format!("SELECT COUNT(*) FROM issued_coupons WHERE {of}");
    eventually("the next waiting user has the slot", LIMIT, async || {
        world.sql.number(&sql).await == 1
    })
    .await;
}

#[tokio::test]
async fn freed_and_added_slots_are_offered_at_once_whatever_the_schedule() {
    let fixture = Fixture::new("offered").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, holders) = fixture.held_of(&coupon_body("Line", 3, 9), 3).await;
    let _daemon = world.daemon().await;
    let wait: Vec<String> = (0..4).map(|n| format!("w-{n}")).collect();
    for user in &wait {
        api.claim(coupon.id, user).await;
    }
    let has_row = async |user: &str| gets_row(world, &coupon, user).await;
    let begun = Instant::now();
    api.give_back(coupon.id, &holders[0].0).await.unwrap();
    has_row(&wait[0]).await;
    let returned = begun.elapsed();
    let begun = Instant::now();
    api.revoke(coupon.id, &holders[1].0, &order(false))
        .await
        .unwrap();
    has_row(&wait[1]).await;
    let revoked = begun.elapsed();
    let begun = Instant::now();
    api.change(coupon.id, &json!({"quantity": 5})).await;
    has_row(&wait[3]).await;
    let raised = begun.elapsed();
    // A lease delays the slot until the lease ends, and the daemon keeps trying. A script that
    // meets a lease this long shortens it, so the value shows whether promotion met the lease.
    api.claim(coupon.id, "late").await;
    lease(world, &coupon).await;
    let begun = Instant::now();
    api.give_back(coupon.id, &holders[2].0).await.unwrap();
    has_row("late").await;
    let after_lease = begun.elapsed();
    assert!(is_lease_met(world, &coupon).await);
    let all = [returned, revoked, raised, after_lease];
    // The target is two seconds. A machine that stalls does not delay all of them.
    println!("returned, revoked, raised, leased: {all:?}");
    assert!(all.iter().min() < Some(&Duration::from_secs(5)), "{all:?}");
}

/// The last moment that a lease can name.
const NEVER: i64 = i64::MAX / 1_000_000;

/// Lets an API answer without Redis. The first script that meets a lease this long shortens it.
async fn lease(world: &World, coupon: &MadeCoupon) {
    let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
    let leased = ["HSET", &meta, "lease_until", &NEVER.to_string()];
    let _: i64 = world.redis.command(&leased).await;
}

async fn is_lease_met(world: &World, coupon: &MadeCoupon) -> bool {
    let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
    let until = ["HGET", &meta, "lease_until"];
    world.redis.command::<i64>(&until).await < NEVER
}

/// Without a daemon, no later pass gives it.
#[tokio::test]
async fn single_pass_gives_a_slot_once_the_lease_has_ended() {
    let fixture = Fixture::new("offered-once").await;
    let Fixture { api, world, .. } = &fixture;
    let (coupon, holders) = fixture.held_of(&coupon_body("Line", 1, 9), 1).await;
    api.claim(coupon.id, "next").await;
    api.give_back(coupon.id, &holders[0].0).await.unwrap();
    lease(world, &coupon).await;
    world.once_with(&[], &[]).await;
    assert!(is_lease_met(world, &coupon).await);
    assert!(is_promised(&fixture, &coupon, "next").await);
}

/// A reopening may take long: it waits for claims in flight, and for a partition that no consumer
/// reads. A lane records what it has done beside its work.
#[tokio::test]
async fn freed_slot_is_offered_during_a_reopening_and_if_no_offer_can_be_recorded() {
    let fixture = Fixture::new("offered-beside").await;
    let Fixture { api, world, .. } = &fixture;
    world.set("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000");
    let (coupon, holders) = fixture.held_of(&coupon_body("Line", 3, 9), 3).await;
    let _daemon = world.daemon().await;
    for next in ["w-0", "w-1", "w-2"] {
        api.claim(coupon.id, next).await;
    }
    let offer = async |number: usize| {
        api.give_back(coupon.id, &holders[number].0).await.unwrap();
        gets_row(world, &coupon, &format!("w-{number}")).await;
    };
    let mut reopening = HeldTransaction::begin(&world.sql).await;
    let lock = "DO GET_LOCK(LEFT(CONCAT('firstcome-reopening:', DATABASE()), 64), 0)";
    reopening.run(lock).await;
    offer(0).await;
    let mut recording = HeldTransaction::begin(&world.sql).await;
    recording.run("LOCK TABLES reconcile_runs WRITE").await;
    let begun = Instant::now();
    offer(1).await;
    offer(2).await;
    let offered = begun.elapsed();
    recording.run("UNLOCK TABLES").await;
    assert!(offered < Duration::from_secs(30), "{offered:?}");
}

/// Slots of a coupon whose comparison takes seconds.
const MANY: u32 = 1_000_000;

/// Returns the settings of a daemon whose MySQL takes this long for each answer.
async fn slow_mysql(world: &World, answer: Duration) -> (FaultProxy, String) {
    let mut url = Url::parse(&world.setting("DATABASE_URL")).unwrap();
    let proxy = FaultProxy::start(url.port().unwrap()).await.unwrap();
    proxy.set(ProxyFault::Delay(answer / 2)).await.unwrap();
    url.set_port(Some(proxy.port())).unwrap();
    (proxy, url.to_string())
}

/// Creates a coupon with one holder, one waiting user, and many slots that were given back. No
/// daemon may run.
async fn large_with_a_waiting_user(fixture: &Fixture) -> MadeCoupon {
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, _) = fixture.held_of(&coupon_body("Large", 1, 9), 1).await;
    api.claim(coupon.id, "w-large").await;
    api.change(coupon.id, &json!({"quantity": MANY})).await;
    let key = |name: &str| world.redis.of_drop(coupon.id, coupon.drop, name);
    let free = "for slot = tonumber(ARGV[1]), tonumber(ARGV[2]) do \
        redis.call('ZADD', KEYS[2], slot, slot) end \
        redis.call('SET', KEYS[1], ARGV[2]) return 1";
    // During a call, Redis answers no other test.
    for from in (2..=MANY).step_by(5_000) {
        let (from, to) = (from.to_string(), MANY.min(from + 4_999).to_string());
        let fill = ["EVAL", free, "2", &key("count"), &key("free"), &from, &to];
        let _: i64 = world.redis.command(&fill).await;
    }
    coupon
}

async fn is_promised(fixture: &Fixture, coupon: &MadeCoupon, user: &str) -> bool {
    let me = fixture.api.me(coupon.id, user).await;
    ["accepted", "issued"].contains(&me["status"].as_str().unwrap_or_default())
}

/// The lanes of promotions and reopenings end once they have given or opened. They leave comparing
/// to the sweep.
#[tokio::test]
async fn slot_is_offered_and_coupon_reopened_soon_whatever_the_largest_coupon_does() {
    let fixture = Fixture::new("offered-small").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (small, holders) = fixture.held_of(&coupon_body("Small", 1, 9), 1).await;
    api.claim(small.id, "w-small").await;
    let large = large_with_a_waiting_user(&fixture).await;
    let (_slow, url) = slow_mysql(world, Duration::from_millis(20)).await;
    let _daemon = world.daemon_with(&[("DATABASE_URL", &url)]).await;
    let waiting = world.redis.of_drop(large.id, large.drop, "waiting");
    eventually("the lane works on the large coupon", LIMIT, async || {
        world.redis.command::<u32>(&["EXISTS", &waiting]).await == 0
    })
    .await;
    let begun = Instant::now();
    api.give_back(small.id, &holders[0].0).await.unwrap();
    eventually(
        "the small coupon's user is promised it",
        LIMIT,
        async || is_promised(&fixture, &small, "w-small").await,
    )
    .await;
    let offered = begun.elapsed();

    close(world, &large).await;
    api.until_promised(large.id, "newcomer").await;
    close(world, &small).await;
    let begun = Instant::now();
    api.until_promised(small.id, "w-small").await;
    let reopened = begun.elapsed();
    let swept = sweep_took(world).await;
    println!("offered after {offered:?}, reopened after {reopened:?}, swept in {swept:?}");
    assert!(offered < swept / 2, "{offered:?} of {swept:?}");
    // The wait for claims in flight does not depend on the machine.
    let reopened = reopened.saturating_sub(Duration::from_millis(3_250));
    assert!(reopened < swept / 2, "{reopened:?} of {swept:?}");
}

/// How long the daemon took to compare all coupons when it started: the measure of what a lane
/// must not do, on a machine of any speed.
async fn sweep_took(world: &World) -> Duration {
    let took = "SELECT TIMESTAMPDIFF(MICROSECOND, started_at, finished_at) FROM reconcile_runs \
        WHERE triggered_by = 'startup' AND finished_at IS NOT NULL";
    let took = eventually_some("the first sweep is over", LIMIT, async || {
        let rows = world.sql.query(took).await;
        rows.concat().pop().ok_or("it runs")
    })
    .await;
    Duration::from_micros(took.parse().unwrap())
}

/// Drops open by Redis's clock. The clocks of MySQL and of the daemon's host may differ from it.
#[tokio::test]
async fn freed_slot_is_offered_in_a_drop_that_is_open_by_the_clock_of_redis_alone() {
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("redis").unwrap();
    clock.shift_ms(7_200_000).unwrap();
    let redis = RedisServer::start(RedisOptions {
        env: clock.env().into(),
        ..RedisOptions::default()
    });
    let redis = redis.await.unwrap();
    let stores = WorldStores::shared().await.with_redis(&redis);
    let world = World::on(stores, "offered-clock").await;
    let fixture = Fixture::of(world).await;
    let Fixture { api, world, .. } = &fixture;
    let mut body = coupon_body("Line", 1, 9);
    body["schedule"]["opens_at"] = json!(Utc::now() + TimeDelta::hours(1));
    let (coupon, holders) = fixture.held_of(&body, 1).await;
    let _daemon = world.daemon().await;
    api.claim(coupon.id, "next").await;
    api.give_back(coupon.id, &holders[0].0).await.unwrap();
    gets_row(world, &coupon, "next").await;
}
