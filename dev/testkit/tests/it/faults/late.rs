//! An operator's request stalls while Redis loses data, and continues afterwards with values that
//! are no longer valid.

use std::time::Duration;

use firstcome_stack::{FaultProxy, ProxyFault, RedisOptions, RedisServer};
use firstcome_testkit::{
    LIMIT, MadeCoupon, OldCopy, Once, World, WorldStores, all_issued, assert_exact, coupon_body,
    eventually, shared,
};
use serde_json::json;

/// Delays each chunk of data to a store, so that the test can stall a request between two chunks.
const SLOW: ProxyFault = ProxyFault::Delay(Duration::from_millis(300));

/// Settings of the process whose request stalls.
const PATIENT: [(&str, &str); 3] = [
    ("STORE_TIMEOUT_MS", "60000"),
    ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000"),
    ("FIRSTCOME_TEST_REQUEST_TIMEOUT_MS", "120000"),
];

async fn world_of_its_own(name: &str) -> (RedisServer, World) {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = World::on(WorldStores::shared().await.with_redis(&server), name).await;
    (server, world)
}

/// Runs a pass that skips the wait for claims in flight, because there are none.
async fn pass(world: &World, args: &[&str]) -> Once {
    let once = world
        .once_with(
            args,
            &[
                ("PUBLISH_DEADLINE_MS", "100"),
                ("FIRSTCOME_TEST_BACKUP_DEADLINE_MS", "100"),
            ],
        )
        .await;
    assert_eq!(once.code, 0, "{}", once.log);
    once
}

/// Waits until MySQL returns this value, then blocks the proxy.
async fn hold_up_after(world: &World, proxy: &FaultProxy, sql: &str, number: i64) {
    // A change has many statements, and each chunk of data is slow.
    eventually("MySQL has the value", 3 * LIMIT, async || {
        world.sql.number(sql).await == number
    })
    .await;
    proxy.set(ProxyFault::BlackHole).await.unwrap();
}

#[tokio::test]
async fn a_coupon_created_before_a_loss_is_not_opened_after_it_by_its_creator() {
    let (server, world) = world_of_its_own("late-new").await;
    let api = world.serve().await;
    let _consumer = world.consume().await;
    world.open().await;
    let proxy = server.proxy().await.unwrap();
    let url = server.url_via(&proxy);
    let env: Vec<_> = PATIENT
        .into_iter()
        .chain([("REDIS_URL", url.as_str())])
        .collect();
    let slow = world.serve_with(&env).await;
    let other = slow.open_coupon(5).await;
    proxy.set(SLOW).await.unwrap();
    let making = tokio::spawn({
        let slow = (*slow).clone();
        async move {
            let body = coupon_body("Late", 5, 0);
            slow.try_create_coupon(&body).await.unwrap()
        }
    });
    hold_up_after(&world, &proxy, "SELECT COUNT(*) FROM coupons", 2).await;

    // Other processes do not wait for the stalled request.
    let id = world
        .sql
        .number("SELECT id FROM coupons WHERE name = 'Late'")
        .await;
    pass(&world, &["--coupon", &id.to_string()]).await;
    let first = api.claim(id, "u-1").await;
    let (drop, slot) = first.promised().unwrap();
    assert_eq!(slot, 1);
    all_issued(&world, drop, 1).await;
    world.redis.command::<()>(&["FLUSHALL"]).await;
    pass(&world, &["--coupon", &other.id.to_string()]).await;
    assert!(
        api.claim(other.id, "u-1").await.is_accepted(),
        "the gate is open"
    );

    proxy.set(ProxyFault::Pass).await.unwrap();
    let late: MadeCoupon = making.await.unwrap();
    assert_eq!((late.id, late.drop), (id, drop));
    let second = api.claim(id, "u-2").await;
    assert!(
        second.is("unavailable"),
        "no pass has verified the coupon since the loss: {second:?}"
    );
    pass(&world, &[]).await;
    let second = api.claim(id, "u-2").await;
    all_issued(&world, drop, 2).await;
    assert_exact(
        &world,
        &late,
        2,
        &[("u-1".into(), first), ("u-2".into(), second)],
    )
    .await;
}

/// Reads the quantity of a drop from MySQL and from Redis.
async fn quantities(world: &World, coupon: &MadeCoupon) -> (i64, i64) {
    let sql = format!("SELECT quantity FROM drops WHERE id = {}", coupon.drop);
    let meta = world.redis.of_drop(coupon.id, coupon.drop, "meta");
    (
        world.sql.number(&sql).await,
        world.redis.command(&["HGET", &meta, "quantity"]).await,
    )
}

#[tokio::test]
async fn a_change_stalled_while_redis_is_rolled_back_does_not_undo_a_later_one() {
    let (server, world) = world_of_its_own("late-change").await;
    let api = world.serve().await;
    world.open().await;
    let proxy = shared().await.mysql.proxy().await.unwrap();
    let url = shared()
        .await
        .mysql
        .database_url_via(&proxy, world.database());
    let env: Vec<_> = PATIENT
        .into_iter()
        .chain([("DATABASE_URL", url.as_str())])
        .collect();
    let slow = world.serve_with(&env).await;
    let coupon = slow.open_coupon(100).await;
    let before = OldCopy::of(&server).unwrap();
    proxy.set(SLOW).await.unwrap();
    let changing = tokio::spawn({
        let slow = (*slow).clone();
        let id = coupon.id;
        async move { slow.patch(id, &json!({"quantity": 200})).await }
    });
    // MySQL's confirmation of the change is stalled.
    hold_up_after(&world, &proxy, "SELECT MAX(quantity) FROM drops", 200).await;
    api.change(coupon.id, &json!({"quantity": 100})).await;

    // Redis has the right quantity again, with a revision below that of the stalled change.
    server.kill().await.unwrap();
    before.put_back(&server).unwrap();
    server.start_again().await.unwrap();
    pass(&world, &[]).await;
    proxy.set(ProxyFault::Pass).await.unwrap();
    let reply = changing.await.unwrap();
    assert_eq!(
        (reply.status, quantities(&world, &coupon).await),
        (200, (100, 100)),
        "{reply:?}"
    );
}
