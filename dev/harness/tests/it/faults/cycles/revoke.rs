//! An API dies while a user returns a coupon.

use firstcome_harness::{Answer, PromisedAnswer, all_issued, assert_exact, people, rush};
use firstcome_shared::crash::Point;

use super::environment::{Environment, dies_at};

/// Three slots. Two users return theirs, and two others claim.
const QUANTITY: u32 = 3;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let (world, healthy) = (&environment.world, &environment.api);
    let coupon = healthy.open_coupon(QUANTITY).await;
    let users = people(3);
    let answers = rush(&[healthy], coupon.id, &users, 1).await;
    all_issued(world, coupon.drop, 3).await;
    for user in &users[..2] {
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        let api = world.serve_with(&crash).await;
        let returned = api.give_back(coupon.id, user).await;
        assert!(matches!(returned, Err(Answer::Unknown(_))), "{returned:?}");
        dies_at(&api.process, point).await;
    }
    environment.mend().await;
    let next = ["n-1", "n-2"].map(str::to_owned);
    let mut kept: Vec<PromisedAnswer> = answers[2..].to_vec();
    kept.extend(rush(&[healthy], coupon.id, &next, 1).await);
    let promised = kept.iter().filter(|one| one.1.promised().is_some());
    assert_eq!(promised.count(), 3, "{kept:?}");
    for user in &users[..2] {
        assert!(healthy.claim(coupon.id, user).await.is("revoked"));
        assert_eq!(healthy.me(coupon.id, user).await["status"], "revoked");
    }
    all_issued(world, coupon.drop, 3).await;
    assert_exact(world, &coupon, QUANTITY, &kept).await;
    environment.count(&coupon, QUANTITY, &kept).await;
}
