//! An API that dies in the middle of a claim.

use firstcome_harness::{Answer, LIMIT, assert_exact, eventually, people, rows};
use firstcome_shared::crash::Point;
use firstcome_stack::ProxyFault;

use super::environment::{Environment, dies_at};

/// Three slots for four users.
const QUANTITY: u32 = 3;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(QUANTITY).await;
    let users = people(4);
    for round in 1..=2 {
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        let api = world.serve_with(&crash).await;
        environment.kafka_is(ProxyFault::BlackHole).await;
        // A user who got no answer claims again. If the user already holds a slot, the next user
        // reaches the crash point.
        for user in &users[..round] {
            let answer = api.until_answered(coupon.id, user).await;
            if matches!(answer, Answer::Unknown(_)) {
                break;
            }
        }
        dies_at(&api.process, point).await;
        environment.kafka_is(ProxyFault::Pass).await;
    }
    // A process that does not crash then answers all users.
    let mut last = Vec::new();
    for user in &users {
        last.push(environment.api.until_answered(coupon.id, user).await);
    }
    let promised = last.iter().filter(|answer| answer.promised().is_some());
    assert_eq!(promised.count(), 3, "{last:?}");
    assert!(last[3].is("sold_out"), "{last:?}");
    eventually("passes and the consumer issue all", LIMIT, async || {
        world.once_with(&[], &[]).await.code == 0 && rows(world, coupon.drop).await.len() == 3
    })
    .await;
    assert_exact(world, &coupon, QUANTITY).await;
    environment.count(&coupon, QUANTITY).await;
}
