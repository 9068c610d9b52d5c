//! All times and states that an API shows follow Redis's clock, by which drops open and close.

use firstcome_stack::Clocks;

use crate::prelude::*;

const HOURS: i64 = 7_200;

/// If two APIs disagreed, half of a crowd would have no button while the other half claims.
#[tokio::test]
async fn an_api_with_a_wrong_host_clock_shows_the_drop_state_that_claims_get() {
    let world = World::new("one-clock").await;
    world.set("COUPON_PAGE", "on");
    let clocks = Clocks::new().unwrap();
    let clock = clocks.clock("api").unwrap();
    let env = clock.env();
    let env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    let api = world.serve_with(&env).await;
    let coupon = api.open_coupon(100).await;
    let http = api.http();
    for (user, seconds) in [("u-back", -HOURS), ("u-ahead", HOURS), ("u-right", 0)] {
        clock.shift_ms(seconds * 1_000).unwrap();
        eventually("state, countdown and claims agree", LIMIT, async || {
            let shown = http.get(&format!("/v1/coupons/{}", coupon.id)).await.body;
            let page = http.get(&format!("/c/{}/state", coupon.id)).await.body;
            let now = world.redis.now_ms().await;
            let off = page["now_ms"].as_i64().unwrap_or(0) - now;
            let claim = api.claim(coupon.id, user).await;
            let is_promised = matches!(claim, Answer::Accepted { .. } | Answer::Already { .. });
            is_promised
                && off.abs() < 1_000
                && shown["current_drop"]["state"] == json!("open")
                && page["coupon"]["current_drop"]["state"] == json!("open")
        })
        .await;
    }
}
