//! Several installations on the same servers: each has its own database, key prefix and topic
//! (docs/SETUP.md, "Several installations side by side").

use firstcome_shared::domain::CouponId;

use crate::prelude::*;

/// Deletes the first rows and the counter of a coupon's drop.
async fn damage(world: &World, coupon: i64, drop: i64) {
    let rows = format!("DELETE FROM issued_coupons WHERE drop_id = {drop} AND slot <= 3");
    world.sql.query(&rows).await;
    let count = world.redis.of_drop(coupon, drop, "count");
    let _: i64 = world.redis.command(&["DEL", &count]).await;
}

#[tokio::test]
async fn two_installations_on_the_same_servers_do_not_touch_each_other() {
    let (one, other) = tokio::join!(Fixture::new("d-side-a"), Fixture::new("d-side-b"));
    let (coupon, _) = one.held("Winter", 20, 12).await;
    let (beside, _) = other.held("Winter", 20, 5).await;
    let known = other.world.sql.number("SELECT COUNT(*) FROM coupons").await;
    assert_eq!(known, 1, "{:?}", CouponId(coupon.id));
    damage(&one.world, coupon.id, coupon.drop).await;
    pass_ends(&other.world, &[], CLEAN).await;
    assert_settled(&other.world, &beside, 20, 5).await;
    pass_ends(&one.world, &[], REPAIRED).await;
    all_issued(&one.world, coupon.drop, 12).await;
    assert_settled(&one.world, &coupon, 20, 12).await;
}
