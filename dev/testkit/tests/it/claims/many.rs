//! Many concurrent claims: the slots never exceed the quantity, no user gets two, and every promise
//! has its row on its slot.

use firstcome_testkit::{
    all_issued, assert_clean, assert_exact, eventually, open_world, people, rush, tally,
};

/// Returns the number of users who compete for 500 slots. A release uses `CROWD=10000`.
fn crowd() -> usize {
    std::env::var("CROWD")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000)
}

#[tokio::test]
async fn a_drop_is_exact_after_thousands_of_claims_over_two_apis_and_consumers() {
    let (world, first) = open_world("two-apis").await;
    let second = world.serve().await;
    let consumers = [world.consume().await, world.consume().await];
    let coupon = first.open_coupon(500).await;
    eventually(
        "both APIs know the coupon",
        firstcome_testkit::LIMIT,
        async || {
            second
                .http()
                .get(&format!("/v1/coupons/{}", coupon.id))
                .await
                .status
                == 200
        },
    )
    .await;
    let answers = rush(&[&first, &second], coupon.id, &people(crowd()), 500).await;
    assert_eq!(
        tally(&answers),
        [("accepted".into(), 500), ("sold_out".into(), crowd() - 500)].into()
    );
    all_issued(&world, coupon.drop, 500).await;
    assert_exact(&world, &coupon, 500, &answers).await;
    drop(consumers);
    assert_clean(&world.pass().await, &coupon);
}
