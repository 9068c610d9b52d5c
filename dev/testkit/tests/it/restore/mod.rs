//! MySQL is lost and replaced by a server restored from an older dump, with the commands of
//! OPERATIONS.

mod lost;

use std::collections::BTreeSet;

use firstcome_testkit::{all_issued, eventually, rush};
use serde_json::json;

use self::lost::Lost;
use crate::drift::support::any_pass;

use crate::faults::waves::HEALED;

#[tokio::test]
#[ignore = "release"]
async fn with_redis_intact_everything_is_restored_except_a_new_coupons_name() {
    let mut lost = Lost::begin("restore-whole").await;
    let during = rush(
        &[&lost.fixture.api],
        lost.winter.id,
        &["out-1".into(), "out-2".into()],
        2,
    )
    .await;
    assert!(
        during.iter().all(|(_, answer)| answer.is_accepted()),
        "claims continue while MySQL is down: {during:?}"
    );
    let _running = lost.restore(true).await;
    let world = &lost.fixture.world;
    let api = &lost.fixture.api;

    all_issued(world, lost.winter.drop, 23).await;
    let rows = lost.rows().await;
    assert!(
        rows.is_superset(&lost.before),
        "{:?}",
        lost.before.difference(&rows).collect::<Vec<_>>()
    );
    assert_eq!(
        rows.len(),
        lost.before.len() + 2,
        "the two from the outage have rows too"
    );
    assert_eq!(lost.left_by_name().await, BTreeSet::new());
    eventually("passes find nothing else", HEALED, async || {
        any_pass(world).await.all_findings().next().is_none()
    })
    .await;

    assert!(api.claim(lost.winter.id, &lost.giver).await.is("revoked"));
    assert!(
        api.claim(lost.spring.id, &lost.spring_people[0])
            .await
            .is("revoked")
    );
    let winter = api.coupon(lost.winter.id).await;
    assert_eq!(
        (&winter["quantity"], &winter["name"]),
        (&json!(23), &json!("Winter"))
    );
    let spring = api.coupon(lost.spring.id).await;
    assert_eq!(
        (&spring["quantity"], &spring["paused"]),
        (&json!(6), &json!(true)),
        "{spring}"
    );
}
