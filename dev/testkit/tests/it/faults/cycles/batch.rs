//! A consumer that dies in the middle of a batch.

use firstcome_shared::crash::Point;
use firstcome_testkit::{PromisedAnswer, all_issued, assert_exact, people, rush};

use super::environment::{Environment, dies_at};

/// Half of the users claim before the first crash, half before the second.
const QUANTITY: u32 = 6;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(QUANTITY).await;
    let mut answers: Vec<PromisedAnswer> = Vec::new();
    for some in people(6).chunks(3) {
        answers.extend(rush(&[&environment.api], coupon.id, some, 3).await);
        // The same batch has a message that cannot become a row.
        world
            .topic
            .produce(None, &coupon.id.to_string(), b"not a claim")
            .await;
        // The consumer gets its partitions once the group has noticed that the previous member is
        // dead.
        let consumer = world.start(
            "firstcome-api",
            &["consume"],
            &[("FIRSTCOME_CRASH_AT", point.name())],
        );
        dies_at(&consumer, point).await;
    }
    let consumer = world.consume().await;
    all_issued(world, coupon.drop, 6).await;
    assert_eq!(
        consumer.process.stop().await,
        0,
        "{}",
        consumer.process.log()
    );
    assert_exact(world, &coupon, QUANTITY, &answers).await;
    // On a busy machine the API also stores claims here that Kafka acknowledges late. They do not
    // count.
    let kept =
        "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL AND reason = 'undecodable'";
    assert_eq!(
        world.sql.number(kept).await,
        2,
        "each message that is not a claim is stored once"
    );
    world
        .sql
        .query("UPDATE failed_claims SET resolved_at = UTC_TIMESTAMP(3), resolution = 'by_hand'")
        .await;
    environment
        .count(&coupon, QUANTITY as usize, &answers)
        .await;
}
