//! Operators change the same coupon concurrently, during claims and repairs. In whatever order
//! their writes arrive, Redis ends with MySQL's settings, and no user is promised a slot beyond
//! them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use firstcome_stack::{FaultProxy, ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    ApiClient, Fixture, HeldTransaction, LIMIT, LOCK_WAITS, Running, World, WorldStores,
    all_issued, assert_exact, eventually, given_out, people, rush, scale::measured, shared, tally,
};
use serde_json::{Value, json};

/// Number of conflicting changes, by default and in `cargo xtask scale`.
const CHANGES: [u32; 2] = [60, 1_000];

/// Reads quantity and pause from MySQL and from Redis.
async fn settings(world: &World, coupon: &firstcome_testkit::MadeCoupon) -> ([i64; 2], [i64; 2]) {
    let paused = format!("SELECT paused FROM coupons WHERE id = {}", coupon.id);
    let quantity = format!("SELECT quantity FROM drops WHERE id = {}", coupon.drop);
    let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
    let in_redis: (i64, i64) = world
        .redis
        .command(&["HMGET", &meta, "quantity", "paused"])
        .await;
    (
        [
            world.sql.number(&quantity).await,
            world.sql.number(&paused).await,
        ],
        [in_redis.0, in_redis.1],
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn conflicting_changes_at_four_processes_promise_nothing_beyond_the_quantity() {
    let what = "people told yes beyond MySQL's quantity, 1,000 conflicting PATCHes at 4 processes beside claims";
    assert!(
        measured(what, CHANGES, "≤ 0", refused_a_row).await < 1.0,
        "somebody was refused a row"
    );
}

/// Returns the number of users who were promised a slot but refused a row during this many
/// conflicting changes.
#[allow(clippy::cast_precision_loss)] // a small count
async fn refused_a_row(changes: u32) -> f64 {
    let fixture = Fixture::new("operators").await;
    let world = &fixture.world;
    let redis = &shared().await.redis;
    let mut apis = vec![world.serve().await];
    let mut slow = Vec::new();
    for late in [15, 60] {
        let proxy = redis.proxy().await.unwrap();
        proxy
            .set(ProxyFault::Delay(Duration::from_millis(late)))
            .await
            .unwrap();
        apis.push(
            world
                .serve_with(&[("REDIS_URL", &redis.url_via(&proxy))])
                .await,
        );
        slow.push(proxy);
    }
    let coupon = fixture.api.open_coupon(100).await;
    let apis: Vec<&ApiClient> = [&*fixture.api]
        .into_iter()
        .chain(apis.iter().map(|api| &**api))
        .collect();
    let done = AtomicBool::new(false);
    let each = u64::from(changes) / 4;
    let operators = async {
        let every = apis.iter().enumerate().map(async |(at, api)| {
            let mut stood = 0_u64;
            for round in 0..each {
                // Quantities above and below the number of issued slots. Each process uses a
                // different step.
                let step = u64::from(rand::random::<u8>());
                let change = match (round + at as u64) % 3 {
                    0 => json!({"paused": round % 2 == 0}),
                    1 => json!({"quantity": 20 + step}),
                    _ => json!({"quantity": 20 + step, "paused": false}),
                };
                let status = api.patch(coupon.id, &change).await.status;
                assert!(matches!(status, 200 | 409 | 503), "{change}: {status}");
                stood += u64::from(status == 200);
            }
            stood
        });
        let stood: u64 = futures_util::future::join_all(every)
            .await
            .into_iter()
            .sum();
        done.store(true, Ordering::Relaxed);
        stood
    };
    let claims = async {
        let mut told = Vec::new();
        let mut number = 0;
        while !done.load(Ordering::Relaxed) {
            number += 1;
            let some: Vec<String> = (0..4).map(|at| format!("u-{number}-{at}")).collect();
            told.extend(rush(&apis, coupon.id, &some, 4).await);
        }
        told
    };
    let (stood, answers) = tokio::join!(operators, claims);
    let yes = answers
        .iter()
        .filter(|(_, answer)| answer.promised().is_some())
        .count();
    println!(
        "{stood} of {} changes stood, {yes} people were told yes",
        each * 4
    );
    assert!(stood >= each, "{stood} changes took effect");
    // No pass has run, so Redis still has the settings that the changes left.
    let (in_mysql, in_redis) = settings(world, &coupon).await;
    assert_eq!(in_mysql, in_redis, "quantity and pause");
    let written = format!(
        "SELECT (SELECT COUNT(*) FROM issued_coupons WHERE drop_id = {}) + COUNT(*) FROM failed_claims",
        coupon.drop
    );
    let yes = i64::try_from(yes).unwrap();
    eventually(
        "every promise has a row or was refused one",
        LIMIT,
        async || world.sql.number(&written).await >= yes,
    )
    .await;
    world.sql.number("SELECT COUNT(*) FROM failed_claims").await as f64
}

/// Starts an API that reaches Redis through a proxy and waits for slow answers.
async fn slow_api(world: &World) -> (Running<ApiClient>, FaultProxy) {
    let redis = &shared().await.redis;
    let proxy = redis.proxy().await.unwrap();
    let url = redis.url_via(&proxy);
    let env = [("REDIS_URL", url.as_str()), ("STORE_TIMEOUT_MS", "5000")];
    (world.serve_with(&env).await, proxy)
}

#[tokio::test]
async fn a_stalled_change_does_not_undo_a_later_one() {
    let fixture = Fixture::new("held-up").await;
    let world = &fixture.world;
    let (slow, proxy) = slow_api(world).await;
    let coupon = fixture.api.open_coupon(100).await;
    let delay = ProxyFault::Delay(Duration::from_millis(700));
    proxy.set(delay).await.unwrap();
    let raise = async {
        slow.patch(coupon.id, &json!({"quantity": 200, "paused": false}))
            .await
            .status
    };
    let lower = async {
        // MySQL has the raised quantity, Redis does not have it yet.
        let sql = format!("SELECT quantity FROM drops WHERE id = {}", coupon.drop);
        eventually("MySQL has the larger quantity", LIMIT, async || {
            world.sql.number(&sql).await == 200
        })
        .await;
        fixture
            .api
            .patch(coupon.id, &json!({"quantity": 100, "paused": true}))
            .await
            .status
    };
    // MySQL has the first change, but Redis already has the second.
    assert_eq!(tokio::join!(raise, lower), (503, 200));
    assert_eq!(settings(world, &coupon).await, ([100, 1], [100, 1]));
    assert!(fixture.api.claim(coupon.id, "u-late").await.is("paused"));
}

#[tokio::test]
async fn a_pause_that_finds_a_later_revision_in_redis_is_written_by_a_pass() {
    let fixture = Fixture::new("overtaken").await;
    let world = &fixture.world;
    let (slow, proxy) = slow_api(world).await;
    let coupon = fixture.api.open_coupon(100).await;
    let delay = ProxyFault::Delay(Duration::from_millis(500));
    proxy.set(delay).await.unwrap();
    let pause = async { slow.patch(coupon.id, &json!({"paused": true})).await.status };
    let overtake = async {
        let sql = format!("SELECT paused FROM coupons WHERE id = {}", coupon.id);
        eventually("MySQL has the pause", LIMIT, async || {
            world.sql.number(&sql).await == 1
        })
        .await;
        // Simulates a writer that allocated a later revision for another field or drop and then
        // died.
        let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
        let key = meta.replace(&format!("drop:{}:meta", coupon.drop), "revision");
        world
            .sql
            .query(&format!(
                "UPDATE coupons SET revision = 1000 WHERE id = {}",
                coupon.id
            ))
            .await;
        world.redis.command::<()>(&["SET", &key, "1000"]).await;
    };
    assert_eq!(tokio::join!(pause, overtake), (503, ()));
    world.pass().await;
    assert_eq!(settings(world, &coupon).await, ([100, 1], [100, 1]));
    assert!(fixture.api.claim(coupon.id, "u-late").await.is("paused"));
}

#[tokio::test]
async fn a_pause_during_a_rebuild_of_redis_stays_in_force() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(
        WorldStores::shared().await.with_redis(&server),
        "paused-meanwhile",
    )
    .await;
    let api = world.serve().await;
    world.open().await;
    let (coupon, answers) = given_out(&world, &api).await;
    api.change(coupon.id, &json!({"quantity": 25})).await;
    world.redis.command::<()>(&["FLUSHALL"]).await;
    let daemon = world
        .daemon_with(&[("RECONCILE_CRON", "0 0 0 1 1 *")])
        .await;
    eventually(
        "the daemon waits before it rebuilds Redis",
        LIMIT,
        async || {
            daemon
                .process
                .log()
                .contains("claims that may be on their way")
        },
    )
    .await;
    let paused: Value = api.patch(coupon.id, &json!({"paused": true})).await.body;
    assert_eq!(paused["current_drop"]["state"], "paused");
    eventually("admission is open again", LIMIT, async || {
        !api.claim(coupon.id, "u-late").await.is("unavailable")
    })
    .await;
    assert!(api.claim(coupon.id, "u-late").await.is("paused"));
    api.change(coupon.id, &json!({"paused": false})).await;
    assert!(api.claim(coupon.id, "u-late").await.promised().is_some());
    assert_eq!(daemon.process.stop().await, 0);
    let _consumer = world.consume().await;
    all_issued(&world, coupon.drop, 21).await;
    assert_exact(&world, &coupon, 21, &answers).await;
}

#[tokio::test]
async fn a_locked_coupon_row_delays_no_claims_and_no_other_changes() {
    let fixture = Fixture::new("op-locked").await;
    let world = &fixture.world;
    let patient = [
        ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000"),
        ("FIRSTCOME_TEST_REQUEST_TIMEOUT_MS", "60000"),
    ];
    let api = world.serve_with(&patient).await;
    let locked = api.open_coupon(20).await;
    let other = api.open_coupon(20).await;
    let mut session = HeldTransaction::begin(&world.sql).await;
    session
        .run(&format!(
            "SELECT * FROM coupons WHERE id = {} FOR UPDATE",
            locked.id
        ))
        .await;
    let change = || {
        let api = (*api).clone();
        let id = locked.id;
        tokio::spawn(async move { api.patch(id, &json!({"quantity": 25})).await.status })
    };
    let waiting = [change(), change(), change()];
    eventually("a change waits for the row", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
    for quantity in [30, 40] {
        api.change(other.id, &json!({"quantity": quantity})).await;
    }
    for coupon in [&locked, &other] {
        let answers = rush(&[&api], coupon.id, &people(20), 20).await;
        assert_eq!(tally(&answers), [("accepted".into(), 20)].into());
    }
    assert!(
        waiting.iter().all(|change| !change.is_finished()),
        "no change was applied while the row was locked"
    );
    session.commit().await;
    for change in waiting {
        assert_eq!(change.await.unwrap(), 200);
    }
    all_issued(world, locked.drop, 20).await;
    all_issued(world, other.drop, 20).await;
}
