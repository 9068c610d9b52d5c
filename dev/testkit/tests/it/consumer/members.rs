//! Static members of the consumer group.

use std::time::Duration;

use firstcome_testkit::{LIMIT, all_issued, assert_exact, eventually, open_world, people, rush};

#[tokio::test]
async fn a_restarted_static_member_keeps_its_partitions_without_a_rebalance() {
    let (world, api) = open_world("static-member").await;
    // Longer than the test takes, so that no other member takes over the partitions.
    let [as_one, as_other] =
        ["one", "other"].map(|name| format!("session.timeout.ms=60000; group.instance.id={name}"));
    let one = world.consume_with(&[("KAFKA_PROPERTIES", &as_one)]).await;
    let other = world.consume_with(&[("KAFKA_PROPERTIES", &as_other)]).await;
    let coupon = api.open_coupon(400).await;
    let mut answers = rush(&[&api], coupon.id, &people(200), 50).await;
    all_issued(&world, coupon.drop, 200).await;
    // The assignments of this consumer: first no partitions, because the other consumer had all of
    // them, then the partitions that the other one gave up.
    let rebalances = async || {
        other
            .metric("firstcome_consumer_rebalances_total", &[])
            .await
    };
    eventually("both consumers have partitions", LIMIT, async || {
        rebalances().await == Some(2.0)
    })
    .await;
    assert_eq!(one.process.stop().await, 0);
    let users: Vec<String> = (0..200).map(|n| format!("later-{n}")).collect();
    answers.extend(rush(&[&api], coupon.id, &users, 50).await);
    let begun = std::time::Instant::now();
    let _one = world.consume_with(&[("KAFKA_PROPERTIES", &as_one)]).await;
    all_issued(&world, coupon.drop, 400).await;
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    assert_eq!(rebalances().await, Some(2.0));
    assert_exact(&world, &coupon, 400, &answers).await;
}

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
