//! A pass that dies when it is about to open admission, or has just opened it.

use firstcome_drift::Kind as Drift;
use firstcome_shared::crash::Point;
use firstcome_testkit::{assert_exact, people, rush};

use super::stage::Stage;
use super::tally::Seen;
use crate::claims::many::all_issued;
use crate::drift::support::injector;

pub(super) async fn cycle(stage: &Stage, point: Point) -> Seen {
    let world = &stage.world;
    let coupon = stage.api.open_coupon(6).await;
    let mut answers = rush(&[&stage.api], coupon.id, &people(5), 5).await;
    all_issued(world, coupon.drop, 5).await;
    injector(world, &coupon).await.make(Drift::Unissued, 1).await.unwrap();
    for round in 0..2 {
        // Granted by the pass that died, it is there: then it is lost again.
        if round == 0 || point == Point::GateOpened {
            world.redis.command::<()>(&["SCRIPT", "FLUSH"]).await;
        }
        assert!(stage.api.claim(coupon.id, "u-6").await.is("unavailable"), "closed until verified");
        assert!(stage.pass_dies(point).await, "{} was not reached", point.name());
    }
    if point == Point::GateDue {
        assert!(stage.api.claim(coupon.id, "u-6").await.is("unavailable"), "it died before it opened");
    }
    stage.mend().await;
    answers.extend(rush(&[&stage.api], coupon.id, &["u-6".into()], 1).await);
    all_issued(world, coupon.drop, 6).await;
    assert_exact(world, &coupon, 6, &answers).await;
    stage.count(&coupon, 6, &answers).await
}
