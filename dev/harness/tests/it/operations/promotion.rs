//! A quantity is raised while users wait: the next pass gives them the new slots, before newcomers.

use firstcome_harness::{Fixture, all_issued, coupon_body, rows, rush};
use serde_json::json;

#[tokio::test]
async fn waiting_users_get_a_raised_quantity_in_order_from_the_next_pass() {
    // More than a pass promotes in one batch.
    const WAITING: u32 = 1_300;
    let fixture = Fixture::new("promotion").await;
    let (api, world) = (&fixture.api, &fixture.world);
    let (coupon, _) = fixture.held_of(&coupon_body("Line", 10, WAITING), 10).await;
    let line: Vec<String> = (0..WAITING).map(|n| format!("w-{n}")).collect();
    rush(&[api], coupon.id, &line, 100).await;
    let waiting = world.redis.of_drop(coupon.id, coupon.drop, "waiting");
    let line: Vec<String> = world.redis.command(&["ZRANGE", &waiting, "0", "-1"]).await;
    let newcomers: Vec<String> = (0..50).map(|n| format!("new-{n}")).collect();
    let all = 10 + WAITING as usize;
    let raised = async {
        api.change(coupon.id, &json!({"quantity": all})).await;
        world.once_with(&[], &[]).await;
        all_issued(world, coupon.drop, all).await;
    };
    let ((), newcomers) = tokio::join!(raised, rush(&[api], coupon.id, &newcomers, 5));
    let got = newcomers.iter().filter(|(_, answer)| answer.is_accepted());
    assert_eq!(got.count(), 0, "{newcomers:?}");
    let rows = rows(world, coupon.drop).await;
    assert!(rows.range(11..).map(|(_, user)| user).eq(&line));
}
