//! Operators change the same coupon concurrently, during claims and repairs. In whatever order
//! their writes arrive, Redis ends with MySQL's settings, and no user is promised a slot beyond
//! them.

use firstcome_testkit::{
    Fixture, HeldTransaction, LIMIT, LOCK_WAITS, all_issued, eventually, people, rush, tally,
};
use serde_json::json;

#[tokio::test]
async fn a_locked_coupon_row_delays_no_claims_and_no_other_changes() {
    let fixture = Fixture::new("op-locked").await;
    let world = &fixture.world;
    let patient = [
        ("FIRSTCOME_TEST_DATABASE_TIMEOUT_MS", "60000"),
        ("FIRSTCOME_TEST_REQUEST_TIMEOUT_MS", "60000"),
    ];
    let api = world.serve_with(&patient).await;
    let locked = api.open_coupon(20).await;
    let other = api.open_coupon(20).await;
    let mut session = HeldTransaction::begin(&world.sql).await;
    session
        .run(&format!(
            "SELECT * FROM coupons WHERE id = {} FOR UPDATE",
            locked.id
        ))
        .await;
    let change = || {
        let api = (*api).clone();
        let id = locked.id;
        tokio::spawn(async move { api.patch(id, &json!({"quantity": 25})).await.status })
    };
    let waiting = [change(), change(), change()];
    eventually("a change waits for the row", LIMIT, async || {
        world.sql.number(LOCK_WAITS).await > 0
    })
    .await;
    for quantity in [30, 40] {
        api.change(other.id, &json!({"quantity": quantity})).await;
    }
    for coupon in [&locked, &other] {
        let answers = rush(&[&api], coupon.id, &people(20), 20).await;
        assert_eq!(tally(&answers), [("accepted".into(), 20)].into());
    }
    assert!(
        waiting.iter().all(|change| !change.is_finished()),
        "no change was applied while the row was locked"
    );
    session.commit().await;
    for change in waiting {
        assert_eq!(change.await.unwrap(), 200);
    }
    all_issued(world, locked.drop, 20).await;
    all_issued(world, other.drop, 20).await;
}
