//! MySQL is lost and replaced by a server restored from an older dump, with the commands of
//! OPERATIONS.

mod lost;

use std::collections::BTreeSet;

use firstcome_testkit::{MadeCoupon, all_issued, eventually, rush};
use serde_json::json;

use self::lost::Lost;
use crate::consumer::positions::any_pass;
use crate::drift::support::mailed;
use crate::faults::waves::HEALED;

#[tokio::test]
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

#[tokio::test]
async fn with_redis_empty_rows_are_restored_and_broken_promises_listed() {
    let mut lost = Lost::begin("restore-empty").await;
    lost.fixture.world.redis.command::<()>(&["FLUSHALL"]).await;
    assert!(
        lost.fixture
            .api
            .claim(lost.winter.id, "out-1")
            .await
            .is("unavailable"),
        "admission is closed until Redis is verified"
    );
    let _running = lost.restore(false).await;
    let world = &lost.fixture.world;
    let api = &lost.fixture.api;

    let named = |coupon: &MadeCoupon, people: &[&str]| {
        people
            .iter()
            .map(|p| (coupon.id, (*p).to_owned()))
            .collect()
    };
    let mut expected: BTreeSet<(i64, String)> = named(&lost.winter, &["late-1", "more-1"]);
    expected.extend(
        lost.spring_people
            .iter()
            .map(|user| (lost.spring.id, user.clone())),
    );
    eventually(
        "the remaining users are listed by name",
        HEALED,
        async || lost.left_by_name().await == expected,
    )
    .await;
    let findings = world.once_with(&[], &[]).await.run();
    let found: BTreeSet<_> = findings
        .all_findings()
        .filter_map(|f| Some((f.coupon_id?.0, f.user_id.clone()?)))
        .collect();
    assert_eq!(found, expected, "{findings:#?}");
    mailed(world, &["action needed"]).await;

    // Operators restore the quantity and the coupon from their own records.
    api.change(lost.winter.id, &json!({"quantity": 23})).await;
    let MadeCoupon { id, drop, .. } = lost.spring;
    for made in [
        format!(
            "INSERT INTO coupons (id, name, quantity, once_per) VALUES ({id}, 'Spring', 6, 'drop')"
        ),
        format!(
            "INSERT INTO drops (id, coupon_id, opens_at, quantity) VALUES ({drop}, {id}, '2026-01-01', 6)"
        ),
    ] {
        world.sql.query(&made).await;
    }
    eventually("every user has a row", HEALED, async || {
        lost.left_by_name().await.is_empty()
    })
    .await;
    let holders = |rows: &BTreeSet<Vec<String>>| -> BTreeSet<_> {
        rows.iter()
            .map(|row| (row[0].clone(), row[3].clone()))
            .collect()
    };
    let before = holders(&lost.before);
    let mut now = holders(&lost.rows().await);
    for (coupon, giver) in [
        (lost.winter.id, &lost.giver),
        (lost.spring.id, &lost.spring_people[0]),
    ] {
        assert!(
            now.remove(&(coupon.to_string(), giver.clone())),
            "the user who returned it holds it again"
        );
    }
    assert_eq!(now, before);
}
