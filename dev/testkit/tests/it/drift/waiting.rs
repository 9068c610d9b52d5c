//! The waiting list: freed slots go to users in order of arrival, never beyond the quantity, never
//! while paused.

use firstcome_reconciler::report::Status;
use firstcome_testkit::drift::Drift;
use firstcome_testkit::{Answer, Fixture, MadeCoupon, coupon_body, rows};
use serde_json::json;

use crate::drift::support::{assert_whole, clean_pass, injector};

/// The positions of the waiting users.
async fn stand(fixture: &Fixture, coupon: &MadeCoupon) -> Vec<String> {
    let mut words = Vec::new();
    for n in 1..=6 {
        let me = fixture.api.me(coupon.id, &format!("w-{n}")).await;
        words.push(match me["status"].as_str().unwrap() {
            "waiting" => "waiting".to_owned(),
            "issued" => format!("issued {}", me["slot"]),
            other => other.to_owned(),
        });
    }
    words
}

/// Takes one user's slot, as a support desk would.
async fn free_one(fixture: &Fixture, coupon: &MadeCoupon) -> i64 {
    let done = injector(&fixture.world, coupon)
        .await
        .make(Drift::Unfilled, 1)
        .await
        .unwrap();
    done.people[0].slot
}

#[tokio::test]
async fn waiting_users_are_promoted_in_order_and_never_beyond_the_quantity() {
    let fixture = Fixture::new("d-waiting").await;
    let (coupon, _) = fixture.held_of(&coupon_body("Line", 10, 6), 10).await;
    for place in 1..=6 {
        let answer = fixture.api.claim(coupon.id, &format!("w-{place}")).await;
        assert_eq!(answer, Answer::Waiting { position: place });
    }
    assert!(fixture.api.claim(coupon.id, "w-7").await.is("sold_out"));
    clean_pass(&fixture.world, &coupon).await;

    // The quantity is raised.
    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"quantity": 12}))
            .await
            .status,
        200
    );
    assert!(
        fixture.api.claim(coupon.id, "u-late").await.is("sold_out"),
        "waiting users go first"
    );
    assert_eq!(fixture.world.pass().await.status, Status::Repaired);
    assert_eq!(
        stand(&fixture, &coupon).await,
        [
            "issued 11",
            "issued 12",
            "waiting",
            "waiting",
            "waiting",
            "waiting"
        ]
    );
    assert_eq!(
        fixture.api.claim(coupon.id, "w-1").await,
        Answer::Already {
            drop: coupon.drop,
            slot: 11
        }
    );
    assert_eq!(
        fixture.api.claim(coupon.id, "w-3").await,
        Answer::Waiting { position: 1 }
    );
    assert_whole(&fixture.world, &coupon, 12, 12).await;
    clean_pass(&fixture.world, &coupon).await;

    // A slot is freed.
    let slot = free_one(&fixture, &coupon).await;
    assert_eq!(fixture.world.pass().await.status, Status::Repaired);
    assert_eq!(stand(&fixture, &coupon).await[2], format!("issued {slot}"));
    assert_whole(&fixture.world, &coupon, 12, 12).await;

    // Not while paused.
    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"paused": true}))
            .await
            .status,
        200
    );
    let slot = free_one(&fixture, &coupon).await;
    assert_eq!(fixture.world.pass().await.status, Status::Clean);
    assert_eq!(stand(&fixture, &coupon).await[3], "waiting");
    assert_eq!(
        fixture
            .api
            .patch(coupon.id, &json!({"paused": false}))
            .await
            .status,
        200
    );
    assert_eq!(fixture.world.pass().await.status, Status::Repaired);
    assert_eq!(stand(&fixture, &coupon).await[3], format!("issued {slot}"));
    assert_whole(&fixture.world, &coupon, 12, 12).await;

    // Also after it closed.
    let slot = free_one(&fixture, &coupon).await;
    close(&fixture, &coupon).await;
    assert!(fixture.api.claim(coupon.id, "w-late").await.is("closed"));
    assert_eq!(fixture.world.pass().await.status, Status::Repaired);
    let end = stand(&fixture, &coupon).await.split_off(4);
    assert_eq!(end[0], format!("issued {slot}"));
    // A late pass seals the drop, and nobody waits any longer.
    assert!(["waiting", "none"].contains(&&*end[1]), "{end:?}");
    assert_whole(&fixture.world, &coupon, 12, 12).await;
    assert_eq!(
        rows(&fixture.world, coupon.drop).await.len(),
        12,
        "never beyond the quantity"
    );
}

/// Closes the drop as of a second ago, in MySQL and in Redis.
async fn close(fixture: &Fixture, coupon: &MadeCoupon) {
    let close = format!(
        "UPDATE drops SET closes_at = UTC_TIMESTAMP(3) - INTERVAL 1 SECOND WHERE id = {}",
        coupon.drop
    );
    fixture.world.sql.query(&close).await;
    let at = format!(
        "SELECT CAST(ROUND(UNIX_TIMESTAMP(closes_at) * 1000) AS SIGNED) FROM drops WHERE id = {}",
        coupon.drop
    );
    let at = fixture.world.sql.number(&at).await.to_string();
    let meta = fixture.world.redis.of_drop(coupon.id, coupon.drop, "meta");
    fixture
        .world
        .redis
        .command::<i64>(&["HSET", &meta, "closes_at_ms", &at])
        .await;
}
