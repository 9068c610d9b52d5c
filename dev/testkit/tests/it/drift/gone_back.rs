//! MySQL goes back in time through manual changes, and Redis restores the lost data.
//! `faults::mysql_failover` covers a replica that takes over.

use firstcome_reconciler::report::Kind;
use firstcome_testkit::{
    Fixture, all_issued, assert_exact, assert_nothing_found, kinds, people, rush,
};
use serde_json::json;

#[tokio::test]
async fn a_mysql_that_lost_a_raised_quantity_breaks_no_promise() {
    let fixture = Fixture::new("gone-back").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, mut answers) = fixture.held("Raised", 10, 10).await;
    api.change(coupon.id, &json!({"quantity": 20})).await;
    answers.extend(rush(&[&**api], coupon.id, &people(20)[10..], 10).await);
    all_issued(world, coupon.drop, 20).await;
    for sql in [
        format!(
            "DELETE FROM issued_coupons WHERE drop_id = {} AND slot > 10",
            coupon.drop
        ),
        format!("UPDATE drops SET quantity = 10 WHERE id = {}", coupon.drop),
        format!(
            "UPDATE coupons SET quantity = 10, revision = 1 WHERE id = {}",
            coupon.id
        ),
    ] {
        world.sql.query(&sql).await;
    }
    let once = world.once_with(&[], &[]).await;
    assert_eq!(
        kinds(&once.run()),
        [(Kind::CountMismatch, 1), (Kind::Unissued, 10)].into(),
        "{}",
        once.log
    );
    assert_exact(world, &coupon, 20, &answers).await;
    assert_nothing_found(&world.pass().await);
}

/// Redis applies the revocation with a user's highest revision number.
#[tokio::test]
async fn a_user_revoked_after_mysql_lost_their_last_revocation_is_refused() {
    let fixture = Fixture::new("gone-back-revoked").await;
    let world = &fixture.world;
    let api = &fixture.api;
    let (coupon, held) = fixture.held("Revoked", 10, 5).await;
    let user = &held[0].0;
    api.give_back(coupon.id, &held[1].0).await.unwrap();
    let again = json!({"reason": "by mistake", "by": "Kim", "may_claim_again": true});
    api.revoke(coupon.id, user, &again).await.unwrap();
    assert!(api.claim(coupon.id, user).await.is_accepted());
    all_issued(world, coupon.drop, 4).await;
    world.sql.query("DELETE FROM revoked_coupons").await;
    api.revoke(coupon.id, user, &json!({"reason": "fraud", "by": "Kim"}))
        .await
        .unwrap();
    assert!(api.claim(coupon.id, user).await.is("revoked"));
    api.give_back(coupon.id, &held[2].0).await.unwrap();
    assert!(api.claim(coupon.id, &held[2].0).await.is("revoked"));
}
