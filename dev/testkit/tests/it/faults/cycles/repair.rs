//! A pass dies in the middle of its repairs.

use firstcome_shared::crash::Point;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{MadeCoupon, all_issued, coupon_body, people, rows, rush};

use super::environment::Environment;
use crate::drift::support::{assert_settled, injector};

/// Kinds of drift whose repair reaches the crash point. If there are several, they alternate.
fn drifts(point: Point) -> &'static [Drift] {
    const PROJECTED: &[Drift] = &[
        Drift::RedisLost,
        Drift::MissingAdmission,
        Drift::SlotConflict,
        Drift::CountHigher,
        Drift::CountLower,
    ];
    match point {
        Point::DropLoaded | Point::PeopleRebuilt => PROJECTED,
        Point::PersonPromoted => &[Drift::Unfilled],
        Point::BrokenListed => &[
            Drift::SlotConflict,
            Drift::FailedSlotTaken,
            Drift::OverAdmitted,
        ],
        Point::RowReissued => &[Drift::FailedClaim],
        _ => &[
            Drift::Unissued,
            Drift::MissingAdmission,
            Drift::FailedClaim,
            Drift::SlotConflict,
            Drift::CountHigher,
            Drift::RedisLost,
            Drift::Unfilled,
            Drift::FailedSlotTaken,
            Drift::Unpublished,
        ],
    }
}

pub(super) async fn cycle(environment: &Environment, point: Point, cycle: usize) {
    let world = &environment.world;
    let drifts = drifts(point);
    let drift = drifts[cycle % drifts.len()];
    // Promises can only be broken if no slot is free.
    let (quantity, held) = if point == Point::BrokenListed {
        (6, 6)
    } else {
        (12, 6)
    };
    let coupon = environment
        .api
        .create_coupon(&coupon_body(
            &format!("{} {cycle}", point.name()),
            quantity,
            0,
        ))
        .await;
    let answers = rush(&[&environment.api], coupon.id, &people(held), 6).await;
    all_issued(world, coupon.drop, held).await;

    let mut broken = Vec::new();
    for _ in 0..2 {
        // First repairs what the last crash left. Injects more drift only if that repair does not
        // reach the crash point.
        if broken.is_empty() || !environment.pass_dies(point).await {
            broken.push(made(environment, &coupon, drift).await);
            assert!(
                environment.pass_dies(point).await,
                "{} was not reached with {drift:?}",
                point.name()
            );
        }
    }
    environment.mend().await;
    let issued = rows(world, coupon.drop).await.len();
    assert!(
        (held..=quantity as usize).contains(&issued),
        "{issued} rows"
    );
    assert_settled(world, &coupon, quantity, issued, &answers).await;
    let listed = format!(
        "SELECT user_id FROM broken_promises WHERE drop_id = {} AND mended_at IS NULL",
        coupon.drop
    );
    let mut listed = world.sql.query(&listed).await.concat();
    let mut broken = if point == Point::BrokenListed {
        broken.concat()
    } else {
        Vec::new()
    };
    listed.sort();
    broken.sort();
    assert_eq!(listed, broken, "users listed as broken");
    environment
        .count(&coupon, quantity as usize, &answers)
        .await;
}

/// Injects drift and returns the affected users.
async fn made(environment: &Environment, coupon: &MadeCoupon, drift: Drift) -> Vec<String> {
    let done = injector(&environment.world, coupon)
        .await
        .make(drift, 1)
        .await
        .unwrap_or_else(|e| panic!("{drift:?}: {e:#}"));
    done.people.into_iter().map(|hit| hit.user).collect()
}
