//! An API dies while a user returns a coupon, or while an operator revokes it.

use firstcome_harness::{
    Answer, LIMIT, PromisedAnswer, World, all_issued, assert_exact, eventually, people,
    rush_until_answered,
};
use firstcome_shared::crash::Point;
use serde_json::json;

use super::environment::{Environment, dies_at};

/// Three slots. Two users return theirs, and two others claim; or two are revoked, and claim again.
const QUANTITY: u32 = 3;

pub(super) async fn cycle(environment: &Environment, point: Point) {
    let (world, healthy) = (&environment.world, &environment.api);
    let coupon = healthy.open_coupon(QUANTITY).await;
    let users = people(3);
    let answers = rush_until_answered(&[healthy], coupon.id, &users, 1).await;
    all_issued(world, coupon.drop, 3).await;
    let may_claim_again = point == Point::RevocationEnded;
    let order = json!({"reason": "by mistake", "by": "Ann", "may_claim_again": true});
    for user in &users[..2] {
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        let api = world.serve_with(&crash).await;
        let returned = if may_claim_again {
            api.revoke(coupon.id, user, &order).await
        } else {
            api.give_back(coupon.id, user).await
        };
        assert!(matches!(returned, Err(Answer::Unknown(_))), "{returned:?}");
        dies_at(&api.process, point).await;
    }
    until_left_to_passes(world).await;
    environment.mend().await;
    let next = if may_claim_again {
        [users[0].clone(), users[1].clone()]
    } else {
        ["n-1", "n-2"].map(str::to_owned)
    };
    let mut kept: Vec<PromisedAnswer> = answers[2..].to_vec();
    kept.extend(rush_until_answered(&[healthy], coupon.id, &next, 1).await);
    let promised = kept.iter().filter(|one| one.1.promised().is_some());
    assert_eq!(promised.count(), 3, "{kept:?}");
    let banned = if may_claim_again { 0 } else { 2 };
    for user in &users[..banned] {
        assert!(healthy.until_answered(coupon.id, user).await.is("revoked"));
        assert_eq!(healthy.me(coupon.id, user).await["status"], "revoked");
    }
    all_issued(world, coupon.drop, 3).await;
    assert_exact(world, &coupon, QUANTITY).await;
    environment.count(&coupon, QUANTITY).await;
}

/// Passes leave revocations of the last second, and their ends, to their APIs.
async fn until_left_to_passes(world: &World) {
    let young = "SELECT COUNT(*) FROM revoked_coupons WHERE \
                 COALESCE(again_from, revoked_at) > UTC_TIMESTAMP(3) - INTERVAL 2 SECOND";
    eventually("no revocation is young", LIMIT, async || {
        world.sql.number(young).await == 0
    })
    .await;
}
