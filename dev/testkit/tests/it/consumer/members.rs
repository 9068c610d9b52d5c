//! Static members of the consumer group.

use firstcome_testkit::{LIMIT, all_issued, assert_exact, open_world, people, rush};

#[tokio::test]
async fn the_first_of_two_consumers_with_the_same_name_exits_with_a_reason() {
    let (world, api) = open_world("fenced").await;
    world.set("KAFKA_PROPERTIES", "group.instance.id=one");
    let first = world.consume().await;
    let _second = world.consume().await;
    assert_eq!(first.process.ended(LIMIT).await, 1);
    let log = first.process.log();
    let says = |line: &str| {
        line.contains("\"one\"")
            && line.contains("give each consumer a different group.instance.id in KAFKA_PROPERTIES")
    };
    assert!(log.lines().any(says) && !log.contains("panicked"), "{log}");
    let coupon = api.open_coupon(100).await;
    let answers = rush(&[&api], coupon.id, &people(100), 50).await;
    all_issued(&world, coupon.drop, 100).await;
    assert_exact(&world, &coupon, 100, &answers).await;
}
