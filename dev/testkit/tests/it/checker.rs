//! The test kit's own check of a drop rejects every kind of wrong drop and accepts a correct one.

use std::panic::AssertUnwindSafe;

use firstcome_shared::redis::Value;
use firstcome_testkit::{
    MadeCoupon, PromisedAnswer, World, all_issued, assert_exact, open_world, people, rush,
};
use futures_util::FutureExt as _;

async fn is_exact(world: &World, coupon: &MadeCoupon, answers: &[PromisedAnswer]) -> bool {
    AssertUnwindSafe(assert_exact(world, coupon, 5, answers))
        .catch_unwind()
        .await
        .is_ok()
}

#[tokio::test]
async fn a_spoiled_drop_is_never_reported_as_exact() {
    let (world, api) = open_world("checker").await;
    let _consumer = world.consume().await;
    let coupon = api.open_coupon(5).await;
    let answers = rush(&[&api], coupon.id, &people(5), 1).await;
    all_issued(&world, coupon.drop, 5).await;
    assert!(is_exact(&world, &coupon, &answers).await);

    let row = "drop_id, slot, coupon_id, user_id, code, claimed_at, issued_at, issued_by, slot_limit, person_scope";
    let copy = format!("CREATE TABLE kept AS SELECT {row} FROM issued_coupons");
    world.sql.query(&copy).await;
    // The schema refuses most of the wrong rows, so its guards are dropped.
    let guards = "DROP CHECK issued_coupons_slot, DROP FOREIGN KEY issued_coupons_limit, \
                  ADD INDEX (coupon_id), DROP INDEX issued_coupons_one_each";
    world
        .sql
        .query(&format!("ALTER TABLE issued_coupons {guards}"))
        .await;
    for spoil in [
        "DELETE FROM issued_coupons WHERE slot = 3",
        "UPDATE issued_coupons SET user_id = 'u-9' WHERE slot = 3",
        "UPDATE issued_coupons SET slot = 6 WHERE slot = 5",
        "UPDATE issued_coupons SET user_id = 'u-1' WHERE slot = 5",
        "UPDATE issued_coupons SET code = 'X' WHERE slot > 3",
    ] {
        world.sql.query(spoil).await;
        assert!(!is_exact(&world, &coupon, &answers).await, "{spoil}");
        world.sql.query("DELETE FROM issued_coupons").await;
        let restore = format!("INSERT INTO issued_coupons ({row}) SELECT {row} FROM kept");
        world.sql.query(&restore).await;
    }
    let key = |name: &str| world.redis.of_drop(coupon.id, coupon.drop, name);
    let [users, count, free] = ["users", "count", "free"].map(key);
    for (spoil, undo) in [
        (
            vec!["ZREM", &users, "u-3"],
            vec!["ZADD", &users, "3", "u-3"],
        ),
        (
            vec!["ZADD", &users, "4", "u-3"],
            vec!["ZADD", &users, "3", "u-3"],
        ),
        (vec!["SET", &count, "6"], vec!["SET", &count, "5"]),
        (vec!["ZADD", &free, "5", "5"], vec!["DEL", &free]),
    ] {
        world.redis.command::<Value>(&spoil).await;
        assert!(!is_exact(&world, &coupon, &answers).await, "{spoil:?}");
        world.redis.command::<Value>(&undo).await;
    }
    assert!(is_exact(&world, &coupon, &answers).await, "all is undone");
    let mut wrong = answers.clone();
    wrong[0].1 = answers[1].1.clone();
    assert!(
        !is_exact(&world, &coupon, &wrong).await,
        "promised another slot"
    );
    let mut wrong = answers.clone();
    wrong.push(("u-99".into(), answers[0].1.clone()));
    assert!(
        !is_exact(&world, &coupon, &wrong).await,
        "promised without a row"
    );
}
