//! A pass dies in the middle of its repairs.

use firstcome_shared::crash::Point;

use super::environment::{count, mend, must_die, pass_dies};
use crate::prelude::*;

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
        Point::EraBegun | Point::GateDue | Point::GateOpened => {
            &[Drift::RedisGate, Drift::SlotConflict]
        }
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

pub(super) async fn cycle(fixture: &Fixture, point: Point, cycle: usize) {
    let world = &fixture.world;
    let drifts = drifts(point);
    let drift = drifts[cycle % drifts.len()];
    // Promises can only be broken if no slot is free.
    let breaks = point == Point::BrokenListed;
    let quantity = if breaks { 6 } else { 12 };
    let coupon = fixture.api.open_coupon(quantity).await;
    rush_until_answered(&[&fixture.api], coupon.id, &people(6), 6).await;
    all_issued(world, coupon.drop, 6).await;

    let mut broken = Vec::new();
    for round in 0..2 {
        // First repairs what the last crash left. Injects more drift only if that repair does not
        // reach the crash point.
        if round == 0 || !pass_dies(world, point).await {
            let done = inject(world, &coupon, drift, 1).await;
            broken.extend(done.people.into_iter().map(|hit| hit.user));
            must_die(world, point, &format!("{drift:?}")).await;
        }
    }
    mend(world).await;
    let issued = rows(world, coupon.drop).await.len();
    assert!((6..=quantity as usize).contains(&issued), "{issued} rows");
    assert_settled(world, &coupon, quantity, issued).await;
    let listed = format!(
        "SELECT user_id FROM broken_promises WHERE drop_id = {} AND mended_at IS NULL ORDER BY 1",
        coupon.drop
    );
    broken.retain(|_| breaks);
    broken.sort();
    assert_eq!(world.sql.query(&listed).await.concat(), broken, "listed");
    count(world, &coupon, quantity).await;
}
