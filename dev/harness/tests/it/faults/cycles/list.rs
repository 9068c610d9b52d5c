//! An API that dies while an allow list is changed.

use firstcome_harness::{LIMIT, all_issued, coupon_body, eventually, people, rush_until_answered};
use firstcome_shared::crash::Point;
use serde_json::json;

use super::environment::{Environment, dies_at};

const QUANTITY: u32 = 3;

/// One API dies while it adds three users to the list. Another API dies while it removes the last
/// of these users.
pub(super) async fn cycle(environment: &Environment, point: Point) {
    let world = &environment.world;
    let mut body = coupon_body("Members", QUANTITY, 0);
    body["allow"] = json!("list");
    let coupon = environment.api.create_coupon(&body).await;
    let users = people(3);
    for (some, on) in [(&users[..], true), (&users[2..], false)] {
        let crash = [("FIRSTCOME_CRASH_AT", point.name())];
        let api = world.serve_with(&crash).await;
        assert!(api.try_list(coupon.id, some, on).await.is_err());
        dies_at(&api.process, point).await;
    }
    // A pass ignores a change for two seconds, because an API may be about to write it to Redis.
    let age = "SELECT TIMESTAMPDIFF(MICROSECOND, allow_list_changed_at, UTC_TIMESTAMP(3)) FROM coupons WHERE id";
    let age = format!("{age} = {}", coupon.id);
    eventually("the change is two seconds old", LIMIT, async || {
        world.sql.number(&age).await >= 2_000_000
    })
    .await;
    environment.mend().await;
    let answers = rush_until_answered(&[&environment.api], coupon.id, &users, 1).await;
    let kept = &answers[..2];
    let promised = kept.iter().all(|one| one.1.promised().is_some());
    assert!(promised && answers[2].1.is("not_allowed"), "{answers:?}");
    all_issued(world, coupon.drop, 2).await;
    environment.count(&coupon, QUANTITY).await;
}
