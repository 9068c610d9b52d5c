//! A consumer that dies in the middle of a batch.

use firstcome_harness::{all_issued, assert_exact, people, rush_until_answered};
use firstcome_shared::crash::Point;

use super::environment::{Environment, dies_at};

/// Half of the users claim before the first crash, half before the second.
const QUANTITY: u32 = 6;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(QUANTITY).await;
    for some in people(6).chunks(3) {
        rush_until_answered(&[&environment.api], coupon.id, some, 3).await;
        // The same batch has a message that cannot become a row.
        let key = coupon.id.to_string();
        world.topic.produce(None, &key, b"not a claim").await;
        // The consumer gets its partitions once the group has noticed that the previous member is
        // dead.
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        dies_at(&world.start("firstcome-api", &["consume"], &crash), point).await;
    }
    let _consumer = world.consume().await;
    all_issued(world, coupon.drop, 6).await;
    assert_exact(world, &coupon, QUANTITY).await;
    // Only messages that are not claims count here, not dead letters with other reasons.
    let kept =
        "SELECT COUNT(*) FROM failed_claims WHERE resolved_at IS NULL AND reason = 'undecodable'";
    let kept = world.sql.number(kept).await;
    assert_eq!(kept, 2, "each message that is not a claim is stored once");
    environment.resolve_letters().await;
    environment.count(&coupon, QUANTITY).await;
}
