//! The test kit's own check of a drop rejects every kind of wrong drop and accepts a correct one.

use std::panic::AssertUnwindSafe;

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
    let spoils = [
        (
            "a row is lost",
            "DELETE FROM issued_coupons WHERE slot = 3".to_owned(),
        ),
        (
            "a row is another's",
            "UPDATE issued_coupons SET user_id = 'u-9' WHERE slot = 3".to_owned(),
        ),
        // The schema refuses these rows, so its guards are dropped below.
        (
            "one too many",
            format!(
                "INSERT INTO issued_coupons ({row}) SELECT drop_id, 6, coupon_id, 'u-6', 'X', claimed_at, issued_at, issued_by, slot_limit, person_scope FROM issued_coupons WHERE slot = 5"
            ),
        ),
        (
            "a slot left out",
            "UPDATE issued_coupons SET slot = 6 WHERE slot = 5".to_owned(),
        ),
        (
            "a user twice",
            "UPDATE issued_coupons SET user_id = 'u-1' WHERE slot = 5".to_owned(),
        ),
        (
            "a code twice",
            "UPDATE issued_coupons SET code = 'X' WHERE slot > 3".to_owned(),
        ),
    ];
    world
        .sql
        .query(&format!(
            "CREATE TABLE kept AS SELECT {row} FROM issued_coupons"
        ))
        .await;
    let guards = "DROP CHECK issued_coupons_slot, DROP FOREIGN KEY issued_coupons_limit";
    world
        .sql
        .query(&format!("ALTER TABLE issued_coupons {guards}"))
        .await;
    world
        .sql
        .query(
            "ALTER TABLE issued_coupons ADD INDEX (coupon_id), DROP INDEX issued_coupons_one_each",
        )
        .await;
    for (what, sql) in spoils {
        world.sql.query(&sql).await;
        assert!(!is_exact(&world, &coupon, &answers).await, "{what}");
        world.sql.query("DELETE FROM issued_coupons").await;
        world
            .sql
            .query(&format!(
                "INSERT INTO issued_coupons ({row}) SELECT {row} FROM kept"
            ))
            .await;
        assert!(
            is_exact(&world, &coupon, &answers).await,
            "after {what} was undone"
        );
    }

    let key = |name: &str| world.redis.of_drop(coupon.id, coupon.drop, name);
    let users = key("users");
    let count = key("count");
    let free = key("free");
    let spoils = [
        (
            vec!["ZREM", &users, "u-3"],
            vec!["ZADD", &users, "3", "u-3"],
        ),
        (
            vec!["ZADD", &users, "4", "u-3"],
            vec!["ZADD", &users, "3", "u-3"],
        ),
        (vec!["SET", &count, "6"], vec!["SET", &count, "5"]),
        (vec!["DEL", &count], vec!["SET", &count, "5"]),
        (vec!["ZADD", &free, "5", "5"], vec!["DEL", &free]),
    ];
    for (spoil, undo) in spoils {
        world
            .redis
            .command::<firstcome_shared::redis::Value>(&spoil)
            .await;
        assert!(!is_exact(&world, &coupon, &answers).await, "{spoil:?}");
        world
            .redis
            .command::<firstcome_shared::redis::Value>(&undo)
            .await;
        assert!(is_exact(&world, &coupon, &answers).await, "after {undo:?}");
    }

    let mut told_wrong = answers.clone();
    let other = told_wrong[1].1.clone();
    told_wrong[0].1 = other;
    assert!(
        !is_exact(&world, &coupon, &told_wrong).await,
        "promised another slot"
    );
    let mut told_more = answers.clone();
    told_more.push(("u-99".into(), answers[0].1.clone()));
    assert!(
        !is_exact(&world, &coupon, &told_more).await,
        "promised without a row"
    );
}
