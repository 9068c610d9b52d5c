//! Many concurrent claims: never too many, one each, and every promise has its row on its slot.

use firstcome_testkit::{
    PromisedAnswer, all_issued, assert_clean, assert_exact, eventually, open_world, people, rush,
    tally,
};

/// All slots, which must be distinct.
fn accepted_slots(answers: &[PromisedAnswer]) -> Vec<u32> {
    let accepted = answers.iter().filter(|(_, answer)| answer.is_accepted());
    let mut slots: Vec<u32> = accepted
        .filter_map(|(_, answer)| answer.promised())
        .map(|(_, slot)| slot)
        .collect();
    slots.sort_unstable();
    slots
}

/// Number of people who compete for five hundred coupons; `CROWD=10000` for a release.
fn crowd() -> usize {
    std::env::var("CROWD")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(2_000)
}

#[tokio::test]
async fn five_hundred_for_thousands_over_two_apis_and_consumers_are_exact() {
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

#[tokio::test]
async fn concurrent_coupons_do_not_mix() {
    let (world, api) = open_world("several").await;
    let _consumers = [world.consume().await, world.consume().await];
    let mut all = Vec::new();
    for quantity in [7, 30, 64] {
        all.push((api.open_coupon(quantity).await, quantity));
    }
    let users = people(100);
    let rushes = all
        .iter()
        .map(|(coupon, _)| rush(&[&api], coupon.id, &users, 50));
    let answers = futures_util::future::join_all(rushes).await;
    for ((coupon, quantity), answers) in all.iter().zip(&answers) {
        all_issued(&world, coupon.drop, *quantity as usize).await;
        assert_eq!(accepted_slots(answers), (1..=*quantity).collect::<Vec<_>>());
        assert_exact(&world, coupon, *quantity, answers).await;
    }
}
