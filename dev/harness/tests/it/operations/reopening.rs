//! After a restart of Redis, coupons reopen although a hanging change locks another coupon.

use crate::faults::waves::impatient;
use crate::prelude::*;

#[tokio::test]
async fn neither_a_hanging_change_nor_a_locked_drop_keeps_another_coupon_closed() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let world = impatient(WorldStores::shared().await.with_redis(&server), "hangs").await;
    // Longer than `innodb_lock_wait_timeout`, as in production.
    world.set("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "5000");
    let fixture = Fixture::of(world).await;
    let (changing, ones) = fixture.held("Changing", 10, 5).await;
    let (other, others) = fixture.held("Other", 20, 5).await;
    let (api, world) = (&fixture.api, &fixture.world);
    let _daemon = world.daemon().await;
    let mut change = HeldTransaction::begin(&world.sql).await;
    for (table, id) in [("drops", changing.drop), ("coupons", changing.id)] {
        let lock = format!("SELECT * FROM {table} WHERE id = {id} FOR UPDATE");
        change.run(&lock).await;
        server.restart().await.unwrap();
        api.until_promised(other.id, &others[0].0).await;
    }
    let closed = api.claim(changing.id, &ones[0].0).await;
    assert_eq!(closed.promised(), None, "{closed:?}");
    change.commit().await;
    api.until_promised(changing.id, &ones[0].0).await;
}
