//! A pass that dies after it has closed a coupon, and just before or just after it opens it.

use firstcome_shared::crash::Point;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{all_issued, assert_exact, people, rush};

use super::environment::Environment;
use crate::drift::support::inject;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let coupon = environment.api.open_coupon(6).await;
    let mut answers = rush(&[&environment.api], coupon.id, &people(5), 5).await;
    all_issued(world, coupon.drop, 5).await;
    inject(world, &coupon, Drift::Unissued, 1).await;
    for round in 0..2 {
        // The crashed pass may have opened the gate, so the gate is deleted again.
        if round == 0 || point == Point::GateOpened {
            let gate = world.redis.gate(coupon.id);
            world.redis.command::<i64>(&["DEL", &gate]).await;
        }
        assert!(
            environment
                .api
                .claim(coupon.id, "u-6")
                .await
                .is("unavailable"),
            "admission is closed until Redis is verified"
        );
        assert!(
            environment.pass_dies(point).await,
            "{} was not reached",
            point.name()
        );
    }
    if point != Point::GateOpened {
        assert!(
            environment
                .api
                .claim(coupon.id, "u-6")
                .await
                .is("unavailable"),
            "the pass died before it opened admission"
        );
    }
    environment.mend().await;
    answers.extend(rush(&[&environment.api], coupon.id, &["u-6".into()], 1).await);
    all_issued(world, coupon.drop, 6).await;
    assert_exact(world, &coupon, 6, &answers).await;
    environment.count(&coupon, 6, &answers).await;
}
